//! From the store into the lines: the window of references (PROTOCOL O2 to O4). The one way in which a job goes out,
//! whether it was just enqueued, became due, is retried, or was lost by the broker.

use std::{
    collections::{BTreeMap, HashMap},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use robata_core::{
    ExecutorName, Result,
    job::Line,
    part::{jittered, words},
    queue::{BrokerKey, Message, Queue},
    store::{Hint, LineRecord, Published, Store, Void, Window},
};
use tokio::{sync::Notify, time::Instant};

use crate::{
    lines::Lines,
    metrics::METRICS,
    part::{backoff, within},
};

/// How often every line is looked at without a hint.
const SWEEP: Duration = Duration::from_secs(2);
/// The window's bounds.
const WINDOW: std::ops::RangeInclusive<usize> = 32..=5_000;
/// References in one publish.
const BATCH: usize = 500;
/// A publication is never presumed lost before this age.
const PRESUMED_LOST: Duration = Duration::from_secs(60);
/// References presumed lost that go out again in one sweep: at most 1,000 a second.
const AGAIN: usize = 2_000;

#[derive(Debug)]
pub(crate) struct Outbox {
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    state: Mutex<State>,
    patience: Duration,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Lines to look at, and those that rest.
    lines: Lines,
    /// Hints may have been missed: all lines are to be looked at.
    missed: bool,
    /// Each line's broker key as it was seen last.
    keys: HashMap<Line, BrokerKey>,
    /// Slots of live workers that take jobs.
    slots: BTreeMap<ExecutorName, usize>,
}

impl Outbox {
    pub(crate) fn new(store: Arc<dyn Store>, queue: Arc<dyn Queue>, patience: Duration) -> Self {
        Self {
            store,
            queue,
            state: Mutex::default(),
            patience,
            wake: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears which lines have something to go out.
    pub(crate) async fn listen(&self) {
        loop {
            let mut hints = self.store.hints();
            while let Some(hint) = hints.next().await {
                match hint {
                    Hint::Line(line) => self.state().lines.hint(line),
                    Hint::Gap => self.state().missed = true,
                    _ => continue,
                }
                self.wake.notify_one();
            }
            tokio::time::sleep(jittered(SWEEP)).await;
        }
    }

    /// Sends out, for ever.
    pub(crate) async fn serve(&self) {
        let mut next_sweep = Instant::now();
        let mut unread = backoff();
        // The line that came first the last time.
        let mut first: Option<Line> = None;
        loop {
            let missed = std::mem::take(&mut self.state().missed);
            if missed || next_sweep <= Instant::now() {
                match self.sweep().await {
                    Ok(()) => {
                        unread = backoff();
                        next_sweep = Instant::now() + jittered(SWEEP);
                    }
                    Err(error) => {
                        METRICS.error("outbox");
                        tracing::warn!(error = %error.full(), "cannot read the lines");
                        next_sweep = Instant::now() + unread.next();
                    }
                }
            }
            let (mut dirty, rested) = self.state().lines.take();
            // What a limit over several lines leaves does not always go to the same one.
            let after = dirty.partition_point(|line| first.as_ref().is_some_and(|first| line <= first));
            dirty.rotate_left(after);
            first = dirty.first().cloned().or(first);
            for line in dirty {
                self.fill_or_rest(&line).await;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(rested.map_or(next_sweep, |rested| rested.min(next_sweep))) => {}
            }
        }
    }

    /// Fills a line's window. What goes wrong with one line, a panic too, is no other line's fault.
    async fn fill_or_rest(&self, line: &Line) {
        let why = match AssertUnwindSafe(self.fill(line)).catch_unwind().await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.full(),
            Err(panic) => format!("panicked: {}", words(&*panic)),
        };
        METRICS.error("outbox");
        let rest = self.state().lines.failed(line);
        tracing::warn!(%line, error = why, again_in_ms = millis(rest), "cannot send out");
    }

    async fn within<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        within(self.patience, operation, call).await
    }

    /// Looks at every line that has queued jobs: keys, losses, slots.
    async fn sweep(&self) -> Result<()> {
        let mut slots: BTreeMap<ExecutorName, usize> = BTreeMap::new();
        for worker in self
            .within("store.workers", self.store.workers())
            .await?
            .into_iter()
            .filter(|worker| worker.ended_at.is_none() && !worker.draining)
        {
            for (name, executor) in worker.executors {
                *slots.entry(name).or_default() += executor.slots as usize;
            }
        }
        self.state().slots = slots;
        let lines = self.within("store.lines", self.store.lines()).await?;
        // A key is kept for lines that have something out; the others are asked anew when they have.
        {
            let is_there = |line: &Line| lines.iter().any(|record| record.line == *line);
            let mut state = self.state();
            state.keys.retain(|line, _| is_there(line));
            state.lines.retain(is_there);
        }
        for record in lines {
            let line = record.line.clone();
            let rests = {
                let mut state = self.state();
                state.lines.hint(line.clone());
                state.lines.rests(&line)
            };
            // Asked what is out in it, a line that fails would keep the others waiting as much as when it is sent to.
            if record.published == 0 || rests {
                continue;
            }
            let looked = AssertUnwindSafe(self.find_lost(&record)).catch_unwind().await;
            let why = match looked {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.full(),
                Err(panic) => format!("panicked: {}", words(&*panic)),
            };
            METRICS.error("outbox");
            let rest = self.state().lines.failed(&line);
            tracing::warn!(%line, error = why, again_in_ms = millis(rest), "cannot see what became of what is out");
        }
        Ok(())
    }

    /// Voids what was lost of a line, so that it goes out again.
    async fn find_lost(&self, record: &LineRecord) -> Result<()> {
        let line = &record.line;
        self.check_key(line).await?;
        let old = record.oldest_publication.unwrap_or_default() >= PRESUMED_LOST;
        // Old publications of a line that moves are only waiting for their turn.
        if old && self.is_drained(line).await? {
            let void = Void::OlderThan {
                age: PRESUMED_LOST,
                max: AGAIN,
            };
            let again = self.within("store.void", self.store.void(line, void)).await?;
            METRICS.void(line, again);
            if again > 0 {
                tracing::warn!(%line, again, "references were lost; they go out again");
            }
        }
        Ok(())
    }

    /// Whether nothing waits in the line while somebody waits for it: then what the store calls published is lost.
    ///
    /// What a receiver has had for so long without a claim counts as lost, too: a claim takes milliseconds, a receiver
    /// that went away may never give it back, and a reference that comes twice loses its second claim. PROTOCOL's other sign,
    /// that later references were claimed, is not looked for (ARCHITECTURE.md says why).
    async fn is_drained(&self, line: &Line) -> Result<bool> {
        let depth = self.within("queue.depth", self.queue.depth(line)).await?;
        Ok(depth.waiting == 0 && depth.receivers.is_none_or(|receivers| receivers > 0))
    }

    /// The line's broker key; where it has changed, what went out under another one is void.
    async fn check_key(&self, line: &Line) -> Result<BrokerKey> {
        let key = self.within("queue.broker_key", self.queue.broker_key(line)).await?;
        let known = self.state().keys.get(line) == Some(&key);
        if !known {
            let void = Void::OtherKey(key.clone());
            let void = self.within("store.void", self.store.void(line, void)).await?;
            METRICS.void(line, void);
            if void > 0 {
                tracing::info!(%line, void, "the broker is another one; what was out in the line goes out again");
            }
            self.state().keys.insert(line.clone(), key.clone());
        }
        Ok(key)
    }

    /// Fills a line's window.
    async fn fill(&self, line: &Line) -> Result<()> {
        let slots = self.state().slots.get(&line.executor).copied().unwrap_or(0);
        let size = (4 * slots).clamp(*WINDOW.start(), *WINDOW.end());
        let mut is_first = true;
        loop {
            let window = Window {
                line: line.clone(),
                size,
            };
            let references = self.within("store.references", self.store.references(window));
            // A key that changes meanwhile makes void what goes out now, and it goes out again.
            let (references, broker_key) = tokio::join!(references, self.check_key(line));
            let references = references?;
            if std::mem::take(&mut is_first) {
                self.state().lines.looked(line, !references.is_empty());
            }
            if references.is_empty() {
                return Ok(());
            }
            let broker_key = broker_key?;
            for batch in references.chunks(BATCH) {
                // Where it falls meanwhile, they are not noted as out, and go out again.
                let format = self.store.format();
                let messages = batch
                    .iter()
                    .map(|reference| Message {
                        body: reference.encode(format),
                        ..Message::default()
                    })
                    .collect();
                self.within("queue.publish", self.queue.publish(line, messages)).await?;
                METRICS.published(line, batch.len());
                // A crash between the two sends them out twice; the second claim loses its race.
                let published = Published {
                    line: line.clone(),
                    broker_key: broker_key.clone(),
                    references: batch.to_vec(),
                    format,
                };
                self.within("store.published", self.store.published(published)).await?;
                self.state().lines.served(line);
            }
            if references.len() < size {
                return Ok(());
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

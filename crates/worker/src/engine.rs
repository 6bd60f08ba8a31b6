//! One executor as a worker uses it: its realm, its slots, and one watcher that turns events into states.
//!
//! Events say only that something happened; the watcher then looks at all such things in one call. An attempt's task
//! waits on its own channel and never asks the engine how it is.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use robata_core::{
    ExecutorName, Timestamp,
    executor::{Event, Executor, Handle, RealmId, Target, ThingState},
};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{backoff::Backoff, clock::wall_time, slots::Slots};

/// Things looked at in one call.
const BATCH: usize = 500;

/// An executor of this worker.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) name: ExecutorName,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) slots: Slots,
    pub(crate) max_slots: usize,
    /// Places for starts that wait for capacity or the engine.
    pub(crate) waiting: Slots,
    /// Starts under way at once.
    pub(crate) starts: Semaphore,
    realm: watch::Sender<Option<RealmId>>,
    watched: Mutex<Watched>,
    dirty: Notify,
    /// Something may have been left behind: the clean-up need not wait for its time.
    pub(crate) left_behind: Notify,
    /// Milliseconds by which the engine's clock is ahead of ours.
    ahead_millis: AtomicI64,
}

#[derive(Debug, Default)]
struct Watched {
    things: HashMap<Handle, watch::Sender<Option<ThingState>>>,
    dirty: HashSet<Handle>,
}

/// A subscription to one thing; ends with its value.
#[derive(Debug)]
pub(crate) struct Watch {
    engine: Arc<Engine>,
    handle: Handle,
    states: watch::Receiver<Option<ThingState>>,
}

impl Watch {
    /// The next state that was seen; the first one is looked for at once.
    pub(crate) async fn next(&mut self) -> ThingState {
        loop {
            if self.states.changed().await.is_err() {
                // The same thing is watched anew by the task that took this one's place.
                std::future::pending::<()>().await;
            }
            if let Some(state) = self.states.borrow_and_update().clone() {
                return state;
            }
        }
    }

    /// Has the thing looked at again.
    pub(crate) fn look(&self) {
        self.engine.mark([self.handle.clone()]);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.engine.watched();
        // Another task may watch the same thing by now.
        let ours = watched
            .things
            .get(&self.handle)
            .is_some_and(|sender| sender.receiver_count() <= 1);
        if ours {
            watched.things.remove(&self.handle);
        }
    }
}

impl Engine {
    pub(crate) fn new(name: ExecutorName, executor: Arc<dyn Executor>, slots: usize) -> Self {
        let parallel = executor.capabilities().parallel_starts;
        Self {
            name,
            slots: Slots::new(slots),
            max_slots: slots,
            waiting: Slots::new(slots),
            starts: Semaphore::new(if parallel == 0 {
                Semaphore::MAX_PERMITS
            } else {
                parallel
            }),
            realm: watch::Sender::new(None),
            watched: Mutex::default(),
            dirty: Notify::new(),
            left_behind: Notify::new(),
            ahead_millis: AtomicI64::new(0),
            executor,
        }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The realm's identity, once it was reached.
    pub(crate) fn realm(&self) -> Option<RealmId> {
        self.realm.borrow().clone()
    }

    pub(crate) fn realm_changes(&self) -> watch::Receiver<Option<RealmId>> {
        self.realm.subscribe()
    }

    /// Subscribes to a thing.
    pub(crate) fn watch(self: &Arc<Self>, handle: &Handle) -> Watch {
        let mut watched = self.watched();
        let sender = watched
            .things
            .entry(handle.clone())
            .or_insert_with(|| watch::Sender::new(None));
        let mut states = sender.subscribe();
        states.mark_unchanged();
        drop(watched);
        self.mark([handle.clone()]);
        Watch {
            engine: Arc::clone(self),
            handle: handle.clone(),
            states,
        }
    }

    fn mark(&self, handles: impl IntoIterator<Item = Handle>) {
        let mut watched = self.watched();
        for handle in handles {
            if watched.things.contains_key(&handle) {
                watched.dirty.insert(handle);
            }
        }
        self.dirty.notify_one();
    }

    fn mark_all(&self) {
        let mut watched = self.watched();
        watched.dirty = watched.things.keys().cloned().collect();
        self.dirty.notify_one();
    }

    /// Finds the realm and keeps states up to date until told to stop.
    pub(crate) async fn run(self: Arc<Self>, sweep_every: Duration, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = async { tokio::join!(self.find_realm(), self.listen(), self.look(), self.sweep(sweep_every)); } => {}
        }
    }

    /// How long something has run that the engine started at this time of its own clock.
    pub(crate) fn ran_since(&self, started_at: Timestamp) -> Duration {
        let ahead = self.ahead_millis.load(Ordering::Relaxed);
        Timestamp::from_millis(wall_time().as_millis() + ahead).since(started_at)
    }

    async fn read_clock(&self) {
        match self.executor.now().await {
            Ok(Some(now)) => self
                .ahead_millis
                .store(now.as_millis() - wall_time().as_millis(), Ordering::Relaxed),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(executor = %self.name, error = %error.full(), "cannot read the engine's clock")
            }
        }
    }

    async fn find_realm(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
        loop {
            match self.executor.realm().await {
                Ok(realm) => {
                    // Before anything is adopted: time limits count from the engine's own start times.
                    self.read_clock().await;
                    tracing::info!(executor = %self.name, %realm, "realm reached");
                    self.realm.send_replace(Some(realm));
                    return;
                }
                Err(error) => tracing::warn!(executor = %self.name, error = %error.full(), "cannot reach the engine"),
            }
            backoff.wait().await;
        }
    }

    async fn listen(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let mut events = self.executor.events();
            while let Some(event) = events.next().await {
                match event {
                    Event::Gap => self.mark_all(),
                    Event::Changed(handle) => self.mark([handle]),
                    Event::Unreachable(words) => {
                        tracing::warn!(executor = %self.name, words, "no events from the engine")
                    }
                    _ => {}
                }
            }
            // The contract says that the stream goes on for ever; one that ends is begun again.
            backoff.wait().await;
        }
    }

    async fn look(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let batch: Vec<Handle> = {
                let mut watched = self.watched();
                let batch: Vec<_> = watched.dirty.iter().take(BATCH).cloned().collect();
                for handle in &batch {
                    watched.dirty.remove(handle);
                }
                batch
            };
            if batch.is_empty() {
                self.dirty.notified().await;
                continue;
            }
            let targets: Vec<_> = batch.iter().cloned().map(Target::Handle).collect();
            match self.executor.observe(&targets).await {
                Ok(observations) => {
                    backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
                    let watched = self.watched();
                    for (handle, observation) in batch.iter().zip(observations) {
                        if let Some(sender) = watched.things.get(handle) {
                            sender.send_replace(Some(observation.state));
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(executor = %self.name, error = %error.full(), "cannot look at what runs");
                    self.mark(batch);
                    backoff.wait().await;
                }
            }
        }
    }

    async fn sweep(&self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            self.read_clock().await;
            self.mark_all();
        }
    }
}

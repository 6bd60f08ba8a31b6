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
    Error, ErrorKind, ExecutorName, Result, Timestamp,
    executor::{Event, Executor, Handle, RealmId, Target, ThingState},
};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{backoff::Backoff, clock::wall_time, slots::Slots};

/// Things looked at in one call.
const BATCH: usize = 500;
/// Looks at single things under way at once, where a look at many failed.
const SINGLY: usize = 8;

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
    /// Something waits apart.
    apart: Notify,
    /// Something may have been left behind: the clean-up need not wait for its time.
    pub(crate) left_behind: Notify,
    /// Milliseconds by which the engine's clock is ahead of ours.
    ahead_millis: AtomicI64,
}

#[derive(Debug, Default)]
struct Watched {
    things: HashMap<Handle, watch::Sender<Option<ThingState>>>,
    dirty: HashSet<Handle>,
    /// What could not be looked at alone either: it must not spoil the look at all others, and waits apart.
    apart: HashSet<Handle>,
}

impl Watched {
    fn take(from: &mut HashSet<Handle>) -> Vec<Handle> {
        let batch: Vec<_> = from.iter().take(BATCH).cloned().collect();
        for handle in &batch {
            from.remove(handle);
        }
        batch
    }
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
            watched.apart.remove(&self.handle);
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
            apart: Notify::new(),
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
            // What waits apart is looked at again there.
            if watched.things.contains_key(&handle) && !watched.apart.contains(&handle) {
                watched.dirty.insert(handle);
            }
        }
        self.dirty.notify_one();
    }

    fn mark_all(&self) {
        let mut watched = self.watched();
        let Watched { things, dirty, apart } = &mut *watched;
        *dirty = things
            .keys()
            .filter(|handle| !apart.contains(*handle))
            .cloned()
            .collect();
        self.dirty.notify_one();
    }

    /// Finds the realm and keeps states up to date until told to stop.
    pub(crate) async fn run(self: Arc<Self>, sweep_every: Duration, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = async {
                tokio::join!(self.find_realm(), self.listen(), self.look(), self.look_apart(), self.sweep(sweep_every));
            } => {}
        }
    }

    /// The engine's present, as far as its clock is known.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millis(wall_time().as_millis() + self.ahead_millis.load(Ordering::Relaxed))
    }

    /// How long something has run that the engine started at this time of its own clock.
    pub(crate) fn ran_since(&self, started_at: Timestamp) -> Duration {
        self.now().since(started_at)
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
            let batch = Watched::take(&mut self.watched().dirty);
            if batch.is_empty() {
                self.dirty.notified().await;
                continue;
            }
            match self.see(&batch).await {
                Ok(()) => backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
                // One of them may be all that is wrong.
                Err(error) => {
                    tracing::warn!(executor = %self.name, things = batch.len(), error = %error.full(), "cannot look at what runs");
                    match <[Handle; 1]>::try_from(batch) {
                        Ok([alone]) => self.set_apart(alone),
                        Err(batch) => {
                            if !self.see_singly(batch).await {
                                backoff.wait().await;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Looks at things and tells who watches them; all of it fails, or nothing.
    async fn see(&self, batch: &[Handle]) -> Result<()> {
        let targets: Vec<_> = batch.iter().cloned().map(Target::Handle).collect();
        let observations = self.executor.observe(&targets).await?;
        if observations.len() != batch.len() {
            let words = format!("{} answers for {} things", observations.len(), batch.len());
            return Err(Error::new(ErrorKind::Internal, "engine.observe", words));
        }
        let mut watched = self.watched();
        for (handle, observation) in batch.iter().zip(observations) {
            watched.apart.remove(handle);
            if let Some(sender) = watched.things.get(handle) {
                sender.send_replace(Some(observation.state));
            }
        }
        Ok(())
    }

    /// Looks at each thing by itself; those that fail wait apart. `false` where nothing could be seen: then it is the
    /// engine that does not answer, and the rest is left for later.
    async fn see_singly(&self, batch: Vec<Handle>) -> bool {
        let mut any = false;
        let mut rest = batch.into_iter();
        loop {
            let some: Vec<_> = rest.by_ref().take(SINGLY).collect();
            if some.is_empty() {
                return any;
            }
            let looks = some.iter().map(|handle| self.see(std::slice::from_ref(handle)));
            let seen = futures::future::join_all(looks).await;
            let (count, mut failed) = (some.len(), 0);
            for (handle, seen) in some.into_iter().zip(seen) {
                let Err(error) = seen else { continue };
                failed += 1;
                tracing::warn!(executor = %self.name, %handle, error = %error.full(), "cannot look at it alone either");
                self.set_apart(handle);
            }
            if failed == count {
                self.mark(rest);
                return any;
            }
            any = true;
        }
    }

    fn set_apart(&self, handle: Handle) {
        let mut watched = self.watched();
        if watched.things.contains_key(&handle) {
            watched.apart.insert(handle);
            self.apart.notify_one();
        }
    }

    /// Looks again at what could not be seen, at a pace of its own.
    async fn look_apart(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            // They stay where they are until they are seen: a panic in between forgets none.
            let apart: Vec<_> = self.watched().apart.iter().cloned().collect();
            if apart.is_empty() {
                backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
                self.apart.notified().await;
                continue;
            }
            backoff.wait().await;
            for some in apart.chunks(SINGLY) {
                let looks = some.iter().map(|handle| self.see(std::slice::from_ref(handle)));
                for (handle, seen) in some.iter().zip(futures::future::join_all(looks).await) {
                    if let Err(error) = seen {
                        tracing::debug!(executor = %self.name, %handle, error = %error.full(), "still cannot look at it");
                    }
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

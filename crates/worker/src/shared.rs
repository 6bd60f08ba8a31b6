//! What all parts of a worker share.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use robata_core::{
    AttemptId, Error, ErrorKind, ExecutorName, Result,
    attempt::{AttemptChange, AttemptWrite, Written},
    log_store::LogStore,
    queue::{Delivery, Queue},
    store::Store,
};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    backoff::Backoff,
    config::WorkerConfig,
    engine::Engine,
    held::{HeldMap, Holding},
    lease::LeaseKeeper,
    mask::Masks,
    net::InFlight,
    recorder::Recorder,
    unreadable::RESTING,
};

/// A worker's parts.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) logs: Arc<dyn LogStore>,
    pub(crate) engines: BTreeMap<ExecutorName, Arc<Engine>>,
    pub(crate) config: WorkerConfig,
    pub(crate) lease: LeaseKeeper,
    pub(crate) held: HeldMap,
    /// Claims and adoptions whose answers are not held yet.
    pub(crate) in_flight: InFlight,
    pub(crate) recorder: Recorder,
    /// Wakes the adoption loop.
    pub(crate) orphans: Notify,
    /// The tasks of attempts; they end when their attempt is finalised or let go.
    pub(crate) tasks: TaskTracker,
    /// Told to stop: leave what runs.
    pub(crate) stop: CancellationToken,
    /// Told to take nothing new; cancelled with `stop`, too.
    pub(crate) drain: CancellationToken,
    /// What a draining worker held under a lease that ended: of all there is to adopt it takes only this back.
    pub(crate) own: Mutex<Vec<AttemptId>>,
    /// What this process stopped for its fence, until its end is recorded.
    pub(crate) fenced: Mutex<HashSet<AttemptId>>,
    /// Places for batches that are given back later.
    pub(crate) resting: Arc<Semaphore>,
    /// Stopping has taken long enough: attempts' tasks are dropped where they stand.
    pub(crate) leave: CancellationToken,
    /// What finds the secrets of the attempts followed.
    pub(crate) masks: Arc<Masks>,
    realms: watch::Sender<()>,
}

impl Shared {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        queue: Arc<dyn Queue>,
        logs: Arc<dyn LogStore>,
        engines: BTreeMap<ExecutorName, Arc<Engine>>,
        config: WorkerConfig,
        recorder: Recorder,
        stop: CancellationToken,
    ) -> Self {
        Self {
            store,
            queue,
            logs,
            engines,
            config,
            lease: LeaseKeeper::new(),
            held: HeldMap::default(),
            in_flight: InFlight::default(),
            recorder,
            orphans: Notify::new(),
            tasks: TaskTracker::new(),
            stop,
            drain: CancellationToken::new(),
            own: Mutex::default(),
            fenced: Mutex::default(),
            resting: Arc::new(Semaphore::new(RESTING)),
            leave: CancellationToken::new(),
            masks: Arc::default(),
            realms: watch::Sender::new(()),
        }
    }

    /// What is to be taken back; nothing awaits while it is held.
    pub(crate) fn own(&self) -> MutexGuard<'_, Vec<AttemptId>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was stopped for the fence; nothing awaits while it is held.
    pub(crate) fn fenced(&self) -> MutexGuard<'_, HashSet<AttemptId>> {
        self.fenced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn acknowledge(&self, deliveries: &[Delivery]) {
        if deliveries.is_empty() {
            return;
        }
        // Delivered again, a claimed reference loses its race and is dropped.
        if let Err(error) = self.queue.acknowledge(deliveries).await {
            tracing::warn!(error = %error.full(), "cannot acknowledge");
        }
    }

    pub(crate) async fn give_back(&self, deliveries: Vec<Delivery>) {
        if deliveries.is_empty() {
            return;
        }
        // A reference that is lost here goes out again from the store (PROTOCOL O3).
        if let Err(error) = self.queue.give_back(deliveries).await {
            tracing::warn!(error = %error.full(), "cannot give back");
        }
    }

    /// Changes whenever a realm was reached.
    pub(crate) fn realms_changed(&self) -> watch::Receiver<()> {
        self.realms.subscribe()
    }

    /// Tells of every realm that is reached from now on.
    pub(crate) async fn watch_realms(&self) {
        let each = self.engines.values().map(|engine| async {
            let mut changes = engine.realm_changes();
            // It may have been reached before this task ran for the first time.
            changes.mark_changed();
            while changes.changed().await.is_ok() {
                self.realms.send_replace(());
            }
        });
        futures::future::join_all(each).await;
    }

    /// Writes about an attempt, trying until the store answers; `Fenced` means that it is somebody else's now.
    ///
    /// Without a valid lease it waits: nothing is written then (PROTOCOL H2).
    pub(crate) async fn write(&self, holding: &Holding, change: AttemptChange) -> Result<Written> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let lease = self.lease.wait_valid().await;
            if lease.incarnation != holding.incarnation {
                return Err(Error::new(
                    ErrorKind::Fenced,
                    "worker.write",
                    "the incarnation that held it is over",
                ));
            }
            let write = AttemptWrite {
                attempt: holding.attempt,
                epoch: holding.epoch,
                incarnation: holding.incarnation,
                change: change.clone(),
            };
            match self.recorder.write(write).await {
                Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Internal) => {
                    tracing::warn!(attempt = %holding.attempt, error = %error.full(), "cannot record");
                    backoff.wait().await;
                }
                answer => return answer,
            }
        }
    }
}

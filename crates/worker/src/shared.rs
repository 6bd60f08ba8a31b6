//! What all parts of a worker share.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use robata_core::{
    Error, ErrorKind, ExecutorName, Result,
    attempt::{AttemptChange, AttemptWrite, Written},
    log_store::LogStore,
    queue::Queue,
    store::Store,
};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    backoff::Backoff,
    config::WorkerConfig,
    engine::Engine,
    held::{HeldMap, Holding},
    lease::LeaseKeeper,
    recorder::Recorder,
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
    pub(crate) recorder: Recorder,
    /// Wakes the adoption loop.
    pub(crate) orphans: Notify,
    /// The tasks of attempts; they end when their attempt is finalised or let go.
    pub(crate) tasks: TaskTracker,
    /// Told to stop: take nothing new.
    pub(crate) stop: CancellationToken,
    /// Stopping has taken long enough: attempts' tasks are dropped where they stand.
    pub(crate) leave: CancellationToken,
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
            recorder,
            orphans: Notify::new(),
            tasks: TaskTracker::new(),
            stop,
            leave: CancellationToken::new(),
            realms: watch::Sender::new(()),
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

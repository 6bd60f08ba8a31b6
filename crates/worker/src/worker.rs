//! The worker as a whole: its parts, and the order in which they stop.

use std::{collections::BTreeMap, sync::Arc};

use robata_core::{ExecutorName, executor::Executor, log_store::LogStore, queue::Queue, store::Store};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    adopt, clean,
    config::WorkerConfig,
    engine::Engine,
    lease, receive,
    recorder::{self, Recorder},
    shared::Shared,
};

/// Takes jobs from lines, starts their attempts and follows them to their end.
#[derive(Debug)]
pub struct Worker {
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    logs: Arc<dyn LogStore>,
    executors: BTreeMap<ExecutorName, Arc<dyn Executor>>,
    config: WorkerConfig,
}

/// What a worker left behind when it stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Attempts that the next worker adopts.
    pub attempts: usize,
}

impl Worker {
    /// A worker of these parts; nothing happens before [`Worker::run`].
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        queue: Arc<dyn Queue>,
        logs: Arc<dyn LogStore>,
        executors: BTreeMap<ExecutorName, Arc<dyn Executor>>,
        config: WorkerConfig,
    ) -> Self {
        Self {
            store,
            queue,
            logs,
            executors,
            config,
        }
    }

    /// Works until told to stop. Then it takes nothing new, leaves running what runs, and ends its lease, so that the
    /// next worker adopts at once.
    pub async fn run(self, stop: CancellationToken) -> Left {
        let (recorder, items) = Recorder::new();
        let engines = self.executors.into_iter().map(|(name, executor)| {
            let slots = self
                .config
                .slots
                .get(&name)
                .copied()
                .unwrap_or(self.config.default_slots);
            (name.clone(), Arc::new(Engine::new(name, executor, slots as usize)))
        });
        let engines: BTreeMap<_, _> = engines.collect();
        let store = Arc::clone(&self.store);
        let shared = Shared::new(
            self.store,
            self.queue,
            self.logs,
            engines,
            self.config,
            recorder,
            stop.clone(),
        );
        let shared = Arc::new(shared);
        let parts = TaskTracker::new();
        // Attempts write until the very end.
        let writer = parts.spawn(recorder::serve(store, items));
        let end_engines = CancellationToken::new();
        for engine in shared.engines.values() {
            parts.spawn(Arc::clone(engine).run(shared.config.sweep_every, end_engines.clone()));
            parts.spawn(receive::serve(Arc::clone(&shared), Arc::clone(engine)));
            parts.spawn(clean::serve(Arc::clone(&shared), Arc::clone(engine)));
        }
        let keeper = parts.spawn(lease::keep(Arc::clone(&shared)));
        parts.spawn(adopt::serve(Arc::clone(&shared)));
        parts.spawn(adopt::listen(Arc::clone(&shared)));
        let realms = Arc::clone(&shared);
        let realms = parts.spawn(async move { realms.watch_realms().await });

        stop.cancelled().await;
        shared.tasks.close();
        // What is half started, ending or being finalised may come to its next resting place; what runs stays.
        let _ = tokio::time::timeout(shared.config.stop_within, shared.held.resting()).await;
        let left = Left {
            attempts: shared.held.len(),
        };
        shared.leave.cancel();
        shared.tasks.wait().await;
        keeper.abort();
        lease::release(&shared).await;
        end_engines.cancel();
        realms.abort();
        writer.abort();
        parts.close();
        parts.wait().await;
        left
    }
}

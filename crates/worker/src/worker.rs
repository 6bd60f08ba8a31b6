//! The worker as a whole: its parts, and the order in which they stop.

use std::{collections::BTreeMap, sync::Arc};

use robata_core::{ExecutorName, executor::Executor, log_store::LogStore, queue::Queue, store::Store};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    adopt, clean,
    config::WorkerConfig,
    engine::Engine,
    lease, metrics,
    part::keep_going,
    receive,
    recorder::{self, Recorder},
    shared::Shared,
    status::StatusReader,
};

/// Takes jobs from lines, starts their attempts and follows them to their end.
#[derive(Debug)]
pub struct Worker {
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    logs: Arc<dyn LogStore>,
    executors: BTreeMap<ExecutorName, Arc<dyn Executor>>,
    config: WorkerConfig,
    drain: CancellationToken,
    status: StatusReader,
}

/// What a worker left behind when it stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Attempts that the next worker adopts.
    pub attempts: usize,
    /// It was asked to drain, and all that it held has ended and is finalised.
    pub drained: bool,
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
            drain: CancellationToken::new(),
            status: StatusReader::default(),
        }
    }

    /// What has this worker drain when it is cancelled: it takes nothing new, follows what it holds to its end, and then
    /// [`Worker::run`] returns by itself. The worker cancels it when the store asks it to drain.
    #[must_use]
    pub fn drain_token(&self) -> CancellationToken {
        self.drain.clone()
    }

    /// Tells how it stands, from anywhere, while it runs.
    #[must_use]
    pub fn status(&self) -> StatusReader {
        self.status.clone()
    }

    /// Works until told to stop, or until it has drained. Told to stop it takes nothing new, leaves running what runs, also
    /// where it was draining, and ends its lease, so that the next worker adopts at once.
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
        // Its own, so that it can end by itself once it has drained.
        let stop = stop.child_token();
        let store = Arc::clone(&self.store);
        let mut shared = Shared::new(
            self.store,
            self.queue,
            self.logs,
            engines,
            self.config,
            recorder,
            stop.clone(),
        );
        shared.drain = self.drain;
        let shared = Arc::new(shared);
        self.status.begin(&Arc::downgrade(&shared));
        metrics::observe(&Arc::downgrade(&shared));
        let mut parts = JoinSet::new();
        let mut takers = JoinSet::new();
        // What attempts need until the very end.
        let mut ground = JoinSet::new();
        let end = CancellationToken::new();
        ground.spawn(keep_going("recorder", end.clone(), move || {
            recorder::serve(Arc::clone(&store), Arc::clone(&items))
        }));
        for engine in shared.engines.values() {
            let (watched, sweep_every, ended) = (Arc::clone(engine), shared.config.sweep_every, end.clone());
            ground.spawn(keep_going("engine", end.clone(), move || {
                Arc::clone(&watched).run(sweep_every, ended.clone())
            }));
            let (all, one) = (Arc::clone(&shared), Arc::clone(engine));
            takers.spawn(keep_going("receive", shared.drain.clone(), move || {
                receive::serve(Arc::clone(&all), Arc::clone(&one))
            }));
            let (all, one) = (Arc::clone(&shared), Arc::clone(engine));
            parts.spawn(keep_going("clean", stop.clone(), move || {
                clean::serve(Arc::clone(&all), Arc::clone(&one))
            }));
        }
        let all = Arc::clone(&shared);
        parts.spawn(keep_going("lease", stop.clone(), move || lease::keep(Arc::clone(&all))));
        let all = Arc::clone(&shared);
        parts.spawn(keep_going("adopt", stop.clone(), move || {
            adopt::serve(Arc::clone(&all))
        }));
        let all = Arc::clone(&shared);
        parts.spawn(keep_going("hints", stop.clone(), move || {
            adopt::listen(Arc::clone(&all))
        }));
        let realms = Arc::clone(&shared);
        ground.spawn(async move { realms.watch_realms().await });

        let drained = tokio::select! {
            () = stop.cancelled() => false,
            () = drained(&shared, &mut takers) => true,
        };
        stop.cancel();
        shared.drain.cancel();
        shared.tasks.close();
        // What is half started, ending or being finalised may come to its next resting place; what runs stays.
        let resting = async {
            // What is being claimed now is ours, and comes to rest, too.
            while takers.join_next().await.is_some() {}
            while parts.join_next().await.is_some() {}
            shared.held.resting().await;
        };
        let _ = tokio::time::timeout(shared.config.stop_within, resting).await;
        let left = Left {
            attempts: shared.held.len(),
            drained,
        };
        shared.leave.cancel();
        // A store or an engine that does not answer must not keep us from stopping.
        takers.shutdown().await;
        parts.shutdown().await;
        shared.tasks.wait().await;
        lease::release(&shared).await;
        end.cancel();
        ground.shutdown().await;
        left
    }
}

/// Waits until the worker is asked to drain, and then until nothing is left to follow.
async fn drained(shared: &Shared, takers: &mut JoinSet<()>) {
    shared.drain.cancelled().await;
    // What is being claimed now is ours, too.
    while takers.join_next().await.is_some() {}
    // What was held when a lease ended is about to be taken back.
    shared.held.empty(|| shared.own().is_empty()).await;
}

//! The scheduler as a whole: its loops. Any number may run; none is the leader.

use std::sync::Arc;

use robata_core::{log_store::LogStore, queue::Queue, store::Store};
use tokio_util::sync::CancellationToken;

use crate::{config::SchedulerConfig, due, outbox::Outbox, prune, repair};

/// Sends out what is due, finds what was lost, removes what is past its time.
#[derive(Debug)]
pub struct Scheduler {
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    logs: Arc<dyn LogStore>,
    config: SchedulerConfig,
}

impl Scheduler {
    /// A scheduler of these parts; nothing happens before [`Scheduler::run`].
    #[must_use]
    pub fn new(store: Arc<dyn Store>, queue: Arc<dyn Queue>, logs: Arc<dyn LogStore>, config: SchedulerConfig) -> Self {
        Self {
            store,
            queue,
            logs,
            config,
        }
    }

    /// Runs its loops until told to stop. Whatever is half done then is done by the next one.
    pub async fn run(self, stop: CancellationToken) {
        let outbox = Outbox::new(Arc::clone(&self.store), self.queue);
        let loops = async {
            tokio::join!(
                outbox.listen(),
                outbox.serve(),
                due::serve(&*self.store),
                repair::serve(&*self.store, &self.config),
                prune::serve(&*self.store, &*self.logs, &self.config),
            );
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = loops => {}
        }
    }
}

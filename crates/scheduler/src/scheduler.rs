//! The scheduler as a whole: its loops. Any number may run; none is the leader.

use std::sync::Arc;

use robata_core::{log_store::LogStore, queue::Queue, store::Store};
use tokio_util::sync::CancellationToken;

use crate::{accept, config::SchedulerConfig, due, outbox::Outbox, part::keep_going, prune, repair};

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

    /// Runs its loops until told to stop. A loop that panics begins again; what does not answer is tried again. Whatever is half done then is done by the next one.
    pub async fn run(self, stop: CancellationToken) {
        let patience = self.config.patience;
        let outbox = Outbox::new(Arc::clone(&self.store), Arc::clone(&self.queue), patience);
        let loops = async {
            tokio::join!(
                keep_going("listen", || outbox.listen()),
                keep_going("outbox", || outbox.serve()),
                keep_going("accept", || accept::serve(&*self.store, &*self.queue, patience)),
                keep_going("due", || due::serve(&*self.store, patience)),
                keep_going("judge", || repair::judge(&*self.store, patience)),
                keep_going("lost", || repair::settle(&*self.store, &self.config)),
                keep_going("prune", || prune::serve(&*self.store, &*self.logs, &self.config)),
            );
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = loops => {}
        }
    }
}

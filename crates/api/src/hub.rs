//! Who waits for which job: one listener to the store's hints for all long polls and followers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use robata_core::JobId;
use tokio::sync::Notify;

/// The jobs that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    waiting: Mutex<HashMap<JobId, Arc<Notify>>>,
}

/// Somebody's waiting for one job; dropped when it is over.
#[derive(Debug)]
pub(crate) struct Watch {
    hub: Arc<Hub>,
    job: JobId,
    notify: Option<Arc<Notify>>,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Notify>>> {
        // Nothing panics while it holds the lock, and a map is whole in any case.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait: from here on every change of the job is noticed.
    pub(crate) fn watch(self: &Arc<Self>, job: JobId) -> Watch {
        let notify = Arc::clone(self.lock().entry(job).or_default());
        Watch {
            hub: Arc::clone(self),
            job,
            notify: Some(notify),
        }
    }

    /// How many requests wait for a job.
    pub(crate) fn waiting(&self) -> usize {
        // Each waiter holds one reference beside the map's own.
        let waiters = |notify: &Arc<Notify>| Arc::strong_count(notify) - 1;
        self.lock().values().map(waiters).sum()
    }

    /// The job has changed.
    pub(crate) fn changed(&self, job: JobId) {
        let notify = self.lock().get(&job).cloned();
        if let Some(notify) = notify {
            notify.notify_waiters();
        }
    }

    /// Any job may have changed.
    pub(crate) fn all_changed(&self) {
        let all: Vec<_> = self.lock().values().cloned().collect();
        for notify in all {
            notify.notify_waiters();
        }
    }
}

impl Watch {
    /// The next change. Make it ready (`enable`) before looking at the job, so that no change falls between.
    pub(crate) fn notify(&self) -> &Notify {
        // Taken out only in `drop`.
        self.notify.as_deref().unwrap_or(&NEVER)
    }
}

static NEVER: Notify = Notify::const_new();

impl Drop for Watch {
    fn drop(&mut self) {
        let mut waiting = self.hub.lock();
        self.notify = None;
        // The map's own is the last one: nobody can come between, all come under the lock.
        if waiting
            .get(&self.job)
            .is_some_and(|notify| Arc::strong_count(notify) == 1)
        {
            waiting.remove(&self.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_waiter_of_a_job_is_told_and_nothing_is_left() {
        let hub = Arc::new(Hub::default());
        let job = JobId::new();
        let (first, second) = (hub.watch(job), hub.watch(job));
        let mut told = Box::pin(async { tokio::join!(first.notify().notified(), second.notify().notified()) });
        assert!(futures::poll!(&mut told).is_pending());
        hub.changed(JobId::new());
        assert!(futures::poll!(&mut told).is_pending());
        hub.changed(job);
        told.await;
        let mut told = Box::pin(first.notify().notified());
        assert!(futures::poll!(&mut told).is_pending());
        hub.all_changed();
        told.await;
        assert_eq!(hub.waiting(), 2);
        drop(first);
        assert_eq!(hub.waiting(), 1);
        drop(second);
        assert!(hub.lock().is_empty());
    }
}

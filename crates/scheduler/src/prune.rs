//! Retention: ended jobs and their logs, in batches small enough not to be felt.

use std::time::Duration;

use futures::StreamExt as _;
use robata_core::{AttemptId, Error, Result, log_store::LogStore, part::jittered, store::Store};

use crate::{config::SchedulerConfig, metrics::METRICS, part::within};

/// Jobs removed in one transaction.
const BATCH: usize = 500;
/// Logs removed at once, where they are removed singly.
const AT_ONCE: usize = 8;
/// Between two batches, so that enqueues go between them.
const PAUSE: Duration = Duration::from_millis(50);

/// Prunes, for ever.
pub(crate) async fn serve(store: &dyn Store, logs: &dyn LogStore, config: &SchedulerConfig) {
    loop {
        match prune(store, logs, config.patience).await {
            Ok(0) => tokio::time::sleep(jittered(config.prune_every)).await,
            Ok(_) => tokio::time::sleep(PAUSE).await,
            Err(error) => {
                METRICS.error("prune");
                tracing::warn!(error = %error.full(), "cannot remove what is past its retention");
                tokio::time::sleep(jittered(config.prune_every)).await;
            }
        }
    }
}

async fn prune(store: &dyn Store, logs: &dyn LogStore, patience: Duration) -> Result<usize> {
    // Removing hundreds of objects takes longer than any other call.
    let patience = patience * 6;
    let pruned = within(patience, "store.prune", store.prune(BATCH)).await?;
    METRICS.pruned(pruned.jobs);
    let (gone, stay) = delete(logs, &pruned.logs, patience).await;
    if let Some(error) = stay {
        METRICS.error("prune");
        let count = pruned.logs.len() - gone.len();
        tracing::warn!(count, error = %error.full(), "some logs cannot be removed; they are tried again");
    }
    if !gone.is_empty() {
        // Not told before they are gone: a crash here deletes them again.
        within(patience, "store.logs_removed", store.logs_removed(&gone)).await?;
    }
    // What stays is no reason to go on at once.
    Ok(pruned.jobs + gone.len())
}

/// Removes logs, each by itself where they cannot be removed together; answers those that are gone, and why others are not.
async fn delete(logs: &dyn LogStore, attempts: &[AttemptId], patience: Duration) -> (Vec<AttemptId>, Option<Error>) {
    if attempts.is_empty() {
        return (Vec::new(), None);
    }
    let Err(error) = within(patience, "logs.delete", logs.delete(attempts)).await else {
        return (attempts.to_vec(), None);
    };
    let deadline = tokio::time::Instant::now() + patience;
    let mut gone = Vec::with_capacity(attempts.len());
    // Of copies: a closure over borrowed ones is not Send for every lifetime, and with it not the scheduler.
    let mut singly = futures::stream::iter(attempts.to_vec())
        .map(|attempt| async move { (attempt, logs.delete(&[attempt]).await) })
        .buffer_unordered(AT_ONCE);
    while let Ok(Some((attempt, deleted))) = tokio::time::timeout_at(deadline, singly.next()).await {
        match deleted {
            Ok(()) => gone.push(attempt),
            Err(error) => tracing::debug!(%attempt, error = %error.full(), "a log cannot be removed"),
        }
    }
    let stay = (gone.len() < attempts.len()).then_some(error);
    (gone, stay)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use robata_core::{
        ErrorKind, JobId,
        attempt::LogSummary,
        log_store::{Chunk, Entry, Progress, Read, Seal},
    };

    use super::*;

    /// Removes all but what it is told to keep; one of them without ever answering.
    #[derive(Debug)]
    struct Stubborn {
        keeps: AttemptId,
        hangs: Option<AttemptId>,
    }

    #[async_trait]
    impl LogStore for Stubborn {
        async fn append(&self, _: Chunk) -> Result<()> {
            unreachable!("nobody appends")
        }

        async fn progress(&self, _: AttemptId) -> Result<Progress> {
            unreachable!("nobody goes on")
        }

        async fn seal(&self, _: Seal) -> Result<LogSummary> {
            unreachable!("nobody seals")
        }

        async fn read(&self, _: Read) -> Result<BoxStream<'static, Result<Entry>>> {
            unreachable!("nobody reads")
        }

        async fn delete(&self, attempts: &[AttemptId]) -> Result<()> {
            if self.hangs.is_some_and(|hangs| attempts.contains(&hangs)) {
                return std::future::pending().await;
            }
            if attempts.contains(&self.keeps) {
                return Err(Error::new(ErrorKind::Unavailable, "logs.delete", "permission denied"));
            }
            Ok(())
        }

        async fn check(&self, _: Duration) -> Result<()> {
            Ok(())
        }
    }

    fn attempts(n: u32) -> Vec<AttemptId> {
        let job = JobId::new();
        (1..=n).map(|number| AttemptId { job, number }).collect()
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_removed_keeps_no_other() {
        let all = attempts(30);
        let logs = Stubborn {
            keeps: all[3],
            hangs: None,
        };
        let (mut gone, stay) = delete(&logs, &all, Duration::from_secs(10)).await;
        gone.sort_unstable();
        let expected: Vec<_> = all.iter().filter(|attempt| **attempt != all[3]).copied().collect();
        assert_eq!(gone, expected);
        assert!(stay.is_some_and(|error| error.message().contains("permission denied")));
        let (gone, stay) = delete(&logs, &all[4..], Duration::from_secs(10)).await;
        assert_eq!((gone.len(), stay.is_none()), (26, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_whose_removal_hangs_keeps_no_other_and_is_left_in_time() {
        let all = attempts(30);
        let logs = Stubborn {
            keeps: all[3],
            hangs: Some(all[0]),
        };
        let begun = tokio::time::Instant::now();
        let (gone, stay) = delete(&logs, &all, Duration::from_secs(10)).await;
        assert_eq!((gone.len(), stay.is_some()), (28, true));
        assert!(begun.elapsed() <= Duration::from_secs(21), "{:?}", begun.elapsed());
    }
}

//! Retention: ended jobs and their logs, in batches small enough not to be felt.

use std::time::Duration;

use robata_core::{Result, log_store::LogStore, store::Store};

use crate::config::SchedulerConfig;

/// Jobs removed in one transaction.
const BATCH: usize = 500;
/// Between two batches, so that enqueues go between them.
const PAUSE: Duration = Duration::from_millis(50);

/// Prunes, for ever.
pub(crate) async fn serve(store: &dyn Store, logs: &dyn LogStore, config: &SchedulerConfig) {
    loop {
        match prune(store, logs).await {
            Ok(0) => tokio::time::sleep(config.prune_every).await,
            Ok(_) => tokio::time::sleep(PAUSE).await,
            Err(error) => {
                tracing::warn!(error = %error.full(), "cannot remove what is past its retention");
                tokio::time::sleep(config.prune_every).await;
            }
        }
    }
}

async fn prune(store: &dyn Store, logs: &dyn LogStore) -> Result<usize> {
    let pruned = store.prune(BATCH).await?;
    if !pruned.logs.is_empty() {
        logs.delete(&pruned.logs).await?;
        // Not told before they are gone: a crash here deletes them again.
        store.logs_removed(&pruned.logs).await?;
    }
    Ok(pruned.jobs + pruned.logs.len())
}

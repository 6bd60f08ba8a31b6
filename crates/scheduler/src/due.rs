//! The due loop: what was delayed or backing off becomes queued at its time, not at the next tick.

use std::time::Duration;

use futures::StreamExt;
use robata_core::store::{Hint, Store};

use crate::{
    metrics::METRICS,
    part::{backoff, within},
};

/// Without anything scheduled it still looks this often: hints are lossy.
const IDLE: Duration = Duration::from_secs(5);
/// Jobs moved in one transaction.
const BATCH: usize = 1_000;

/// Moves what is due, for ever.
pub(crate) async fn serve(store: &dyn Store, patience: Duration) {
    let mut hints = store.hints();
    let mut failed = backoff();
    loop {
        let wait = match within(patience, "store.due", store.due(BATCH)).await {
            Ok(due) => {
                failed = backoff();
                METRICS.due(due.moved);
                if due.moved >= BATCH {
                    continue;
                }
                due.next.map_or(IDLE, |next| next.min(IDLE))
            }
            Err(error) => {
                METRICS.error("due");
                tracing::warn!(error = %error.full(), "cannot move what is due");
                // Hints of what is due sooner would not help.
                tokio::time::sleep(failed.next()).await;
                continue;
            }
        };
        let until = tokio::time::Instant::now() + wait;
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = sooner(&mut hints, until) => {}
        }
    }
}

/// Waits until something was scheduled that is due before `until`, and for it; not where that may have been missed.
async fn sooner(hints: &mut (impl futures::Stream<Item = Hint> + Unpin), mut until: tokio::time::Instant) {
    loop {
        tokio::select! {
            hint = hints.next() => match hint {
                Some(Hint::Due(after)) => until = until.min(tokio::time::Instant::now() + after),
                Some(Hint::Gap) => return,
                Some(_) => {}
                None => return std::future::pending().await,
            },
            () = tokio::time::sleep_until(until) => return,
        }
    }
}

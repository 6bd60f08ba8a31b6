//! The repair loops: this master's mark, leases that have expired, attempts that nobody came for (PROTOCOL H4, H6).

use std::time::Duration;

use robata_core::{
    Format, IncarnationId,
    store::{Judged, LEASE, MARK, Mark, Store},
};
use tokio::time::{MissedTickBehavior, interval};

use crate::{config::SchedulerConfig, metrics::METRICS, part::within};

/// Writes marks and judges leases, for ever; at a steady pace, since a longer gap in the marks moves every judgement.
pub(crate) async fn judge(store: &dyn Store, patience: Duration) {
    let patience = patience.min(LEASE / 3);
    let mark = Mark {
        master: IncarnationId::new(),
        format: Format::OWN,
    };
    let mut ticks = interval(MARK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match within(patience, "store.judge", store.judge(mark)).await {
            Ok(Judged { ended, format }) => {
                METRICS.format(format);
                if ended > 0 {
                    METRICS.leases(ended);
                    tracing::warn!(ended, "leases of workers have expired");
                }
            }
            Err(error) => {
                // What the store did not see is nobody's fault: nothing is concluded from it.
                METRICS.error("judge");
                tracing::warn!(error = %error.full(), "cannot judge leases");
            }
        }
    }
}

/// Ends as lost what nobody came for, for ever. A loop of its own: a slow round must not hold up the marks.
pub(crate) async fn settle(store: &dyn Store, config: &SchedulerConfig) {
    let mut ticks = interval(MARK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let settled = store.settle_lost(&config.lost_after, config.default_lost_after);
        match within(config.patience, "store.settle_lost", settled).await {
            Ok(lost) => {
                METRICS.lost(lost.len());
                for attempt in lost {
                    tracing::warn!(%attempt, "lost: nobody who reaches its realm came for it");
                }
            }
            Err(error) => {
                METRICS.error("lost");
                tracing::warn!(error = %error.full(), "cannot settle what is lost");
            }
        }
    }
}

//! The repair loop: this master's mark, leases that have expired, attempts that nobody came for (PROTOCOL H4, H6).

use robata_core::store::{MARK, Store};

use crate::config::SchedulerConfig;

/// Repairs, for ever.
pub(crate) async fn serve(store: &dyn Store, config: &SchedulerConfig) {
    let mut ticks = tokio::time::interval(MARK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match store.judge().await {
            Ok(0) => {}
            Ok(ended) => tracing::warn!(ended, "leases of workers have expired"),
            Err(error) => {
                // What the store did not see is nobody's fault: nothing is concluded from it.
                tracing::warn!(error = %error.full(), "cannot judge leases");
                continue;
            }
        }
        match store.settle_lost(&config.lost_after, config.default_lost_after).await {
            Ok(lost) => {
                for attempt in lost {
                    tracing::warn!(%attempt, "lost: nobody who reaches its realm came for it");
                }
            }
            Err(error) => tracing::warn!(error = %error.full(), "cannot settle what is lost"),
        }
    }
}

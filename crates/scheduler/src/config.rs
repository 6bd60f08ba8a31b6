//! What a scheduler can be told.

use std::{collections::BTreeMap, time::Duration};

use robata_core::ExecutorName;

/// A scheduler's settings.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SchedulerConfig {
    /// After how long an attempt that nobody came for is lost, by executor; `None` means never (PROTOCOL H6).
    pub lost_after: BTreeMap<ExecutorName, Option<Duration>>,
    /// The same for an executor that `lost_after` does not name.
    pub default_lost_after: Duration,
    /// How often what is past its retention is removed.
    pub prune_every: Duration,
    /// A call of store, broker or log store that is not answered within this time counts as failed.
    pub patience: Duration,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            lost_after: BTreeMap::new(),
            default_lost_after: Duration::from_secs(600),
            prune_every: Duration::from_secs(60),
            patience: Duration::from_secs(10),
        }
    }
}

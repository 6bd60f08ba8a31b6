//! What an operator may set of the degraded path.

use std::{fmt, sync::Arc, time::Duration};

use robata_core::queue::Queue;

/// The second way of accepting jobs: the broker, while the store does not serve (PROTOCOL I1). It is used only while the
/// broker says that it may take whole jobs ([`robata_core::queue::Capabilities::whole_jobs`]); while it does not, a store that does
/// not serve is not waited for either, and jobs are refused.
#[derive(Clone)]
pub struct DegradedPath {
    /// The broker.
    pub queue: Arc<dyn Queue>,
    /// When it is used, and how far.
    pub config: DegradedConfig,
}

impl fmt::Debug for DegradedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DegradedPath")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// When the degraded path is used, and how far.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DegradedConfig {
    /// So many failures of the store in a row open the breaker: from then on jobs go to the broker without asking the store.
    pub failures: u32,
    /// An enqueue that the store does not answer for this long opens it at once; for 5 s at least while the broker may not take
    /// whole jobs.
    pub hang: Duration,
    /// A whole job has at most this many bytes, payload included, or what the broker takes, if that is less.
    pub max_job_bytes: usize,
    /// Whole jobs that this process puts into the broker in one outage have together at most this many bytes, those included
    /// of which nobody knows whether they arrived.
    pub max_outage_bytes: u64,
}

impl Default for DegradedConfig {
    fn default() -> Self {
        Self {
            failures: 3,
            hang: Duration::from_secs(1),
            max_job_bytes: 256 << 10,
            max_outage_bytes: 1 << 30,
        }
    }
}

//! Waiting between tries, by this runtime's clock.

use std::time::Duration;

/// The state of one series of tries.
#[derive(Debug)]
pub(crate) struct Backoff(robata_core::part::Backoff);

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self(robata_core::part::Backoff::new(first, max))
    }

    /// The time to wait now; the next one is twice as long.
    pub(crate) fn next(&mut self) -> Duration {
        self.0.next()
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }
}

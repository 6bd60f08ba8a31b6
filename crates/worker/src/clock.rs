//! The two clocks a worker may read: one that runs in suspend, for its lease; the wall's, to compare with an engine's stamps.

use std::time::Duration;

use robata_core::Timestamp;
use tokio::time::Instant;

/// Time since the machine's boot, suspend included (CLOCK_BOOTTIME).
pub(crate) fn boot_time() -> Duration {
    match nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME) {
        Ok(time) => Duration::from(time),
        // The call cannot fail for a clock that Linux has had since 2.6.39; a lease that seems over is the safe answer.
        Err(_) => Duration::MAX,
    }
}

/// A moment this far ahead; one beyond what the clock can count is as good as never.
pub(crate) fn ahead(time: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(time).unwrap_or_else(|| now + FAR)
}

/// The wall's time on this machine.
pub(crate) fn wall_time() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the clock module")]
    Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_duration_is_too_long_for_a_moment() {
        let far = ahead(Duration::MAX);
        assert!(far > Instant::now() + Duration::from_secs(50 * 365 * 24 * 3600));
        assert!(ahead(Duration::from_secs(1)) < far);
    }
}

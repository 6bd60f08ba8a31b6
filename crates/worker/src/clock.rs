//! The two clocks a worker may read: one that runs in suspend, for its lease; the wall's, to compare with an engine's stamps.

use std::time::Duration;

use robata_core::Timestamp;

/// Time since the machine's boot, suspend included (CLOCK_BOOTTIME).
pub(crate) fn boot_time() -> Duration {
    match nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME) {
        Ok(time) => Duration::from(time),
        // The call cannot fail for a clock that Linux has had since 2.6.39; a lease that seems over is the safe answer.
        Err(_) => Duration::MAX,
    }
}

/// The wall's time on this machine.
pub(crate) fn wall_time() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the clock module")]
    Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
}

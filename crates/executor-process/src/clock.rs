//! The one place that reads the system's clock: an engine of processes has no other time than the machine's.

use std::time::{Duration, SystemTime};

use robata_core::Timestamp;

/// The machine's wall clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the clock module; the engine's own time is the machine's"
)]
pub(crate) fn now() -> Timestamp {
    from_system(SystemTime::now())
}

/// A file's time.
pub(crate) fn from_system(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

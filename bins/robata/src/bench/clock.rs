//! The wall clock in nanoseconds, to compare with what a job's own process reads.

/// Nanoseconds since 1970 by CLOCK_REALTIME, which this process and its children share.
#[expect(
    clippy::disallowed_methods,
    reason = "this is a clock module; the bench compares two readings of one clock"
)]
pub(super) fn wall_nanos() -> i128 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(i128::MAX))
}

//! The store's two clocks (PROTOCOL T1): the only place of this crate that reads the system's time.

use std::{
    fmt,
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_gettime};
use robata_core::Timestamp;

/// What the store judges and stamps by.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// For due times and stamps; may step.
    fn wall(&self) -> Timestamp;
    /// For leases: time since the machine started, sleep included; never steps back.
    fn boot(&self) -> Duration;
}

/// The system's clocks: `CLOCK_REALTIME` and `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "this is the store's clock (PROTOCOL T1)")]
        let now = SystemTime::now();
        let millis = match now.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        };
        Timestamp::from_millis(millis)
    }

    fn boot(&self) -> Duration {
        // A kernel before 2.6.39 has no boot-time clock; the monotonic one differs from it only in suspend.
        clock_gettime(ClockId::CLOCK_BOOTTIME)
            .or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC))
            .map_or(Duration::ZERO, Duration::from)
    }
}

/// The system's clocks with an offset each, which only tests set.
#[derive(Debug, Default)]
pub struct OffsetClock {
    wall_millis: AtomicI64,
    boot_millis: AtomicI64,
}

impl OffsetClock {
    /// Lets time pass on both clocks.
    pub fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.wall_millis.fetch_add(millis, Ordering::SeqCst);
        self.boot_millis.fetch_add(millis, Ordering::SeqCst);
    }

    /// Steps the wall clock alone, back where `millis` is negative.
    pub fn step_wall(&self, millis: i64) {
        self.wall_millis.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for OffsetClock {
    fn wall(&self) -> Timestamp {
        let now = SystemClock.wall().as_millis();
        Timestamp::from_millis(now.saturating_add(self.wall_millis.load(Ordering::SeqCst)))
    }

    fn boot(&self) -> Duration {
        let offset = u64::try_from(self.boot_millis.load(Ordering::SeqCst)).unwrap_or_default();
        SystemClock.boot() + Duration::from_millis(offset)
    }
}

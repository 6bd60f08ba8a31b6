//! Real masters and workers over a real PostgreSQL and Redis, for tests.
#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]
#![allow(clippy::print_stderr, reason = "what a daemon said belongs to a failed test")]

pub(crate) mod daemon;
pub(crate) mod proxy;
pub(crate) mod rig;
mod site;
pub(crate) mod stack;

use std::time::{Duration, Instant};

pub(crate) use site::Site;

/// No step of a test may take longer; a slow machine under load is meant to stay far below.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);

/// Waits until `look` finds something.
#[track_caller]
pub(crate) fn eventually<T, F: Future<Output = Option<T>>>(
    what: impl Into<String>,
    mut look: impl FnMut() -> F,
) -> impl Future<Output = T> {
    let (what, place) = (what.into(), std::panic::Location::caller());
    async move {
        let begin = Instant::now();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(begin.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what} ({place})");
            tokio::time::sleep(STEP).await;
        }
    }
}

/// The address of a service that the runner started.
pub(crate) fn service(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: `tests/run --services` starts what these tests need"))
}

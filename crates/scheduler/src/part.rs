//! A loop of the scheduler: it begins again where it panicked, and no call of it waits for ever.

use std::{ops::ControlFlow, time::Duration};

use robata_core::{Error, ErrorKind, Result, part};
use tokio::time::Instant;

use crate::metrics::METRICS;

/// The first rest after a panic or an error, and the longest.
pub(crate) const FIRST: Duration = Duration::from_millis(100);
pub(crate) const LONGEST: Duration = Duration::from_secs(5);
/// What ran this long before it panicked begins again as if it had never panicked.
const HEALTHY: Duration = Duration::from_secs(60);

/// Runs what `make` makes, again after each panic.
pub(crate) async fn keep_going<F: Future<Output = ()>>(name: &'static str, make: impl FnMut() -> F) {
    let mut backoff = backoff();
    let mut begun = Instant::now();
    let rest = |words: String| {
        METRICS.error(name);
        if begun.elapsed() > HEALTHY {
            backoff = self::backoff();
        }
        let rest = backoff.next();
        begun = Instant::now() + rest;
        tracing::error!(name, panic = words, "a loop of the scheduler panicked; it begins again");
        async move {
            tokio::time::sleep(rest).await;
            ControlFlow::Continue(())
        }
    };
    part::keep_going(make, rest).await;
}

/// The times between the tries of what fails.
pub(crate) fn backoff() -> part::Backoff {
    part::Backoff::new(FIRST, LONGEST)
}

/// What is not answered within `patience` is as good as refused: a service that hangs must not hold a loop for ever.
pub(crate) async fn within<T>(
    patience: Duration,
    operation: &'static str,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(patience, call).await {
        Ok(answer) => answer,
        Err(_) => {
            let message = format!("not answered within {} ms", patience.as_millis());
            Err(Error::new(ErrorKind::Unavailable, operation, message))
        }
    }
}

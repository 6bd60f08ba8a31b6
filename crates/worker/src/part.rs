//! A loop of the worker that begins again where it panicked: one bad answer must not leave a worker that looks alive
//! and is deaf.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;

/// Runs what `make` makes until it returns by itself, or until told to stop after a panic.
pub(crate) async fn keep_going<F: Future<Output = ()>>(
    name: &'static str,
    stop: CancellationToken,
    mut make: impl FnMut() -> F,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    loop {
        if AssertUnwindSafe(make()).catch_unwind().await.is_ok() {
            return;
        }
        tracing::error!(name, "a part of the worker panicked; it begins again");
        tokio::select! {
            () = stop.cancelled() => return,
            () = backoff.wait() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panicked_begins_again() {
        let mut runs = 0;
        keep_going("test", CancellationToken::new(), || {
            runs += 1;
            let run = runs;
            async move { assert!(run > 2, "panics twice") }
        })
        .await;
        assert_eq!(runs, 3);
    }
}

//! A loop of the worker that begins again where it panicked: one bad answer must not leave a worker that looks alive
//! and is deaf.

use std::{ops::ControlFlow, time::Duration};

use robata_core::part;
use tokio_util::sync::CancellationToken;

/// Runs what `make` makes until it returns by itself, or until told to stop after a panic.
pub(crate) async fn keep_going<F: Future<Output = ()>>(
    name: &'static str,
    stop: CancellationToken,
    make: impl FnMut() -> F,
) {
    let mut backoff = part::Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    let rest = |words: String| {
        tracing::error!(name, panic = words, "a part of the worker panicked; it begins again");
        let (rest, stop) = (backoff.next(), stop.clone());
        async move {
            tokio::select! {
                () = stop.cancelled() => ControlFlow::Break(()),
                () = tokio::time::sleep(rest) => ControlFlow::Continue(()),
            }
        }
    };
    part::keep_going(make, rest).await;
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

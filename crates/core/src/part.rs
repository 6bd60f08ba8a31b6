//! What keeps the loops of masters and workers going: back-off with jitter, and beginning again after a panic. Pure: who
//! waits, and by which clock, is the caller's.

use std::{any::Any, ops::ControlFlow, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;

/// The times between the tries of one series: doubling, bounded, with jitter.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// A series from `first` up to `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// The time to wait now, a quarter more or less; the next one is twice as long.
    #[expect(
        clippy::should_implement_trait,
        reason = "a series without end is no iterator that one collects"
    )]
    pub fn next(&mut self) -> Duration {
        let now = self.next;
        self.next = (self.next * 2).min(self.max);
        jittered(now)
    }
}

/// A time, a quarter more or less: so that many who wait for one service do not come at once.
#[must_use]
pub fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.75 + chance() / 2.0)
}

/// A uniform number in 0..1, from the random part of an id.
#[must_use]
pub fn chance() -> f64 {
    let [a, b, c, d, ..] = uuid::Uuid::new_v4().into_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
}

/// Runs what `make` makes until it returns by itself. Where it panics, `rest` is given the panic's words, waits as long as
/// it likes, and says whether it begins again: one bad answer must not leave a program that looks alive and is deaf.
pub async fn keep_going<F, W>(mut make: impl FnMut() -> F, mut rest: impl FnMut(String) -> W)
where
    F: Future<Output = ()>,
    W: Future<Output = ControlFlow<()>>,
{
    loop {
        match AssertUnwindSafe(make()).catch_unwind().await {
            Ok(()) => return,
            Err(panic) => {
                if rest(words(&*panic)).await.is_break() {
                    return;
                }
            }
        }
    }
}

/// What a panic said.
#[must_use]
pub fn words(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "without words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_doubles_up_to_its_bound_with_jitter() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for around in [100.0, 200.0, 350.0, 350.0] {
            let millis = backoff.next().as_secs_f64() * 1000.0;
            assert!(
                (around * 0.75..=around * 1.25).contains(&millis),
                "{millis} of {around}"
            );
        }
    }

    #[test]
    fn what_panicked_begins_again_until_it_is_told_not_to() {
        let (mut runs, mut told) = (0, Vec::new());
        let going = keep_going(
            || {
                runs += 1;
                let run = runs;
                async move { assert!(run > 2, "run {run}") }
            },
            |words| {
                told.push(words);
                async { ControlFlow::Continue(()) }
            },
        );
        futures::executor::block_on(going);
        assert_eq!((runs, told), (3, vec!["run 1".to_owned(), "run 2".to_owned()]));
        let mut runs = 0;
        let stopped = keep_going(
            || {
                runs += 1;
                async { panic!("always") }
            },
            |_| async { ControlFlow::Break(()) },
        );
        futures::executor::block_on(stopped);
        assert_eq!(runs, 1);
    }
}

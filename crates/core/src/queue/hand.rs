//! From the task that reads to the future that waits: what is handed over is either taken or comes back, never lost.
//! For adapters whose receive must not be broken off in the middle: it runs in a task, and only the waiting is dropped.

use std::{
    future::poll_fn,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use futures::task::AtomicWaker;

use super::Delivery;
use crate::error::{Error, ErrorKind, Result};

/// One receive's result, on its way from one task that puts to one future that takes.
#[derive(Debug, Default)]
pub struct Hand {
    state: Mutex<State>,
    ready: AtomicWaker,
    gone: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    gone: bool,
    result: Option<Result<Vec<Delivery>>>,
}

impl Hand {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to work for whoever waits.
    #[must_use]
    pub fn work(&self, operation: &'static str) -> Work<'_> {
        Work {
            hand: self,
            operation: Some(operation),
        }
    }

    fn put(&self, result: Result<Vec<Delivery>>) -> Option<Result<Vec<Delivery>>> {
        let mut state = self.state();
        if state.gone {
            return Some(result);
        }
        state.result = Some(result);
        drop(state);
        self.ready.wake();
        None
    }

    /// Waits for the result, by one future at a time. Between taking it and the caller there is no await.
    pub async fn take(&self) -> Result<Vec<Delivery>> {
        poll_fn(|context| {
            self.ready.register(context.waker());
            self.state().result.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Nobody waits any more; answers what was handed over and not taken.
    pub fn leave(&self) -> Option<Result<Vec<Delivery>>> {
        let mut state = self.state();
        state.gone = true;
        let left = state.result.take();
        drop(state);
        self.gone.wake();
        left
    }

    /// Whether nobody waits any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.state().gone
    }

    /// Waits until nobody waits any more; asked by one future at a time.
    pub async fn gone(&self) {
        poll_fn(|context| {
            self.gone.register(context.waker());
            if self.is_gone() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// The side that receives. Where it ends without a result, for it has panicked or its runtime is gone, whoever waits is told so.
#[derive(Debug)]
pub struct Work<'a> {
    hand: &'a Hand,
    operation: Option<&'static str>,
}

impl Work<'_> {
    /// Hands the result over; answers it back where nobody waits.
    pub fn put(mut self, result: Result<Vec<Delivery>>) -> Option<Result<Vec<Delivery>>> {
        self.operation = None;
        self.hand.put(result)
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if let Some(operation) = self.operation.take() {
            let message = "the task that received has ended without a result";
            drop(
                self.hand
                    .put(Err(Error::new(ErrorKind::Unavailable, operation, message))),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::{FutureExt, executor::block_on};

    use super::*;

    #[test]
    fn what_is_put_is_taken_once() {
        let hand = Arc::new(Hand::default());
        assert!(hand.take().now_or_never().is_none(), "nothing was put");
        let taker = std::thread::spawn({
            let hand = Arc::clone(&hand);
            move || block_on(hand.take())
        });
        assert!(hand.put(Ok(Vec::new())).is_none());
        assert!(taker.join().unwrap().unwrap().is_empty());
        assert!(hand.take().now_or_never().is_none(), "it was taken");
    }

    #[test]
    fn what_nobody_takes_comes_back() {
        let hand = Hand::default();
        assert!(hand.gone().now_or_never().is_none());
        assert!(hand.put(Ok(Vec::new())).is_none());
        assert!(hand.leave().is_some_and(|left| left.is_ok()), "put, and not taken");
        assert!(hand.is_gone() && hand.gone().now_or_never().is_some());
        let late = Err(Error::new(ErrorKind::Unavailable, "queue.receive", "late"));
        assert!(hand.put(late).is_some_and(|back| back.is_err()), "put after leaving");
    }

    #[test]
    fn whoever_waits_hears_that_the_work_ended_without_a_result() {
        let hand = Hand::default();
        drop(hand.work("queue.receive"));
        let told = hand.take().now_or_never().expect("told at once");
        assert_eq!(told.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(hand.work("queue.receive").put(Ok(Vec::new())).is_none());
        assert!(hand.take().now_or_never().is_some_and(|told| told.is_ok()), "once only");
        assert!(hand.take().now_or_never().is_none());
    }

    #[test]
    fn whoever_works_hears_that_nobody_waits() {
        let hand = Arc::new(Hand::default());
        let worker = std::thread::spawn({
            let hand = Arc::clone(&hand);
            move || block_on(hand.gone())
        });
        assert!(hand.leave().is_none());
        worker.join().unwrap();
    }
}

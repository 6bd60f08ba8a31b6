//! From the task that reads to the future that waits: what is handed over is either taken or comes back, never lost.

use std::sync::{Mutex, MutexGuard, PoisonError};

use robata_core::{Result, queue::Delivery};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// One receive's result, on its way.
#[derive(Debug, Default)]
pub(crate) struct Hand {
    state: Mutex<State>,
    ready: Notify,
    /// Cancelled when nobody waits any more.
    gone: CancellationToken,
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

    /// Hands it over; answers it back where nobody waits.
    pub(crate) fn put(&self, result: Result<Vec<Delivery>>) -> Option<Result<Vec<Delivery>>> {
        let mut state = self.state();
        if state.gone {
            return Some(result);
        }
        state.result = Some(result);
        drop(state);
        self.ready.notify_one();
        None
    }

    /// Waits for the result. Between taking it and the caller there is no await.
    pub(crate) async fn take(&self) -> Result<Vec<Delivery>> {
        loop {
            if let Some(result) = self.state().result.take() {
                return result;
            }
            self.ready.notified().await;
        }
    }

    /// Nobody waits any more; answers what was handed over and not taken.
    pub(crate) fn leave(&self) -> Option<Result<Vec<Delivery>>> {
        let mut state = self.state();
        state.gone = true;
        let left = state.result.take();
        drop(state);
        self.gone.cancel();
        left
    }

    /// Whether nobody waits any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Waits until nobody waits any more.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

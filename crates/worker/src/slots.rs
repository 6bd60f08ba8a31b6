//! An executor's slots (PROTOCOL X2). Adoption may take more than there are (H5), so this is no semaphore.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The slots of one executor, or its places for starts that wait.
#[derive(Clone, Debug)]
pub(crate) struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    used: Mutex<usize>,
    freed: Notify,
}

/// One slot, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Inner>);

impl Slots {
    pub(crate) fn new(max: usize) -> Self {
        Self(Arc::new(Inner {
            max,
            used: Mutex::new(0),
            freed: Notify::new(),
        }))
    }

    pub(crate) fn free(&self) -> usize {
        self.0
            .max
            .saturating_sub(*self.0.used.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn try_take(&self) -> Option<Slot> {
        let mut used = self.0.used.lock().unwrap_or_else(PoisonError::into_inner);
        (*used < self.0.max).then(|| {
            *used += 1;
            Slot(Arc::clone(&self.0))
        })
    }

    /// Takes a slot beyond the limit, for what runs already.
    pub(crate) fn take_adopted(&self) -> Slot {
        *self.0.used.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Slot(Arc::clone(&self.0))
    }

    pub(crate) async fn take(&self) -> Slot {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(slot) = self.try_take() {
                return slot;
            }
            freed.await;
        }
    }

    /// Waits until a slot is free, and takes none.
    pub(crate) async fn wait_free(&self) {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.free() > 0 {
                return;
            }
            freed.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.used.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slot_given_back_wakes_a_waiter() {
        let slots = Slots::new(1);
        let slot = slots.take().await;
        assert!(slots.try_take().is_none());
        let waiter = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take().await }
        });
        drop(slot);
        waiter.await.unwrap();
    }

    #[test]
    fn adoption_is_not_limited() {
        let slots = Slots::new(1);
        let all: Vec<_> = (0..3).map(|_| slots.take_adopted()).collect();
        assert_eq!(slots.free(), 0);
        drop(all);
        assert_eq!(slots.free(), 1);
    }
}

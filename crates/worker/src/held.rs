//! What this process holds: the attempts it follows, and how to reach their tasks.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use robata_core::{AttemptId, Epoch, IncarnationId, store::held_hash};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// What others tell an attempt's task.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    /// Somebody asked to cancel the job.
    pub(crate) cancel: bool,
    /// Somebody follows the log until then.
    pub(crate) followed_until: Option<tokio::time::Instant>,
}

#[derive(Debug)]
struct Entry {
    epoch: Epoch,
    incarnation: IncarnationId,
    wishes: watch::Sender<Wishes>,
    let_go: CancellationToken,
    /// Runs, and is only followed: a stopping worker need not wait for it.
    resting: bool,
}

/// The attempts of this process.
#[derive(Debug, Default)]
pub(crate) struct HeldMap {
    map: Mutex<HashMap<AttemptId, Entry>>,
    changed: Notify,
}

/// A task's own end of its entry.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    pub(crate) attempt: AttemptId,
    pub(crate) epoch: Epoch,
    pub(crate) incarnation: IncarnationId,
    pub(crate) wishes: watch::Receiver<Wishes>,
    /// Cancelled when somebody else holds the attempt now.
    pub(crate) let_go: CancellationToken,
}

impl Holding {
    /// Waits until somebody asked to cancel.
    pub(crate) async fn cancel_wished(&self) {
        let mut wishes = self.wishes.clone();
        let closed = wishes.wait_for(|wishes| wishes.cancel).await.is_err();
        if closed {
            // The entry is gone: this task is told to let go.
            std::future::pending::<()>().await;
        }
    }
}

impl HeldMap {
    fn lock(&self) -> MutexGuard<'_, HashMap<AttemptId, Entry>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an attempt in; an older task of the same attempt is told to let go. `None` where the epoch is not newer.
    pub(crate) fn insert(
        &self,
        attempt: AttemptId,
        epoch: Epoch,
        incarnation: IncarnationId,
        cancel: bool,
    ) -> Option<Holding> {
        let mut map = self.lock();
        if let Some(old) = map.get(&attempt) {
            if old.epoch >= epoch {
                return None;
            }
            old.let_go.cancel();
        }
        let wishes = watch::Sender::new(Wishes {
            cancel,
            followed_until: None,
        });
        let let_go = CancellationToken::new();
        let holding = Holding {
            attempt,
            epoch,
            incarnation,
            wishes: wishes.subscribe(),
            let_go: let_go.clone(),
        };
        map.insert(
            attempt,
            Entry {
                epoch,
                incarnation,
                wishes,
                let_go,
                resting: false,
            },
        );
        Some(holding)
    }

    /// The task of this epoch is over.
    pub(crate) fn remove(&self, attempt: AttemptId, epoch: Epoch) {
        let mut map = self.lock();
        if map.get(&attempt).is_some_and(|entry| entry.epoch == epoch) {
            map.remove(&attempt);
            self.changed.notify_waiters();
        }
    }

    /// The attempt runs and is only followed, or not any more.
    pub(crate) fn set_resting(&self, holding: &Holding, resting: bool) {
        if let Some(entry) = self
            .lock()
            .get_mut(&holding.attempt)
            .filter(|entry| entry.epoch == holding.epoch)
        {
            entry.resting = resting;
        }
        self.changed.notify_waiters();
    }

    /// Has those who wait look again.
    pub(crate) fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until nothing is held, and this, too.
    pub(crate) async fn empty(&self, and: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().is_empty() && and() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until everything held only runs.
    pub(crate) async fn resting(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().values().all(|entry| entry.resting) {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn cancel(&self, attempt: AttemptId) {
        if let Some(entry) = self.lock().get(&attempt) {
            entry
                .wishes
                .send_if_modified(|wishes| !std::mem::replace(&mut wishes.cancel, true));
        }
    }

    pub(crate) fn followed(&self, attempt: AttemptId, until: tokio::time::Instant) {
        if let Some(entry) = self.lock().get(&attempt) {
            entry.wishes.send_modify(|wishes| wishes.followed_until = Some(until));
        }
    }

    pub(crate) fn contains(&self, attempt: AttemptId) -> bool {
        self.lock().contains_key(&attempt)
    }

    pub(crate) fn let_go(&self, attempt: AttemptId, epoch: Epoch) {
        if let Some(entry) = self.lock().get(&attempt).filter(|entry| entry.epoch == epoch) {
            entry.let_go.cancel();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Everything held under this incarnation.
    pub(crate) fn all(&self, incarnation: IncarnationId) -> Vec<(AttemptId, Epoch)> {
        let map = self.lock();
        map.iter()
            .filter(|(_, entry)| entry.incarnation == incarnation)
            .map(|(id, entry)| (*id, entry.epoch))
            .collect()
    }

    /// As a heartbeat's answer counts it.
    pub(crate) fn count_and_hash(&self, incarnation: IncarnationId) -> (u64, u64) {
        let all = self.all(incarnation);
        let hash = all.iter().fold(0_u64, |sum, (attempt, epoch)| {
            sum.wrapping_add(held_hash(*attempt, *epoch))
        });
        (all.len() as u64, hash)
    }
}

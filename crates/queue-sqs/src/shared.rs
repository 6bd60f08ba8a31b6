//! What all parts of one queue share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use robata_core::queue::{left_out::LeftOut, share::Share};
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    SqsConfig,
    client::{Clients, Link},
    desk::Desk,
    error::Fault,
    held::Held,
    lines::Lines,
    names::Names,
};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: SqsConfig,
    pub(crate) names: Names,
    link: Link,
    pub(crate) lines: Lines,
    /// This queue's name in receipts; never used before or again.
    pub(crate) run: String,
    held: Mutex<Held>,
    share: Mutex<Share>,
    desk: Mutex<Desk>,
    left_out: Mutex<LeftOut>,
    /// Wakes the keeper.
    pub(crate) chores: Arc<Notify>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks can panic halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(config: SqsConfig) -> Result<Self, Fault> {
        Ok(Self {
            names: Names::new(&config.installation),
            link: Link::new(&config)?,
            lines: Lines::default(),
            run: uuid::Uuid::new_v4().simple().to_string(),
            held: Mutex::default(),
            share: Mutex::default(),
            desk: Mutex::default(),
            left_out: Mutex::default(),
            chores: Arc::default(),
            keeper: Mutex::default(),
            config,
        })
    }

    pub(crate) async fn clients(&self) -> &Clients {
        self.link.get(&self.config).await
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        locked(&self.held)
    }

    pub(crate) fn share(&self) -> MutexGuard<'_, Share> {
        locked(&self.share)
    }

    pub(crate) fn desk(&self) -> MutexGuard<'_, Desk> {
        locked(&self.desk)
    }

    /// Lines that failed alone.
    pub(crate) fn left_out(&self) -> MutexGuard<'_, LeftOut> {
        locked(&self.left_out)
    }

    /// Starts the keeper where none runs: at first use, and again where the runtime that it lived on is gone.
    pub(crate) fn keeper(&self, start: impl FnOnce() -> JoinHandle<()>) {
        let mut keeper = locked(&self.keeper);
        if keeper.as_ref().is_none_or(JoinHandle::is_finished) {
            *keeper = Some(start());
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The keeper looks whether we are still there.
        self.chores.notify_one();
    }
}

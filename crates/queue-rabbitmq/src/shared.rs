//! What all parts of one queue share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use robata_core::{
    job::Line,
    queue::{left_out::LeftOut, share::Share},
};
use tokio::{
    sync::{OnceCell, Semaphore},
    time::Instant,
};

use crate::{RabbitMqConfig, error::Fault, held::Held, link::Link, names::Names};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: RabbitMqConfig,
    pub(crate) names: Names,
    /// For what is published.
    pub(crate) outward: Link,
    /// For all else.
    pub(crate) inward: Link,
    /// This queue's name in receipts; never used before or again.
    pub(crate) run: String,
    /// Held by whoever makes a line's queue.
    pub(crate) making: Arc<tokio::sync::Mutex<()>>,
    /// Set once the broker has begun with streams.
    pub(crate) streams: OnceCell<()>,
    held: Mutex<Held>,
    share: Mutex<Share>,
    left_out: Mutex<LeftOut>,
    pub(crate) receivers: Semaphore,
    pub(crate) publishers: Semaphore,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks can panic halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what must not be left half done in a task of its own: a caller who goes away leaves it to its end.
pub(crate) async fn in_a_task<T: Send + 'static>(
    work: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> Result<T, Fault> {
    tokio::spawn(work).await.unwrap_or(Err(Fault::Ended))
}

impl Shared {
    pub(crate) fn new(config: RabbitMqConfig) -> Result<Self, Fault> {
        let permits = |count: usize| Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS));
        Ok(Self {
            names: Names::new(&config.installation),
            outward: Link::new(&config, "publishes")?,
            inward: Link::new(&config, "receives")?,
            run: uuid::Uuid::new_v4().simple().to_string(),
            making: Arc::default(),
            streams: OnceCell::new(),
            held: Mutex::default(),
            share: Mutex::default(),
            left_out: Mutex::default(),
            receivers: permits(config.max_receivers),
            publishers: permits(config.max_publishers),
            config,
        })
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        locked(&self.held)
    }

    pub(crate) fn share(&self) -> MutexGuard<'_, Share> {
        locked(&self.share)
    }

    /// Leaves a line out of receives for a while; answers whether any of these lines may still do.
    pub(crate) fn leave_out(&self, line: &Line, of: &[(Line, u32)]) -> bool {
        let mut left_out = locked(&self.left_out);
        left_out.leave_out(line, Instant::now().into_std());
        left_out.may_any(of)
    }

    /// Those of a receive's lines that may do; all of them where none may.
    pub(crate) fn promising(&self, lines: &[(Line, u32)]) -> Vec<(Line, u32)> {
        locked(&self.left_out).promising(lines, Instant::now().into_std())
    }
}

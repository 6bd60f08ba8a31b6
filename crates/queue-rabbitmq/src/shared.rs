//! What all parts of one queue share.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use robata_core::{job::Line, queue::share::Share};
use tokio::{
    sync::{OnceCell, Semaphore},
    time::Instant,
};

use crate::{RabbitMqConfig, error::Fault, held::Held, link::Link, names::Names};

/// So long a line that failed alone is left out of receives that have others.
const LEFT_OUT: Duration = Duration::from_secs(15);

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
    pub(crate) making: tokio::sync::Mutex<()>,
    /// Set once the broker has begun with streams.
    pub(crate) streams: OnceCell<()>,
    held: Mutex<Held>,
    share: Mutex<Share>,
    /// Lines that failed alone, each with the time from which it is tried again.
    failed: Mutex<HashMap<Line, Instant>>,
    pub(crate) receivers: Semaphore,
    pub(crate) publishers: Semaphore,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks can panic halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(config: RabbitMqConfig) -> Result<Self, Fault> {
        let permits = |count: usize| Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS));
        Ok(Self {
            names: Names::new(&config.installation),
            outward: Link::new(&config, "publishes")?,
            inward: Link::new(&config, "receives")?,
            run: uuid::Uuid::new_v4().simple().to_string(),
            making: tokio::sync::Mutex::default(),
            streams: OnceCell::new(),
            held: Mutex::default(),
            share: Mutex::default(),
            failed: Mutex::default(),
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
        let mut failed = locked(&self.failed);
        failed.insert(line.clone(), Instant::now() + LEFT_OUT);
        of.iter().any(|(line, _)| !failed.contains_key(line))
    }

    /// Those of a receive's lines that may do; all of them where none may.
    pub(crate) fn promising(&self, lines: &[(Line, u32)]) -> Vec<(Line, u32)> {
        let mut failed = locked(&self.failed);
        failed.retain(|_, until| Instant::now() < *until);
        let some: Vec<_> = lines.iter().filter(|(line, _)| !failed.contains_key(line)).collect();
        if some.is_empty() {
            lines.to_vec()
        } else {
            some.into_iter().cloned().collect()
        }
    }
}

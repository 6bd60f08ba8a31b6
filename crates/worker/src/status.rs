//! What a worker says about itself, for whoever asks whether it can do its work.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, Weak},
};

use robata_core::ExecutorName;

use crate::shared::Shared;

/// How a worker stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Whether it has a lease that is valid now: without one it claims nothing.
    pub has_lease: bool,
    /// Attempts it holds.
    pub held: usize,
    /// Its executors.
    pub executors: BTreeMap<ExecutorName, ExecutorStatus>,
}

/// How one of a worker's executors stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecutorStatus {
    /// Whether its engine was reached since the worker began.
    pub reached: bool,
    /// Attempts at once.
    pub slots: usize,
    /// Of these, free ones.
    pub free: usize,
}

/// Reads a worker's status while it runs, and after it: then it is that of a worker that does nothing.
#[derive(Clone, Debug, Default)]
pub struct StatusReader(Arc<OnceLock<Weak<Shared>>>);

impl StatusReader {
    pub(crate) fn begin(&self, shared: &Weak<Shared>) {
        // A worker runs once.
        let _ = self.0.set(Weak::clone(shared));
    }

    /// How it stands now.
    #[must_use]
    pub fn read(&self) -> Status {
        let Some(shared) = self.0.get().and_then(Weak::upgrade) else {
            return Status::default();
        };
        let executors = shared.engines.values().map(|engine| {
            let status = ExecutorStatus {
                reached: engine.realm().is_some(),
                slots: engine.max_slots,
                free: engine.slots.free(),
            };
            (engine.name.clone(), status)
        });
        Status {
            has_lease: shared.lease.valid().is_some(),
            held: shared.held.len(),
            executors: executors.collect(),
        }
    }
}

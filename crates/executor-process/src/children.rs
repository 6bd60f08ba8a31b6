//! The supervisors that this process has started: they are its children, and whoever has children buries them.

use std::{
    collections::HashMap,
    process::Child,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use robata_core::executor::Handle;

/// What nobody asked about is looked at this often, at most.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Children {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    living: HashMap<Handle, Child>,
    /// Those that freed their lock and are on the last step of their end.
    leaving: Vec<Child>,
    swept: Instant,
}

impl Children {
    pub(crate) fn new() -> Self {
        Self {
            inner: Mutex::new(Inner {
                living: HashMap::new(),
                leaving: Vec::new(),
                swept: Instant::now(),
            }),
        }
    }

    /// Keeps a new one; and now and then looks at all, because another worker may have removed what was ours.
    pub(crate) fn add(&self, handle: Handle, child: Child) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.living.insert(handle, child);
        if inner.swept.elapsed() > SWEEP {
            inner.swept = Instant::now();
            inner.living.retain(|_, child| lives(child));
        }
        inner.leaving.retain_mut(lives);
    }

    /// Takes leave of one whose lock is free. Never waits.
    pub(crate) fn ended(&self, handle: &Handle) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = inner.living.remove(handle) {
            inner.leaving.push(child);
        }
        inner.leaving.retain_mut(lives);
    }
}

fn lives(child: &mut Child) -> bool {
    match child.try_wait() {
        Ok(status) => status.is_none(),
        // Somebody else in this program has waited for it.
        Err(_) => false,
    }
}

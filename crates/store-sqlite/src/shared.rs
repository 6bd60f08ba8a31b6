//! What the writer and those who read have in common: kept in memory, because one process holds the folder.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use robata_core::{
    AppName, ExecutorName, IncarnationId, InstallationId, Timestamp, definition::Catalog, job::Line, store::Hint,
};
use tokio::sync::broadcast;

use crate::{clock::Clock, lease::Leases};

/// Hints that a slow listener may be behind before it loses some.
const HINTS: usize = 4096;

/// The store's memory.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) installation: InstallationId,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) default_executor: Option<ExecutorName>,
    leases: Mutex<Leases>,
    catalog: RwLock<Arc<Catalog>>,
    pub(crate) hints: broadcast::Sender<Hint>,
    /// The app that a line's last reference went to, by priority's rank: the next one's turn is after it.
    turns: Mutex<HashMap<(Line, i64), AppName>>,
}

impl Shared {
    pub(crate) fn new(
        installation: InstallationId,
        clock: Arc<dyn Clock>,
        default_executor: Option<ExecutorName>,
        catalog: Catalog,
    ) -> Self {
        let leases = Mutex::new(Leases::new(clock.boot()));
        Self {
            installation,
            clock,
            default_executor,
            leases,
            catalog: RwLock::new(Arc::new(catalog)),
            hints: broadcast::Sender::new(HINTS),
            turns: Mutex::default(),
        }
    }

    pub(crate) fn wall(&self) -> Timestamp {
        self.clock.wall()
    }

    pub(crate) fn boot(&self) -> Duration {
        self.clock.boot()
    }

    /// The leases; nothing awaits while it holds them.
    pub(crate) fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn turns(&self) -> MutexGuard<'_, HashMap<(Line, i64), AppName>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_catalog(&self, catalog: Arc<Catalog>) {
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = catalog;
    }

    pub(crate) fn live_executors(&self) -> BTreeSet<ExecutorName> {
        self.leases().executors()
    }

    /// `host/incarnation`, as attempts tell their worker.
    pub(crate) fn worker(&self, id: IncarnationId) -> String {
        match self.leases().host(id) {
            Some(host) => format!("{host}/{id}"),
            None => id.to_string(),
        }
    }
}

//! What the writer and those who read have in common: kept in memory, because one process holds the folder.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use robata_core::{
    AppName, ExecutorName, Format, IncarnationId, InstallationId, Timestamp, definition::Catalog, format::Seen,
    job::Line, store::Hint,
};
use sqlx::{Row as _, sqlite::SqliteRow};
use tokio::sync::broadcast;

use crate::{clock::Clock, error::Result, lease::Leases, pause::Paused};

/// Hints that a slow listener may be behind before it loses some.
const HINTS: usize = 4096;

/// Rows that cannot be read of which it is remembered that somebody was told; beyond it they are told again.
const TOLD: usize = 1_000;

/// The store's memory.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) installation: InstallationId,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) default_executor: Option<ExecutorName>,
    leases: Mutex<Leases>,
    catalog: RwLock<Arc<Catalog>>,
    paused: RwLock<Arc<Paused>>,
    pub(crate) hints: broadcast::Sender<Hint>,
    /// The app that a line's last reference went to, by priority's rank: the next one's turn is after it.
    turns: Mutex<HashMap<(Line, i64), AppName>>,
    told: Mutex<HashSet<String>>,
    /// The format in use.
    pub(crate) format: Seen,
}

impl Shared {
    pub(crate) fn new(
        installation: InstallationId,
        clock: Arc<dyn Clock>,
        default_executor: Option<ExecutorName>,
        catalog: Catalog,
        paused: Paused,
        format: Format,
    ) -> Self {
        let leases = Mutex::new(Leases::new(clock.boot()));
        Self {
            installation,
            clock,
            default_executor,
            leases,
            catalog: RwLock::new(Arc::new(catalog)),
            paused: RwLock::new(Arc::new(paused)),
            hints: broadcast::Sender::new(HINTS),
            turns: Mutex::default(),
            told: Mutex::default(),
            format: Seen::new(format),
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

    /// What was made of a row; `None`, and told once, where the row itself is at fault: it is left out alone, so that all
    /// others go their way.
    pub(crate) fn readable<T>(&self, row: &SqliteRow, made: Result<T>) -> Result<Option<T>> {
        let fault = match made {
            Ok(made) => return Ok(Some(made)),
            Err(fault) if fault.is_of_one_row() => fault,
            Err(fault) => return Err(fault),
        };
        let place = |name| row.try_get::<i64, _>(name).ok();
        let row = match (place("t_seq"), place("seq")) {
            (Some(attempt), _) => format!("attempts.seq {attempt}"),
            (None, Some(job)) => format!("jobs.seq {job}"),
            (None, None) => "a row without a number".to_owned(),
        };
        let error = fault.to_error("store.read");
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD {
            told.clear();
        }
        if told.insert(format!("{row}: {error}")) {
            tracing::warn!(row, error = %error.full(), "a stored row cannot be read; it is left out");
        }
        Ok(None)
    }

    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_catalog(&self, catalog: Arc<Catalog>) {
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = catalog;
    }

    pub(crate) fn paused(&self) -> Arc<Paused> {
        Arc::clone(&self.paused.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_paused(&self, paused: Arc<Paused>) {
        *self.paused.write().unwrap_or_else(PoisonError::into_inner) = paused;
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

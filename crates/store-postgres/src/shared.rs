//! What the store keeps in memory, shared by readers and writers: nothing that the database does not know better.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicI64, AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use robata_core::{
    AppName, ClaimId, ExecutorName, InstallationId, QueueName, Timestamp,
    definition::Catalog,
    format::Seen,
    job::Line,
    store::{Hint, Pause},
};
use sqlx::{Row as _, postgres::PgRow};
use tokio::sync::{broadcast, mpsc, watch};
use uuid::Uuid;

use crate::error::Result;

/// Hints that a slow listener may be behind before it loses some.
const HINTS: usize = 4096;
/// Hints for other processes that wait to be sent; what exceeds them is lost.
const TO_SEND: usize = 8192;
/// Rows that cannot be read of which it is remembered that somebody was told; beyond it they are told again.
const TOLD: usize = 1_000;
/// Counter rows of each line.
const SHARDS: u16 = 16;
/// What is known of workers and pauses is this old at most where it only colours an answer.
const COLOURS: Duration = Duration::from_secs(1);

/// What says why a queued job waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Colours {
    pub(crate) executors: BTreeSet<ExecutorName>,
    pub(crate) paused: BTreeMap<QueueName, Pause>,
}

/// The store's memory.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) installation: InstallationId,
    /// This process among those of the installation.
    pub(crate) process: Uuid,
    pub(crate) default_executor: Option<ExecutorName>,
    catalog: RwLock<Arc<Catalog>>,
    pub(crate) hints: broadcast::Sender<Hint>,
    pub(crate) to_send: mpsc::Sender<Vec<Hint>>,
    /// The app that a line's last reference went to, by priority's rank: the next one's turn is after it.
    turns: Mutex<HashMap<(Line, i16), AppName>>,
    colours: Mutex<Option<(Instant, Arc<Colours>)>>,
    /// Claims under way in this process: who asks for one by its number waits for it first.
    claims: Mutex<HashMap<ClaimId, watch::Receiver<()>>>,
    told: Mutex<HashSet<String>>,
    /// The format in use as it was seen last.
    pub(crate) format: Seen,
    shard: AtomicU16,
    /// When this process first judged leases, by the store's clock; 0: not yet (PROTOCOL H4: a master's own start).
    pub(crate) judges_since: AtomicI64,
}

impl Shared {
    pub(crate) fn new(
        installation: InstallationId,
        default_executor: Option<ExecutorName>,
    ) -> (Self, mpsc::Receiver<Vec<Hint>>) {
        let process = Uuid::new_v4();
        let (to_send, sending) = mpsc::channel(TO_SEND);
        let shared = Self {
            installation,
            process,
            default_executor,
            catalog: RwLock::new(Arc::new(Catalog::default())),
            hints: broadcast::Sender::new(HINTS),
            to_send,
            turns: Mutex::default(),
            colours: Mutex::default(),
            claims: Mutex::default(),
            told: Mutex::default(),
            format: Seen::default(),
            shard: AtomicU16::new(u16::from(process.as_bytes()[0])),
            judges_since: AtomicI64::new(0),
        };
        (shared, sending)
    }

    pub(crate) fn turns(&self) -> MutexGuard<'_, HashMap<(Line, i16), AppName>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was made of a row; `None`, and told once, where the row itself is at fault: it is left out alone, so that all
    /// others go their way.
    pub(crate) fn readable<T>(&self, row: &PgRow, made: Result<T>) -> Result<Option<T>> {
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

    /// The catalog as it was last read.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_catalog(&self, catalog: Arc<Catalog>) {
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = catalog;
    }

    /// What was last known of workers and pauses, where it is young enough.
    pub(crate) fn colours(&self) -> Option<Arc<Colours>> {
        let colours = self.colours.lock().unwrap_or_else(PoisonError::into_inner);
        colours
            .as_ref()
            .filter(|(at, _)| at.elapsed() < COLOURS)
            .map(|(_, colours)| Arc::clone(colours))
    }

    pub(crate) fn set_colours(&self, colours: Option<Arc<Colours>>) {
        *self.colours.lock().unwrap_or_else(PoisonError::into_inner) = colours.map(|colours| (Instant::now(), colours));
    }

    /// Notes that a claim is under way until the sender is dropped.
    pub(crate) fn claim_begins(&self, claim: ClaimId) -> watch::Sender<()> {
        let (sender, receiver) = watch::channel(());
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.retain(|_, receiver| receiver.has_changed().is_ok());
        claims.insert(claim, receiver);
        sender
    }

    /// Waits until this claim is not under way any more; each is bounded in time.
    pub(crate) async fn claim_over(&self, claim: ClaimId) {
        let receiver = {
            let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
            claims.get(&claim).cloned()
        };
        if let Some(mut receiver) = receiver {
            // An error says that the sender is gone: over.
            let _ = receiver.changed().await;
        }
    }

    /// The counter rows that the next transaction adds to.
    pub(crate) fn next_shard(&self) -> i16 {
        (self.shard.fetch_add(1, Ordering::Relaxed) % SHARDS).cast_signed()
    }

    /// Tells hints to this process at once, and to the others soon.
    pub(crate) fn tell(&self, hints: Vec<Hint>) {
        if hints.is_empty() {
            return;
        }
        for hint in &hints {
            // Nobody listens: nobody needs it.
            let _ = self.hints.send(hint.clone());
        }
        // Full: hints are lossy by contract.
        let _ = self.to_send.try_send(hints);
    }

    /// Since when this process judges leases.
    pub(crate) fn judges_since(&self, now: Timestamp) -> Timestamp {
        let first = self
            .judges_since
            .compare_exchange(0, now.as_millis(), Ordering::SeqCst, Ordering::SeqCst);
        Timestamp::from_millis(match first {
            Ok(_) => now.as_millis(),
            Err(earlier) => earlier,
        })
    }
}

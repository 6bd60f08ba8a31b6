//! What all parts of one queue share, and how they talk to the server.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use redis::Value;
use robata_core::{
    job::Line,
    queue::{Delivery, share::Share},
};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    RedisConfig,
    error::Fault,
    held::Held,
    keys::Keys,
    link::Source,
    main_link::{Ask, MainLink, ask},
    reader::Reader,
};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: RedisConfig,
    pub(crate) keys: Keys,
    pub(crate) source: Source,
    pub(crate) main: MainLink,
    /// This queue's name among consumers; never used before or again.
    pub(crate) run: String,
    held: Mutex<Held>,
    share: Mutex<Share>,
    idle: Mutex<Vec<Reader>>,
    pub(crate) permits: Semaphore,
    pub(crate) next_reader: AtomicU64,
    /// Since when this process has said that it lives, without a gap.
    steady_since: Mutex<Option<Instant>>,
    /// The last id that the server gave in each line.
    last_ids: Mutex<HashMap<Line, (u64, u64)>>,
    /// Whether anything was ever received: then there is a sign of life to keep.
    pub(crate) receives: AtomicBool,
    /// Wakes the keeper.
    pub(crate) chores: Arc<Notify>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks can panic halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(config: RedisConfig, source: Source) -> Self {
        Self {
            keys: Keys::new(&config.installation),
            permits: Semaphore::new(config.max_receivers.clamp(1, Semaphore::MAX_PERMITS)),
            config,
            source,
            main: MainLink::default(),
            run: uuid::Uuid::new_v4().simple().to_string(),
            held: Mutex::default(),
            share: Mutex::default(),
            idle: Mutex::default(),
            next_reader: AtomicU64::new(0),
            steady_since: Mutex::default(),
            last_ids: Mutex::default(),
            receives: AtomicBool::new(false),
            chores: Arc::default(),
            keeper: Mutex::default(),
        }
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        locked(&self.held)
    }

    pub(crate) fn share(&self) -> MutexGuard<'_, Share> {
        locked(&self.share)
    }

    pub(crate) fn idle(&self) -> MutexGuard<'_, Vec<Reader>> {
        locked(&self.idle)
    }

    /// Asks on the shared connection. What may be asked twice is asked again where only the connection was stale; what
    /// this server has not even begun, at any rate.
    pub(crate) async fn ask(self: &Arc<Self>, question: Ask<'_>, twice: bool) -> Result<Value, Fault> {
        crate::keeper::ensure(self);
        loop {
            let mut got = self.main.get(&self.source, &self.config).await?;
            match ask(&mut got.link, question, self.config.response_timeout).await {
                Err(fault) if fault.ends_connection() => {
                    self.main.forget(&got).await;
                    let may = twice || fault.is_elsewhere();
                    if got.fresh || !may || matches!(fault, Fault::Silent(_)) {
                        return Err(fault);
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Starts the keeper where none runs: at first use, and again where the runtime that it lived on is gone.
    pub(crate) fn keeper(&self, start: impl FnOnce() -> JoinHandle<()>) {
        let mut keeper = locked(&self.keeper);
        if keeper.as_ref().is_none_or(JoinHandle::is_finished) {
            *keeper = Some(start());
        }
    }

    /// The server has heard that this process lives; `lapsed` where it had not known it a moment ago.
    pub(crate) fn said_alive(&self, lapsed: bool) {
        let mut since = locked(&self.steady_since);
        if lapsed || since.is_none() {
            *since = Some(Instant::now());
        }
    }

    /// The server could not be told that this process lives.
    pub(crate) fn not_said_alive(&self) {
        *locked(&self.steady_since) = None;
    }

    /// Whether the server has served for so long without a gap that whoever lives has been able to say so. Before
    /// that, nobody may be called dead: a server that was away has let the signs of the living lapse, too.
    pub(crate) fn may_judge(&self) -> bool {
        locked(&self.steady_since).is_some_and(|since| since.elapsed() >= self.config.consumer_expiry)
    }

    /// Notes the last id of a line; ids only grow.
    pub(crate) fn note_id(&self, line: &Line, id: (u64, u64)) {
        let mut ids = locked(&self.last_ids);
        let last = ids.entry(line.clone()).or_default();
        *last = id.max(*last);
    }

    pub(crate) fn last_id(&self, line: &Line) -> (u64, u64) {
        locked(&self.last_ids).get(line).copied().unwrap_or_default()
    }

    /// The line has lost entries, and that is known now.
    pub(crate) fn forget_id(&self, line: &Line) {
        locked(&self.last_ids).remove(line);
    }

    /// Has these published again, for others.
    pub(crate) fn put_back(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        let mut held = self.held();
        let mut any = false;
        for delivery in deliveries {
            held.put_back(&delivery.line, delivery.receipt.0);
            any = true;
        }
        drop(held);
        if any {
            self.chores.notify_one();
        }
    }

    /// How long a read that we gave up may still be served.
    pub(crate) fn grace(&self) -> Duration {
        self.config.block_slice() + self.config.response_timeout
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(keeper) = locked(&self.keeper).take() {
            keeper.abort();
        }
    }
}

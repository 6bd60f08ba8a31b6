//! The tokens as this process remembers them. It looks at the store at the first need, at every hint, and every few
//! seconds whether there was one or not: so a revocation is in force everywhere within ten seconds.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use robata_core::{
    access::{Token, TokenHash, Tokens},
    store::{Hint, Store},
};
use subtle::ConstantTimeEq;
use tokio::{
    sync::Mutex,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    bearer::Shown,
    identity::{Identity, unauthenticated},
};
use crate::refused::{Refused, Result};

/// Hints may be lost: the store is looked at this often.
const REFRESH: Duration = Duration::from_secs(4);
/// The store answers within this time, or what is remembered stays in force.
const READ_WITHIN: Duration = Duration::from_secs(3);
/// A token that is not remembered is looked for in the store at most this often.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A stream of hints that ended is asked for again after this time.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// The settings' admin token and the stored ones.
pub(crate) struct Keyring {
    memory: Arc<Memory>,
    admin: Option<TokenHash>,
    listener: OnceLock<AbortOnDropHandle<()>>,
}

/// What was last read of the store.
struct Memory {
    store: Arc<dyn Store>,
    known: RwLock<Option<Arc<Known>>>,
    /// When the store was last asked, whatever it said; one asks at a time.
    asked: Mutex<Option<Instant>>,
    /// Whether it did not tell them then.
    failing: AtomicBool,
}

struct Known {
    by_hash: HashMap<TokenHash, Token>,
    ever: bool,
    /// The store's time when it was read, and when that was.
    now: robata_core::Timestamp,
    read: Instant,
}

impl Keyring {
    pub(crate) fn new(store: Arc<dyn Store>, admin: Option<TokenHash>) -> Arc<Self> {
        Arc::new(Self {
            memory: Arc::new(Memory {
                store,
                known: RwLock::default(),
                asked: Mutex::default(),
                failing: AtomicBool::new(false),
            }),
            admin,
            listener: OnceLock::new(),
        })
    }

    /// Whether the settings have an admin token of their own.
    pub(crate) fn has_settings_token(&self) -> bool {
        self.admin.is_some()
    }

    /// Who shows this; what is not remembered is looked for in the store.
    pub(super) async fn identify(self: &Arc<Self>, shown: Shown) -> Result<Identity> {
        self.listen();
        let found = self.remembered(shown);
        match (&found, shown) {
            // The first token was perhaps made at another master just now, and the hint is on its way.
            (Ok(who), Shown::Token(_)) if who.needs_no_token() => self.memory.look_unless_just_asked().await,
            (Ok(_), _) => return found,
            // As this one was. What is refused is refused by the store's word from now.
            (Err(_), Shown::Token(_)) => self.memory.look_from_now_on().await,
            (Err(_), _) if self.memory.known().is_none() => self.memory.look_from_now_on().await,
            (Err(_), _) => return found,
        }
        match (self.remembered(shown), shown) {
            // It may have been made since the tokens were read last: nobody can tell now.
            (Err(refused), Shown::Token(_))
                if refused.status() == 401 && self.memory.failing.load(Ordering::Relaxed) =>
            {
                let detail = "the tokens cannot be read now, and this one is not among those that are remembered";
                Err(Refused::unavailable(detail, LOOK_AGAIN))
            }
            (found, _) => found,
        }
    }

    /// Who shows this, as far as is remembered.
    pub(super) fn remembered(self: &Arc<Self>, shown: Shown) -> Result<Identity> {
        // First: it is good without the store.
        if let (Shown::Token(hash), Some(admin)) = (shown, &self.admin)
            && bool::from(hash.0.ct_eq(&admin.0))
        {
            return Ok(Identity::settings(shown, Arc::clone(self)));
        }
        let Some(known) = self.memory.known() else {
            let detail = "the tokens cannot be read, so nobody can be let in but by the settings' admin token";
            return Err(Refused::unavailable(detail, LOOK_AGAIN));
        };
        if !known.ever && self.admin.is_none() {
            return Ok(Identity::local(shown, Arc::clone(self)));
        }
        match shown {
            Shown::Token(hash) => known
                .bearer(&hash)
                .map(|token| Identity::bearer(token, shown, Arc::clone(self)))
                .ok_or_else(unauthenticated),
            Shown::Nothing | Shown::Malformed => Err(unauthenticated()),
        }
    }

    /// Reads the store now: for whoever has just changed it.
    pub(crate) async fn look(&self) {
        let mut asked = self.memory.asked.lock().await;
        self.memory.ask(&mut asked).await;
    }

    /// Starts the listener to hints, once; at the first request, where a runtime is certain.
    pub(crate) fn listen(&self) {
        self.listener
            .get_or_init(|| AbortOnDropHandle::new(tokio::spawn(listen(Arc::clone(&self.memory)))));
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").finish_non_exhaustive()
    }
}

impl Known {
    fn new(tokens: Tokens, read: Instant) -> Self {
        Self {
            ever: tokens.ever,
            now: tokens.now,
            read,
            by_hash: tokens.tokens.into_iter().map(|token| (token.hash, token)).collect(),
        }
    }

    /// The token of this hash, unless it has expired by the store's clock.
    fn bearer(&self, hash: &TokenHash) -> Option<&Token> {
        let token = self.by_hash.get(hash)?;
        let same = bool::from(token.hash.0.ct_eq(&hash.0));
        let now = self.now.plus(self.read.elapsed());
        (same && token.expires_at.is_none_or(|end| now < end)).then_some(token)
    }
}

impl Memory {
    fn known(&self) -> Option<Arc<Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the store, unless that was done just now.
    async fn look_unless_just_asked(&self) {
        let mut asked = self.asked.lock().await;
        if asked.is_none_or(|at| at.elapsed() >= LOOK_AGAIN) {
            self.ask(&mut asked).await;
        }
    }

    /// Comes back once the store was asked after this call, for all that wait at once: whoever tries tokens waits, and makes
    /// no load there.
    async fn look_from_now_on(&self) {
        let called = Instant::now();
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at >= called) {
            return;
        }
        if let Some(at) = *asked {
            sleep_until(at + LOOK_AGAIN).await;
        }
        self.ask(&mut asked).await;
    }

    async fn ask(&self, asked: &mut Option<Instant>) {
        // What was true when the question went out counts from then on: a token expires rather a moment too soon.
        let begun = Instant::now();
        *asked = Some(begun);
        let told = timeout(READ_WITHIN, self.store.tokens()).await;
        self.failing.store(!matches!(told, Ok(Ok(_))), Ordering::Relaxed);
        match told {
            Ok(Ok(tokens)) => {
                let new = Arc::new(Known::new(tokens, begun));
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(new);
            }
            // The last known ones stay in force.
            Ok(Err(error)) => tracing::warn!(error = %error.full(), "cannot read the tokens"),
            Err(_elapsed) => tracing::warn!("the store did not tell the tokens in time"),
        }
    }
}

async fn listen(memory: Arc<Memory>) {
    let mut refresh = interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut hints = memory.store.hints();
        loop {
            let changed = tokio::select! {
                hint = hints.next() => match hint {
                    Some(Hint::Tokens | Hint::Gap) => true,
                    Some(_) => false,
                    None => break,
                },
                _ = refresh.tick() => true,
            };
            if changed {
                memory.ask(&mut *memory.asked.lock().await).await;
            }
        }
        sleep(LISTEN_AGAIN).await;
    }
}

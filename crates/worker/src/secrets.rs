//! The secrets of one attempt: had from their source right before each prepare, kept in memory alone, and masked in all that
//! is kept of the attempt (DESIGN.md §7).
//!
//! Whoever adopts an attempt has no values. It asks the engine, which may tell those that the thing was made with, else the
//! source, which tells them as they are now; until it has them it keeps nothing of the output: the engine is the spool.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use robata_core::{
    AppName, AttemptId, Error, ErrorKind, ExecutorName, Result, Secret, SecretName,
    attempt::HeldAttempt,
    executor::{Executor, Handle},
    finish::Outcome,
    secret::Secrets,
};
use tokio::sync::watch;

use crate::{
    backoff::Backoff,
    mask::{Mask, Masks, SHORTEST},
};

/// How long the end of an adopted attempt is held up, so that the engine's words can be masked before they are kept.
const WORDS_WAIT: Duration = Duration::from_secs(1);
const WITHHELD: &str = "the engine's words are not kept: the secrets to be masked in them could not be had again";

/// The values of one attempt have at most so many bytes together: what finds them takes a hundred times as much.
const MOST_BYTES: usize = 64 << 10;

/// What is masked of an attempt; unknown where the values are still to be had.
type Known = Option<Option<Arc<Mask>>>;

/// An attempt's secrets.
pub(crate) struct AttemptSecrets {
    attempt: AttemptId,
    app: AppName,
    executor: ExecutorName,
    /// Variable → name.
    wanted: BTreeMap<String, SecretName>,
    source: Option<Arc<dyn Secrets>>,
    masks: Arc<Masks>,
    /// Every value that an attempt may have got: a prepare whose answer was lost may have made it with an earlier one.
    values: Mutex<Vec<Secret>>,
    known: watch::Sender<Known>,
}

impl fmt::Debug for AttemptSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptSecrets")
            .field("wanted", &self.wanted)
            .finish_non_exhaustive()
    }
}

impl AttemptSecrets {
    pub(crate) fn of(held: &HeldAttempt, source: Option<Arc<dyn Secrets>>, masks: &Arc<Masks>) -> Self {
        let request = &held.request;
        let wanted = request.definition.secrets.clone();
        let known = wanted.is_empty().then_some(None);
        Self {
            attempt: held.id,
            app: request.app.clone(),
            executor: request.executor.clone(),
            wanted,
            source,
            masks: Arc::clone(masks),
            values: Mutex::default(),
            known: watch::Sender::new(known),
        }
    }

    /// The values as they are now, by the variables that they are for.
    pub(crate) async fn resolve(&self) -> Result<BTreeMap<String, Secret>> {
        if self.wanted.is_empty() {
            return Ok(BTreeMap::new());
        }
        let Some(source) = &self.source else {
            let names: Vec<_> = self.wanted.values().map(SecretName::as_str).collect();
            let words = format!(
                "nothing says where executor {} has its secrets, as {}: set `secrets` in its table of the worker's settings",
                self.executor,
                names.join(", ")
            );
            return Err(Error::new(ErrorKind::NotFound, "secrets.resolve", words));
        };
        let names: BTreeSet<_> = self.wanted.values().cloned().collect();
        let found = source.resolve(&self.app, &names).await?;
        let bytes: usize = found.values().map(|value| value.expose().len()).sum();
        if bytes > MOST_BYTES {
            let words = format!("its secrets have {bytes} bytes together, and at most {MOST_BYTES} can be masked");
            return Err(Error::new(ErrorKind::Invalid, "secrets.resolve", words));
        }
        self.learn(&found).await?;
        self.wanted
            .iter()
            .map(|(variable, name)| match found.get(name) {
                Some(value) => Ok((variable.clone(), value.clone())),
                None => {
                    let words = format!("the source of secrets does not answer for {name}");
                    Err(Error::new(ErrorKind::Unavailable, "secrets.resolve", words))
                }
            })
            .collect()
    }

    /// Resolves for a start: what is not there is the definition's fault, what cannot be asked now the platform's.
    pub(crate) async fn for_start(&self) -> Result<BTreeMap<String, Secret>> {
        self.resolve().await.map_err(|error| {
            let kind = match error.kind() {
                ErrorKind::NotFound | ErrorKind::Invalid => ErrorKind::StartRefused,
                _ => ErrorKind::Unavailable,
            };
            Error::new(kind, "secrets.resolve", error.full())
        })
    }

    async fn learn(&self, found: &BTreeMap<SecretName, Secret>) -> Result<()> {
        let all = {
            let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
            let before = values.len();
            for (name, value) in found {
                if values.contains(value) {
                    continue;
                }
                if value.expose().len() < SHORTEST {
                    tracing::warn!(attempt = %self.attempt, app = %self.app, secret = %name, "a value of fewer than {SHORTEST} bytes is not masked in logs");
                }
                values.push(value.clone());
            }
            if values.len() == before && self.are_known() {
                return Ok(());
            }
            values.clone()
        };
        self.known.send_replace(Some(self.masks.of(all).await?));
        Ok(())
    }

    /// Whether it is known what to mask.
    pub(crate) fn are_known(&self) -> bool {
        self.known.borrow().is_some()
    }

    /// The values of what was made before, by another worker: as the engine tells them, else as they are now.
    async fn again(&self, executor: &dyn Executor, handle: &Handle) -> Result<()> {
        let variables: BTreeSet<_> = self.wanted.keys().cloned().collect();
        let told = match executor.secrets(handle, &variables).await {
            Ok(told) => told.unwrap_or_default(),
            // It has no output left that could hold any.
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        if told.len() < variables.len() {
            return self.resolve().await.map(drop);
        }
        let named = |(variable, value): (String, Secret)| Some((self.wanted.get(&variable)?.clone(), value));
        self.learn(&told.into_iter().filter_map(named).collect()).await
    }

    /// The mask; asks until it has it.
    pub(crate) async fn mask(&self, executor: &dyn Executor, handle: &Handle) -> Option<Arc<Mask>> {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            if let Some(mask) = self.known.borrow().clone() {
                return mask;
            }
            if let Err(error) = self.again(executor, handle).await {
                tracing::warn!(
                    attempt = %self.attempt, error = %error.full(),
                    "the secrets of an adopted attempt cannot be had again; nothing more of its output is kept before they can be masked"
                );
                backoff.wait().await;
            }
        }
    }

    /// Somebody's words, masked; `None` where it is not known what to mask.
    fn words(&self, words: &str) -> Option<String> {
        match &*self.known.borrow() {
            Some(Some(mask)) => Some(mask.text(words)),
            Some(None) => Some(words.to_owned()),
            None => None,
        }
    }

    /// The same words, masked.
    pub(crate) fn masked(&self, words: String) -> String {
        self.words(&words).unwrap_or(words)
    }

    /// The same error, its words masked: engines echo what they are given.
    pub(crate) fn error(&self, error: Error) -> Error {
        match &*self.known.borrow() {
            Some(Some(mask)) => {
                Error::new(error.kind(), error.operation(), mask.text(&error.full())).with_retry(error.retry())
            }
            _ => error,
        }
    }

    /// The same outcome, the engine's words masked, or withheld where it is not known what to mask.
    pub(crate) async fn outcome(&self, outcome: Outcome) -> Outcome {
        if outcome.message.is_none() && outcome.detail.is_none() {
            return outcome;
        }
        if !self.are_known() {
            let mut known = self.known.subscribe();
            // Whether it came in time is seen below.
            let _ = tokio::time::timeout(WORDS_WAIT, known.wait_for(Option::is_some)).await;
        }
        let known = self.are_known();
        Outcome {
            detail: outcome.detail.filter(|_| known).map(|words| self.masked(words)),
            message: outcome
                .message
                .map(|words| if known { self.masked(words) } else { WITHHELD.to_owned() }),
            ..outcome
        }
    }
}

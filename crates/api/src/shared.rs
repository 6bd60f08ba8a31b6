//! What all requests share: store, logs, the catalog in memory, and who waits for what.

use std::{
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use futures::StreamExt;
use robata_core::{
    ErrorKind, JobId,
    definition::Catalog,
    log_store::LogStore,
    store::{Hint, Store},
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    Api, TryNeeds, WriteMetrics,
    access::Keyring,
    body,
    config::ApiConfig,
    degraded::{Degraded, Unanswered},
    hub::Hub,
    metrics::Metrics,
    path,
    refused::{Refused, Result},
};

/// Hints may be lost: the catalog is also looked at this often.
const REFRESH: Duration = Duration::from_secs(10);
/// A stream of hints that ended is asked for again after this time.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Shared by all requests.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) logs: Arc<dyn LogStore>,
    pub(crate) config: ApiConfig,
    pub(crate) degraded: Option<Degraded>,
    pub(crate) others: Option<TryNeeds>,
    pub(crate) more_metrics: Option<WriteMetrics>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) hub: Arc<Hub>,
    pub(crate) metrics: Metrics,
    pub(crate) bodies: Arc<Semaphore>,
    pub(crate) keyring: Arc<Keyring>,
    /// Held by whoever makes or revokes a token.
    pub(crate) tokens_change: Mutex<()>,
    catalog: Arc<CatalogCache>,
    listener: OnceLock<AbortOnDropHandle<()>>,
}

impl Shared {
    pub(crate) fn new(api: Api) -> Arc<Self> {
        Arc::new(Self {
            bodies: body::budget(api.config.max_bodies_bytes),
            keyring: Keyring::new(Arc::clone(&api.store), api.config.admin_token),
            tokens_change: Mutex::default(),
            degraded: api.degraded.map(|path| Degraded::new(path, Arc::clone(&api.store))),
            store: api.store,
            logs: api.logs,
            config: api.config,
            others: api.others,
            more_metrics: api.metrics,
            shutdown: api.shutdown,
            hub: Arc::default(),
            metrics: Metrics::default(),
            catalog: Arc::default(),
            listener: OnceLock::new(),
        })
    }

    /// Begins what runs beside the requests: the degraded path stands on what is in memory before the store fails.
    pub(crate) fn begin(&self) {
        if let Some(degraded) = &self.degraded {
            degraded.begin();
            self.listen();
            self.keyring.listen();
        }
    }

    /// Asks the store what `jobs` jobs need; in bounded time, unless the degraded path is switched off.
    pub(crate) async fn ask<T>(
        &self,
        jobs: usize,
        call: impl Future<Output = robata_core::Result<T>>,
    ) -> std::result::Result<robata_core::Result<T>, Unanswered> {
        match &self.degraded {
            Some(degraded) => degraded.ask(jobs, call).await,
            None => Ok(call.await),
        }
    }

    /// There is no such job, or it is one that was accepted and not taken in yet.
    pub(crate) async fn not_there(&self, id: JobId) -> Refused {
        if self.degraded.as_ref().is_some_and(|degraded| degraded.may_come(id)) {
            return not_yet(id);
        }
        match self.store.may_come(id).await {
            Ok(true) => not_yet(id),
            Ok(false) => path::unknown_job(id),
            Err(error) => error.into(),
        }
    }

    /// Why nothing can be said of this job, or done to it.
    pub(crate) async fn missing(&self, error: robata_core::Error, id: JobId) -> Refused {
        match error.kind() {
            ErrorKind::NotFound => self.not_there(id).await,
            ErrorKind::Unavailable if self.degraded.is_some() => {
                tracing::warn!(job = %id, error = %error.full(), "the store does not serve");
                not_yet(id)
            }
            _ => error.into(),
        }
    }

    /// Refuses what only the store can tell of a job while it is known not to serve: nobody is to wait for that. Where no job can
    /// be in the broker, a store that cannot write may still tell what it has.
    pub(crate) fn can_look(&self, id: JobId) -> Result<()> {
        match &self.degraded {
            Some(degraded) if degraded.is_open() && degraded.is_usable() => Err(not_yet(id)),
            _ => Ok(()),
        }
    }

    /// The catalog in memory; read from the store the first time.
    pub(crate) async fn catalog(&self) -> Result<Arc<Catalog>> {
        self.listen();
        match self.catalog.get() {
            Some(catalog) => Ok(catalog),
            None => match self.ask(1, self.store.catalog()).await {
                Ok(catalog) => Ok(self.catalog.put(catalog?)),
                Err(unanswered) => Err(unanswered.refused("no definitions are known yet")),
            },
        }
    }

    /// The catalog as the store has it now.
    pub(crate) async fn fresh_catalog(&self) -> Result<Arc<Catalog>> {
        Ok(self.catalog.put(self.store.catalog().await?))
    }

    /// The catalog as the store has it, for a name that the one in memory does not know: however new that one is, somebody may
    /// have applied a newer one by another master before this was asked.
    pub(crate) async fn newer_catalog(&self) -> std::result::Result<Result<Arc<Catalog>>, Unanswered> {
        let catalog = self.ask(1, self.store.catalog()).await?;
        Ok(catalog.map(|catalog| self.catalog.put(catalog)).map_err(Refused::from))
    }

    /// Keeps a catalog that the store answered.
    pub(crate) fn keep_catalog(&self, catalog: Catalog) -> Arc<Catalog> {
        self.catalog.put(catalog)
    }

    /// Starts the listener to hints, once. It is done at the first request that needs it, where a runtime is certain.
    pub(crate) fn listen(&self) {
        self.listener.get_or_init(|| {
            let task = listen(
                Arc::clone(&self.store),
                Arc::clone(&self.hub),
                Arc::clone(&self.catalog),
            );
            AbortOnDropHandle::new(tokio::spawn(task))
        });
    }
}

/// 503: whether there is such a job cannot be told yet.
fn not_yet(id: JobId) -> Refused {
    let detail = format!(
        "nobody can tell yet what became of the job {id}: if it was accepted while the store did not serve, it is taken in once \
         that serves"
    );
    let mut refused = Refused::unavailable(detail, Duration::from_secs(1));
    refused.0.code = "not_yet_taken_in".to_owned();
    refused.0.kind = "urn:robata:problem:not_yet_taken_in".to_owned();
    refused
}

async fn listen(store: Arc<dyn Store>, hub: Arc<Hub>, catalog: Arc<CatalogCache>) {
    let mut refresh = interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut hints = store.hints();
        loop {
            let changed = tokio::select! {
                hint = hints.next() => match hint {
                    Some(Hint::Job(job)) => {
                        hub.changed(job);
                        false
                    }
                    Some(Hint::Catalog) => true,
                    Some(Hint::Gap) => {
                        hub.all_changed();
                        true
                    }
                    Some(_) => false,
                    None => break,
                },
                _ = refresh.tick() => true,
            };
            if changed {
                match store.catalog().await {
                    Ok(new) => drop(catalog.put(new)),
                    // The old one serves on; the next tick tries again.
                    Err(error) => tracing::warn!(error = %error.full(), "cannot read the catalog"),
                }
            }
        }
        sleep(LISTEN_AGAIN).await;
    }
}

/// The newest catalog that was seen.
#[derive(Debug, Default)]
struct CatalogCache(RwLock<Option<Arc<Catalog>>>);

impl CatalogCache {
    fn get(&self) -> Option<Arc<Catalog>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps `new` unless a newer one is here; answers the newest.
    fn put(&self, new: Catalog) -> Arc<Catalog> {
        let mut cached = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let newest = match cached.take() {
            Some(old) if old.revision >= new.revision => old,
            _ => Arc::new(new),
        };
        *cached = Some(Arc::clone(&newest));
        newest
    }
}

//! The executor: the seam's methods, each handed to the module that does it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    Docker,
    models::ContainerSummary,
    query_parameters::{ListVolumesOptions, RemoveVolumeOptions},
};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use robata_core::{
    Error, ErrorKind, Result, Secret, Timestamp,
    executor::{
        Capabilities, Event, Executor, Handle, Observation, Output, Owned, Prepare, Prepared, ReadOutput, RealmId,
        Target,
    },
};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use crate::{
    DockerConfig,
    boot::{self, Watched},
    container,
    create::Creator,
    engine::{Engine, check_host},
    error::Fault,
    events, init, keep,
    killed::Stops,
    lifecycle, output, payload,
    realm::Realm,
    state,
};

/// More targets than this are looked up in one list first.
const FEW: usize = 4;
/// So many inspections are under way at once.
const LOOKS: usize = 8;
/// A volume that no container uses and that is older than this was left by a crash.
const OLD_VOLUME: Duration = Duration::from_secs(900);

/// Runs containers on one Docker engine.
///
/// Making one does not need the engine to be up; the connection is made at the first use, and again when it is lost.
#[derive(Clone, Debug)]
pub struct DockerExecutor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    engine: Arc<Engine>,
    realm: Arc<Realm>,
    watched: Arc<Watched>,
    stops: Stops,
    creator: Creator,
    starts: Option<Semaphore>,
    /// One start of a container at a time.
    starting: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

impl DockerExecutor {
    /// An executor on the engine that `config` names.
    ///
    /// # Errors
    /// `Invalid` for an address that is none.
    pub fn connect(config: DockerConfig) -> Result<Self> {
        check_host(config.shown_host())?;
        Ok(Self::new(config, None))
    }

    /// An executor on an engine that the caller has a client for; `config.host` is only shown in errors.
    #[must_use]
    pub fn from_client(client: Docker, config: DockerConfig) -> Self {
        Self::new(config, Some(client))
    }

    fn new(config: DockerConfig, client: Option<Docker>) -> Self {
        let starts = (config.parallel_starts > 0).then(|| Semaphore::new(config.parallel_starts));
        Self {
            inner: Arc::new(Inner {
                engine: Arc::new(Engine::new(config, client)),
                realm: Arc::default(),
                watched: Arc::default(),
                stops: Stops::default(),
                creator: Creator::default(),
                starts,
                starting: Mutex::default(),
            }),
        }
    }

    async fn list(&self, operation: &'static str) -> Result<Vec<ContainerSummary>> {
        let engine = &self.inner.engine;
        let listed = engine.containers(Some(engine.filter())).await;
        listed.map_err(|fault| fault.into_error(operation))
    }

    /// The ids and names that the engine has of ours.
    async fn known(&self) -> Result<HashSet<String>> {
        let listed = self.list("docker.observe").await?;
        let names = |one: &ContainerSummary| one.names.clone().unwrap_or_default();
        let known = listed.into_iter().flat_map(|one| {
            let names = names(&one)
                .into_iter()
                .map(|name| name.trim_start_matches('/').to_owned());
            names.chain(one.id).collect::<Vec<_>>()
        });
        Ok(known.collect())
    }

    fn lock_of(&self, handle: &Handle) -> Arc<AsyncMutex<()>> {
        let mut starting = self.inner.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = starting.get(&handle.0).and_then(Weak::upgrade) {
            return lock;
        }
        starting.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(AsyncMutex::new(()));
        starting.insert(handle.0.clone(), Arc::downgrade(&lock));
        lock
    }

    /// Removes what crashes have left beside containers: payload files and volumes that none uses.
    async fn sweep(&self, containers: &[ContainerSummary]) -> Result<()> {
        const OPERATION: &str = "docker.owned";
        let engine = &self.inner.engine;
        if let Some(folder) = &engine.config.payload_folder {
            let mounts = containers.iter().flat_map(|one| one.mounts.iter().flatten());
            let used: HashSet<PathBuf> = mounts
                .filter_map(|mount| mount.source.as_ref())
                .map(PathBuf::from)
                .collect();
            payload::sweep(folder, engine.config.installation, |path: &Path| used.contains(path));
        }
        let mut filters = engine.filter();
        filters.insert("dangling".to_owned(), vec!["true".to_owned()]);
        let options = ListVolumesOptions { filters: Some(filters) };
        let listed = engine.call(|client| client.list_volumes(Some(options))).await;
        let volumes = listed
            .map_err(|fault| fault.into_error(OPERATION))?
            .volumes
            .unwrap_or_default();
        if volumes.is_empty() {
            return Ok(());
        }
        let info = engine
            .call(|client| client.info())
            .await
            .map_err(|fault| fault.into_error(OPERATION))?;
        let now = state::time(info.system_time.as_ref()).unwrap_or_default();
        for volume in volumes.into_iter().filter(|volume| !keep::is_record(volume)) {
            let made = state::time(volume.created_at.as_ref()).unwrap_or(now);
            // A younger one may belong to a container that is being made.
            if now.since(made) > OLD_VOLUME {
                let removed = engine
                    .call(|client| client.remove_volume(&volume.name, None::<RemoveVolumeOptions>))
                    .await;
                match removed {
                    Err(fault) if !matches!(fault.status(), Some(404 | 409)) => return Err(fault.into_error(OPERATION)),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

async fn look(engine: &Engine, stops: &Stops, id: &str) -> Result<Observation, Fault> {
    let Some(found) = engine.ours(id).await? else {
        return Ok(state::absent());
    };
    let mut observation = state::observation(&found);
    init::tell_apart(engine, &found, &mut observation).await?;
    stops.explain(&found, &mut observation);
    Ok(observation)
}

#[async_trait]
impl Executor for DockerExecutor {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.images = true;
        capabilities.separate_streams = true;
        capabilities.exact_bytes = true;
        capabilities.live_logs = true;
        capabilities.tells_out_of_memory = true;
        capabilities.outlives_worker = true;
        capabilities.parallel_starts = self.inner.engine.config.parallel_starts;
        capabilities
    }

    async fn realm(&self) -> Result<RealmId> {
        self.inner.realm.id(&self.inner.engine).await
    }

    async fn prepare(&self, request: Prepare) -> Result<Prepared> {
        let inner = &self.inner;
        Box::pin(inner.creator.prepare(&inner.engine, &inner.realm, &request)).await
    }

    async fn start(&self, handle: &Handle) -> Result<()> {
        let lock = self.lock_of(handle);
        let _alone = lock.lock().await;
        let _slot = match &self.inner.starts {
            Some(starts) => starts.acquire().await.ok(),
            None => None,
        };
        lifecycle::start(&self.inner.engine, &handle.0).await
    }

    fn events(&self) -> BoxStream<'static, Event> {
        let inner = &self.inner;
        events::events(
            Arc::clone(&inner.engine),
            Arc::clone(&inner.realm),
            Arc::clone(&inner.watched),
        )
    }

    async fn observe(&self, targets: &[Target]) -> Result<Vec<Observation>> {
        let known = if targets.len() > FEW {
            Some(self.known().await?)
        } else {
            None
        };
        let (engine, stops) = (&self.inner.engine, &self.inner.stops);
        let mut ids = Vec::with_capacity(targets.len());
        for target in targets {
            let (Target::Handle(Handle(id)) | Target::Name(id)) = target;
            ids.push(id.clone());
        }
        let looks = ids.into_iter().map(|id| {
            let absent = known.as_ref().is_some_and(|known| !known.contains(&id));
            async move {
                if absent {
                    return Ok(state::absent());
                }
                look(engine, stops, &id)
                    .await
                    .map_err(|fault| fault.into_error("docker.observe"))
            }
        });
        let mut seen: Vec<_> = stream::iter(looks).buffered(LOOKS).try_collect().await?;
        let marked = boot::mark(engine, &self.inner.watched, &mut seen).await;
        marked.map_err(|fault| fault.into_error("docker.observe"))?;
        Ok(seen)
    }

    async fn stop(&self, handle: &Handle, grace_period: Duration) -> Result<()> {
        self.inner.stops.remember(&handle.0);
        lifecycle::stop(&self.inner.engine, &handle.0, grace_period).await
    }

    async fn output(&self, request: ReadOutput) -> Result<BoxStream<'static, Result<Output>>> {
        output::output(Arc::clone(&self.inner.engine), Arc::clone(&self.inner.watched), request).await
    }

    async fn secrets(&self, handle: &Handle, variables: &BTreeSet<String>) -> Result<Option<BTreeMap<String, Secret>>> {
        let found = self.inner.engine.ours(&handle.0).await;
        let found = found.map_err(|fault| fault.into_error("docker.secrets"))?;
        let found = found.ok_or_else(|| Error::new(ErrorKind::NotFound, "docker.secrets", "the container is gone"))?;
        container::variables(&found, variables).map(Some)
    }

    async fn remove(&self, handle: &Handle, force: bool) -> Result<()> {
        lifecycle::remove(&self.inner.engine, &handle.0, force).await
    }

    async fn now(&self) -> Result<Option<Timestamp>> {
        let info = self.inner.engine.call(|client| client.info()).await;
        let info = info.map_err(|fault| fault.into_error("docker.now"))?;
        Ok(state::time(info.system_time.as_ref()))
    }

    async fn owned(&self) -> Result<Vec<Owned>> {
        let listed = self.list("docker.owned").await?;
        self.sweep(&listed).await?;
        // Images that stay too long harm nobody.
        if let Err(error) = self.inner.creator.kept.sweep(&self.inner.engine).await {
            tracing::warn!(error = %error.full(), "cannot clean up images");
        }
        let owned = listed.into_iter().map(|one| {
            let handle = one.id.map(Handle).ok_or_else(|| {
                Error::new(
                    ErrorKind::Internal,
                    "docker.owned",
                    "the engine lists a container without an id",
                )
            })?;
            Ok(Owned {
                handle,
                labels: one.labels.map(BTreeMap::from_iter).unwrap_or_default(),
                created_at: Timestamp::from_millis(one.created.unwrap_or_default().saturating_mul(1000)),
            })
        });
        owned.collect()
    }
}

//! The parts of a program while they run: none of them ends unseen, and all stop by one token.

use anyhow::anyhow;
use axum::Router;
use robata_api::{Api, ApiConfig, DegradedConfig, DegradedPath, Probes, WriteMetrics};
use robata_core::access::TokenHash;
use robata_settings::Settings;
use robata_worker::{StatusReader, Worker};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    listener::Listener,
    local::LocalApi,
    needs,
    parts::{self, Parts},
};

/// What runs beside each other.
#[derive(Debug, Default)]
pub struct Running {
    tasks: JoinSet<(&'static str, anyhow::Result<usize>)>,
    stop: CancellationToken,
}

/// A part that ended before it was told to.
#[derive(Debug)]
pub enum Ended {
    /// By itself, and well.
    Well(&'static str),
    /// Of this.
    Failed(anyhow::Error),
}

impl Ended {
    /// The same as a failure, for a part that must not end by itself.
    #[must_use]
    pub fn failure(self) -> anyhow::Error {
        match self {
            Self::Well(part) => anyhow!("the {part} ended by itself"),
            Self::Failed(error) => error,
        }
    }
}

impl Running {
    /// The name of the part that a worker is; it ends by itself, and well, once it has drained.
    pub const WORKER: &str = "worker";

    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Told to all parts when they are to stop.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs a part; it answers how many attempts it leaves running.
    pub fn part(&mut self, name: &'static str, work: impl Future<Output = anyhow::Result<usize>> + Send + 'static) {
        self.tasks.spawn(async move { (name, work.await) });
    }

    /// The API, answered nowhere yet; `worker` is one that runs in this process, too.
    #[must_use]
    pub fn local_api(
        &self,
        parts: &Parts,
        settings: &Settings,
        metrics: WriteMetrics,
        worker: Option<StatusReader>,
    ) -> LocalApi {
        let mut api = Api::new(parts.store(), parts.logs(), api(settings));
        api.shutdown = self.token();
        api.degraded = degraded(settings).map(|config| DegradedPath {
            queue: parts.queue(),
            config,
        });
        api.others = Some(needs::of_master(parts.queue(), worker));
        api.metrics = Some(metrics);
        LocalApi(robata_api::router(api))
    }

    /// Answers others there.
    pub fn api(&mut self, listener: Listener, api: LocalApi) {
        self.serve("API", listener, api.0);
    }

    /// A worker's own small listener.
    pub fn probes(
        &mut self,
        listener: Listener,
        parts: &Parts,
        settings: &Settings,
        metrics: WriteMetrics,
        worker: StatusReader,
    ) {
        let router = robata_api::probes(Probes {
            needs: needs::of_worker(parts.store(), parts.queue(), parts.logs(), worker),
            metrics,
            hosts: settings.server.hosts.clone(),
            any_address: settings.worker.listen.is_reached_by_others(),
            store: parts.store(),
            admin_token: admin_token(settings),
        });
        self.serve("listener", listener, router);
    }

    fn serve(&mut self, name: &'static str, listener: Listener, router: Router) {
        let stop = self.token();
        self.part(name, async move {
            listener.serve(router, stop).await;
            Ok(0)
        });
    }

    /// The scheduler.
    pub fn scheduler(&mut self, parts: &Parts, settings: &Settings) {
        let (scheduler, stop) = (parts.scheduler(settings), self.token());
        self.part("scheduler", async move {
            scheduler.run(stop).await;
            Ok(0)
        });
    }

    /// A worker. It may end by itself, and well: drained.
    pub fn worker(&mut self, worker: Worker) {
        let stop = self.token();
        self.part(Self::WORKER, async move { Ok(worker.run(stop).await.attempts) });
    }

    /// Waits until a part ends before it was told to. Dropping this loses nothing.
    pub async fn ended(&mut self) -> Ended {
        match self.tasks.join_next().await {
            Some(Ok((part, Ok(_)))) => Ended::Well(part),
            Some(Ok((part, Err(error)))) => Ended::Failed(error.context(format!("the {part} failed"))),
            Some(Err(panicked)) => Ended::Failed(anyhow!(panicked).context("a part panicked")),
            None => Ended::Failed(anyhow!("nothing runs any more")),
        }
    }

    /// Tells all parts to stop and waits for them; answers how many attempts go on without us.
    pub async fn stop(&mut self) -> usize {
        self.stop.cancel();
        let mut left = 0;
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok((_, Ok(attempts))) => left += attempts,
                Ok((part, Err(error))) => {
                    tracing::error!(part, error = crate::message(&error), "failed while it stopped");
                }
                Err(panicked) => tracing::error!(%panicked, "a part panicked while it stopped"),
            }
        }
        left
    }
}

fn admin_token(settings: &Settings) -> Option<TokenHash> {
    settings
        .auth
        .admin_token
        .as_ref()
        .map(|secret| TokenHash::of(&secret.0))
}

/// The way for jobs while the store does not serve, unless it is switched off.
fn degraded(settings: &Settings) -> Option<DegradedConfig> {
    let of = &settings.degraded;
    let mut config = DegradedConfig::default();
    config.failures = of.failures;
    config.hang = of.hang;
    config.max_job_bytes = usize::try_from(of.job_bytes.bytes).unwrap_or(usize::MAX);
    config.max_outage_bytes = of.outage_bytes.bytes;
    of.enabled.then_some(config)
}

fn api(settings: &Settings) -> ApiConfig {
    let limits = &settings.limits;
    let bytes = |size: robata_core::definition::Memory| usize::try_from(size.bytes).unwrap_or(usize::MAX);
    let mut config = ApiConfig::default();
    if let Some(name) = settings.default_executor() {
        config.default_executor = name;
    }
    config.executors = settings.executors.keys().cloned().collect();
    config.policies = parts::policies(settings);
    config.admin_token = admin_token(settings);
    config.hosts.clone_from(&settings.server.hosts);
    config.any_address = settings.server.listen.is_reached_by_others();
    config.max_body_bytes = bytes(limits.body_bytes);
    config.max_bodies_bytes = config.max_bodies_bytes.max(config.max_body_bytes);
    config.max_payload_bytes = bytes(limits.payload_bytes);
    config.max_depth = limits.json_depth;
    config.max_labels = limits.labels;
    config.max_batch = limits.batch_jobs;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_is_a_host_only_where_others_reach_the_port() {
        let mut settings = Settings::default();
        assert!(!api(&settings).any_address);
        for others in ["0.0.0.0:7070", "10.0.0.7:7070", "[::]:7070"] {
            settings.server.listen = others.parse().unwrap();
            assert!(api(&settings).any_address, "{others}");
        }
    }

    #[tokio::test]
    async fn a_part_that_panics_is_seen_and_the_others_stop() {
        let mut running = Running::new();
        let stop = running.token();
        running.part("good", async move {
            stop.cancelled().await;
            Ok(3)
        });
        running.part("bad", async { panic!("as a test") });
        let error = running.ended().await.failure();
        assert!(crate::message(&error).contains("panicked"), "{error:?}");
        assert_eq!(running.stop().await, 3);
    }

    #[tokio::test]
    async fn a_part_that_ends_well_or_ill_is_told_by_its_name() {
        let mut running = Running::new();
        running.part("short", async { Ok(0) });
        assert_eq!(running.ended().await.failure().to_string(), "the short ended by itself");
        running.part("ill", async { Err(anyhow!("no disk")) });
        assert_eq!(
            crate::message(&running.ended().await.failure()),
            "the ill failed: no disk"
        );
        assert_eq!(running.stop().await, 0);
    }
}

//! A fleet that runs: masters from the folder of this program, and workers that do nothing but bookkeeping.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail, ensure};
use robata_client::{ApplyOptions, ApplyRequest};
use robata_settings::{Defaults, Settings, Sources, StoreSettings};
use serde_json::json;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use super::{Fleet, SLOTS};
use crate::bench::{
    daemon::Daemon,
    front::{APP, Front},
    server::Server,
};

/// The executor of the bench's jobs.
const EXECUTOR: &str = "noop";
/// Until all workers are known to a master.
const KNOWN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// Masters and workers over one space.
#[derive(Debug)]
pub(super) struct Crew {
    /// The masters.
    pub(super) server: Server,
    pub(super) workers: Vec<Daemon>,
    /// Where a worker writes down when it was asked to start what.
    pub(super) stamps: PathBuf,
    config: PathBuf,
}

/// A connection pool to the server's own database.
pub(super) async fn pool(server: &Server, connections: u32) -> anyhow::Result<PgPool> {
    let StoreSettings::Postgres(postgres) = &server.settings.store else {
        bail!("the server under test is not over PostgreSQL");
    };
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .connect(&postgres.url)
        .await;
    pool.context("PostgreSQL is not reached")
}

impl Crew {
    /// Masters in a new space, with the bench's definitions.
    pub(super) async fn start(fleet: &Fleet, masters: usize) -> anyhow::Result<Self> {
        let url = fleet.space().await?;
        let folder = tempfile::Builder::new().prefix("robata-bench-").tempdir()?;
        let config = folder.path().join("settings.toml");
        let text = format!(
            "[data]\nfolder = {:?}\n[store.postgres]\nurl = {url:?}\n[queue.redis]\nurl = {:?}\n\
             [executors.{EXECUTOR}.process]\nslots = {SLOTS}\n[telemetry]\nlog = \"json\"\n",
            folder.path().join("data"),
            fleet.queue_url,
        );
        std::fs::write(&config, text)?;
        let (mut fronts, mut daemons) = (Vec::new(), Vec::new());
        for number in 0..masters {
            let mut command = Command::new(fleet.programs.join("robata-master"));
            command.args(["--listen", "127.0.0.1:0", "--config"]).arg(&config);
            let place = folder.path().join(format!("master-{number}"));
            let (daemon, told) = Daemon::start("robata-master", command, &place, "listening").await?;
            let url = told["url"].as_str().context("the master tells no address")?;
            fronts.push(Front::at(url)?);
            daemons.push(daemon);
        }
        let definitions = json!({"apps": {APP: {"executor": EXECUTOR, "command": ["true"], "jobs": {"true": {}}}}});
        let request = ApplyRequest {
            document: definitions,
            ..ApplyRequest::default()
        };
        let front = fronts.first().context("a fleet has a master")?;
        let applied = front.client.apply(&request, ApplyOptions::default()).await?;
        ensure!(
            applied.problems.is_empty(),
            "the bench's definitions: {:?}",
            applied.problems
        );
        Ok(Self {
            server: Server {
                settings: settings(&config)?,
                fronts,
                daemons,
                executor: EXECUTOR,
                gate: None,
                folder,
            },
            workers: Vec::new(),
            stamps: config.with_file_name("stamps"),
            config,
        })
    }

    /// Adds workers of this program that do nothing but bookkeeping, and waits until they are known. With `stamps` they
    /// write down when they were asked to start what.
    pub(super) async fn add_workers(&mut self, count: usize, stamps: bool) -> anyhow::Result<()> {
        for number in 0..count {
            let mut command = Command::new("/proc/self/exe");
            command.arg0("robata").args(["bench", "--worker"]).arg(&self.config);
            if stamps {
                command.arg("--stamps").arg(&self.stamps);
            }
            let place = self.config.with_file_name(format!("worker-{number}"));
            let (daemon, _) = Daemon::start("worker of the bench", command, &place, "working").await?;
            self.workers.push(daemon);
        }
        let begin = Instant::now();
        let client = &self.server.client;
        while client
            .workers()
            .await?
            .iter()
            .filter(|worker| worker.ended_at.is_none())
            .count()
            < count
        {
            ensure!(begin.elapsed() < KNOWN, "the workers do not register: {}", self.said());
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Adds a real `robata-worker`; it stops with the masters.
    pub(super) async fn add_worker(&mut self, fleet: &Fleet) -> anyhow::Result<()> {
        let mut command = Command::new(fleet.programs.join("robata-worker"));
        command.arg("--config").arg(&self.config);
        let place = self.config.with_file_name("worker");
        let (daemon, _) = Daemon::start("robata-worker", command, &place, "working").await?;
        self.server.daemons.push(daemon);
        Ok(())
    }

    /// What the workers said last.
    pub(super) fn said(&self) -> String {
        let said: Vec<_> = self.workers.iter().map(Daemon::errors).collect();
        said.join("; ")
    }

    /// Ends all, workers first.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        while let Some(mut worker) = self.workers.pop() {
            worker.stop().await?;
        }
        self.server.stop().await
    }
}

/// The daemons' own settings; nothing of this process's environment.
fn settings(config: &std::path::Path) -> anyhow::Result<Settings> {
    let sources = Sources {
        defaults: Defaults {
            data_folder: config.with_file_name("data"),
            host: "bench".to_owned(),
            cores: 2,
        },
        file: Some(config.to_owned()),
        variables: Vec::new(),
        flags: Vec::new(),
    };
    Ok(sources.load()?.settings)
}

//! Everything in one process: `robata up` of this very program, over SQLite in a folder that goes when it does.

use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use robata_settings::Settings;
use tokio::process::Command;

use super::{
    BenchArgs, Scenario,
    daemon::Daemon,
    docker,
    enqueue::PAYLOAD,
    front::{APP, Front},
    gate::Gate,
    process,
    report::Report,
    server::Server,
    site::{Raw, Shape, Site, Targets},
    sqlite,
};
use crate::fault::Usage;

/// What the server should be like.
#[derive(Debug, Default)]
pub(super) struct Setup {
    /// Slots of the process executor; none: the default.
    pub(super) process_slots: Option<u32>,
    /// With a Docker executor; none: without.
    pub(super) docker: Option<DockerSetup>,
    /// Nothing but what a new user gets: no settings file.
    pub(super) plain: bool,
}

/// Its Docker executor.
#[derive(Clone, Debug)]
pub(super) struct DockerSetup {
    pub(super) host: String,
    pub(super) image: String,
    pub(super) slots: u32,
    /// `auto` or `volume`.
    pub(super) payload: &'static str,
}

/// Starts a server.
pub(super) async fn start(setup: &Setup) -> anyhow::Result<Server> {
    let folder = tempfile::Builder::new().prefix("robata-bench-").tempdir()?;
    let gate = Gate::new(folder.path())?;
    let definitions = folder.path().join("jobs.toml");
    std::fs::write(&definitions, setup.definitions(&gate))?;
    let data = folder.path().join("data");
    // Not by its path: a build may have put another program there meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("robata")
        .args(["--output", "json", "up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .arg("--apply")
        .arg(&definitions);
    if !setup.plain {
        let settings = folder.path().join("settings.toml");
        std::fs::write(&settings, setup.settings())?;
        command.arg("--config").arg(settings);
    }
    let (daemon, told) = Daemon::start("robata up", command, &folder.path().join("up"), "listening").await?;
    let url = told["url"].as_str().context("the server tells no address")?;
    Ok(Server {
        fronts: vec![Front::at(url)?],
        daemons: vec![daemon],
        settings: Settings::on(&data, "bench", 2),
        executor: "process",
        gate: Some(gate),
        folder,
    })
}

impl Setup {
    fn settings(&self) -> String {
        let slots = self
            .process_slots
            .map(|slots| format!("slots = {slots}\n"))
            .unwrap_or_default();
        let mut text = format!("[executors.process.process]\n{slots}");
        if let Some(docker) = &self.docker {
            text.push_str(&format!(
                "[executors.docker.docker]\nhost = {:?}\nslots = {}\npayload = {:?}\n",
                docker.host, docker.slots, docker.payload
            ));
        }
        text
    }

    fn definitions(&self, gate: &Gate) -> String {
        let mut text = format!(
            "[apps.{APP}]\nexecutor = \"process\"\n\
             [apps.{APP}.jobs.true]\ncommand = [\"/bin/true\"]\n\
             [apps.{APP}.jobs.stamp]\ncommand = [\"date\", \"+%s%N\"]\n\
             [apps.{APP}.jobs.block]\ncommand = {:?}\n",
            gate.command()
        );
        if let Some(docker) = &self.docker {
            text.push_str(&format!(
                "[apps.{APP}.jobs.container]\nexecutor = \"docker\"\nimage = {:?}\ncommand = [\"true\"]\n\
                 docker = {{ network = \"none\" }}\n",
                docker.image
            ));
        }
        text
    }
}

/// The profile `embedded`.
#[derive(Debug)]
pub(super) struct Embedded;

#[async_trait]
impl Site for Embedded {
    fn targets(&self) -> Targets {
        Targets {
            singly: 5_000.0,
            batches: 30_000.0,
            batches_of_raw: 0.0,
            paced: None,
            queued: 100_000,
        }
    }

    async fn start(&self, shape: Shape) -> anyhow::Result<Server> {
        if shape == Shape::Plain {
            return start(&Setup {
                plain: true,
                ..Setup::default()
            })
            .await;
        }
        let server = start(&Setup {
            process_slots: Some(1),
            ..Setup::default()
        })
        .await?;
        // The only slot is taken by a job that waits, so that what is enqueued from here on stays queued.
        let blocked = async {
            server.enqueue("block", 1).await?;
            server.until_running(1).await
        };
        server.told(blocked.await)?;
        Ok(server)
    }

    async fn raw(&self, server: &Server, rows: usize, lasting: Duration) -> anyhow::Result<Raw> {
        Ok(Raw {
            per_second: sqlite::rows_per_second(server.folder(), rows, PAYLOAD, lasting).await?,
            words: format!("SQLite rows, {rows} a commit"),
        })
    }

    async fn history(&self, _: &Server, _: u64) -> anyhow::Result<()> {
        Err(Usage("--finished is for --profile postgres-redis".to_owned()).into())
    }

    async fn run(&self, scenario: Scenario, args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
        match scenario {
            Scenario::Process => process::run(args, report).await,
            Scenario::Docker => docker::run(args, report).await,
            other => Err(other.foreign()),
        }
    }

    async fn tidy(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

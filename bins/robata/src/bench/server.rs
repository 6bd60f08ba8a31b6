//! The server under test: `robata up` of this very program as a child process, with a data folder that goes when it does.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use robata_client::{BatchRequest, Client, EnqueueRequest, JobFilter};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::{Instant, sleep, timeout},
};

use super::gate::Gate;

/// From the start to listening.
const START: Duration = Duration::from_secs(60);
/// From SIGTERM to the end.
const STOP: Duration = Duration::from_secs(20);
/// Jobs that make no progress for so long never will.
const STANDSTILL: Duration = Duration::from_secs(60);
/// How often counts are looked at: often enough for a rate over seconds, seldom enough to cost nothing.
const LOOK: Duration = Duration::from_millis(20);
/// Jobs in one batch.
pub(super) const BATCH: usize = 500;
/// The app whose jobs are run.
pub(super) const APP: &str = "bench";

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

/// A running server. Dropped, it is killed, and its folder goes.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// Held, so that its last words do not fail.
    _events: Lines<BufReader<ChildStdout>>,
    pub(super) pid: u32,
    pub(super) address: SocketAddr,
    pub(super) client: Client,
    pub(super) gate: Gate,
    folder: TempDir,
}

impl Server {
    pub(super) async fn start(setup: &Setup) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("robata-bench-").tempdir()?;
        let gate = Gate::new(folder.path())?;
        let definitions = folder.path().join("jobs.toml");
        std::fs::write(&definitions, setup.definitions(&gate))?;
        // Not by its path: a build may have put another program there meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("robata")
            .args(["--output", "json", "up", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data(folder.path()))
            .arg("--apply")
            .arg(&definitions);
        if !setup.plain {
            let settings = folder.path().join("settings.toml");
            std::fs::write(&settings, setup.settings())?;
            command.arg("--config").arg(settings);
        }
        // Settings of whoever measures are not measured.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ROBATA_") {
                command.env_remove(name);
            }
        }
        let errors = folder.path().join("errors");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the server")?;
        let pid = child.id().context("the server ended at once")?;
        let stdout = child.stdout.take().context("the server has no output")?;
        let mut events = BufReader::new(stdout).lines();
        let url = match timeout(START, listening(&mut events)).await {
            Ok(Ok(url)) => url,
            Ok(Err(error)) => return Err(error.context(tail(&errors))),
            Err(_) => return Err(anyhow!("the server does not listen: {}", tail(&errors))),
        };
        let address = url
            .trim_start_matches("http://")
            .parse()
            .context("the server tells no address")?;
        let client = Client::new(&url, None)?;
        Ok(Self {
            child,
            _events: events,
            pid,
            address,
            client,
            gate,
            folder,
        })
    }

    /// Its data folder; the store in it can be opened once the server has stopped.
    pub(super) fn data(&self) -> PathBuf {
        data(self.folder.path())
    }

    /// A folder for files of the bench, on the same disk.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Fills `slots` slots with jobs that wait before the gate, so that what is enqueued from here on stays queued.
    pub(super) async fn block(&self, slots: u32) -> anyhow::Result<()> {
        self.enqueue("block", slots as usize).await?;
        let running = || async { Ok(self.counts().await?.running) };
        self.until(running, |running| running >= u64::from(slots)).await
    }

    /// Enqueues `count` jobs in batches.
    pub(super) async fn enqueue(&self, job: &str, count: usize) -> anyhow::Result<()> {
        let mut left = count;
        while left > 0 {
            let jobs = left.min(BATCH);
            left -= jobs;
            let request = BatchRequest {
                jobs: vec![EnqueueRequest::new(APP, job)?; jobs],
                atomic: true,
            };
            let answer = self.client.batch(&request).await?;
            let refused = answer.results.iter().find(|item| item.status != 201);
            ensure!(refused.is_none(), "a job was not taken: {refused:?}");
        }
        Ok(())
    }

    /// Waits until nothing waits or runs, and makes sure that every job succeeded.
    pub(super) async fn until_all_ended(&self) -> anyhow::Result<()> {
        let open = || async {
            let counts = self.counts().await?;
            Ok(counts.queued + counts.running)
        };
        self.until(open, |open| open == 0).await?;
        let states = ["failed", "cancelled"].map(str::to_owned).to_vec();
        let bad = self
            .client
            .jobs(&JobFilter {
                states,
                limit: Some(1),
                ..JobFilter::default()
            })
            .await?;
        match bad.jobs.first() {
            None => Ok(()),
            Some(job) => bail!("job {} did not succeed: {:?} {:?}", job.id, job.reason, job.message),
        }
    }

    /// Looks at a count until it is `enough`; gives up where it no longer changes.
    async fn until<F: Future<Output = anyhow::Result<u64>>>(
        &self,
        count: impl Fn() -> F,
        enough: impl Fn(u64) -> bool,
    ) -> anyhow::Result<()> {
        let (mut last, mut moved) = (None, Instant::now());
        loop {
            let now = count().await?;
            if enough(now) {
                return Ok(());
            }
            if last != Some(now) {
                (last, moved) = (Some(now), Instant::now());
            }
            if moved.elapsed() > STANDSTILL {
                bail!(
                    "the server stands still at {now} jobs: {}",
                    tail(&self.folder.path().join("errors"))
                );
            }
            sleep(LOOK).await;
        }
    }

    /// How many jobs wait and run.
    pub(super) async fn counts(&self) -> anyhow::Result<Counts> {
        let queues = self.client.queues().await?;
        Ok(Counts {
            queued: queues.iter().map(|queue| queue.queued).sum(),
            running: queues.iter().map(|queue| queue.running).sum(),
        })
    }

    /// Ends the server in good order and waits for it. Its data stays until this is dropped.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid)?), Signal::SIGTERM)?;
        match timeout(STOP, self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                ensure!(
                    status.success(),
                    "the server ended with {status}: {}",
                    tail(&self.folder.path().join("errors"))
                );
            }
            Err(_) => {
                self.child.kill().await?;
                bail!("the server did not stop within {} s and was killed", STOP.as_secs());
            }
        }
        self.gate.open();
        Ok(())
    }
}

/// Jobs by what they do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    pub(super) queued: u64,
    pub(super) running: u64,
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

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// Reads the server's events until it tells where it listens.
async fn listening(events: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<String> {
    while let Some(line) = events.next_line().await? {
        let event: Value = serde_json::from_str(&line).with_context(|| format!("{line:?} is no event"))?;
        if event["event"] == "listening" {
            return Ok(event["url"].as_str().unwrap_or_default().to_owned());
        }
    }
    bail!("the server ended")
}

/// The last of what the server said of errors.
fn tail(errors: &Path) -> String {
    let text = std::fs::read_to_string(errors).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}

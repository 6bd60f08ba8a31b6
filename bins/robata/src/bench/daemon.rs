//! A child process under test: started with nothing of whoever measures, listened to, and ended in good order.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// From the start to what it says when it is ready.
const START: Duration = Duration::from_secs(60);
/// From SIGTERM to the end.
const STOP: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// A running program. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) name: &'static str,
    pub(super) pid: u32,
    child: Child,
    /// Its standard output and standard error.
    said: [PathBuf; 2],
}

impl Daemon {
    /// Starts a program and waits for the event (a JSON line on either of its outputs) that says it is ready. `place` is a
    /// file's name without its ending, for what it says.
    pub(super) async fn start(
        name: &'static str,
        mut command: Command,
        place: &Path,
        event: &str,
    ) -> anyhow::Result<(Self, Value)> {
        // Settings of whoever measures are not measured.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("ROBATA_") || name == "RUST_LOG" {
                command.env_remove(&*name);
            }
        }
        let said = [place.with_extension("out"), place.with_extension("err")];
        let mut child = command
            .stdin(Stdio::null())
            .stdout(File::create(&said[0])?)
            .stderr(File::create(&said[1])?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let pid = child.id().with_context(|| format!("{name} ended at once"))?;
        let begin = Instant::now();
        loop {
            let ended = child.try_wait()?;
            if let Some(told) = said.iter().find_map(|path| told(path, event)) {
                let daemon = Self { name, pid, child, said };
                return Ok((daemon, told));
            }
            if let Some(status) = ended {
                bail!("{name} ended with {status}: {}", tail(&said[1]));
            }
            if begin.elapsed() > START {
                return Err(anyhow!("{name} is not ready: {}", tail(&said[1])));
            }
            sleep(LOOK).await;
        }
    }

    /// The last of what it said of errors.
    pub(super) fn errors(&self) -> String {
        tail(&self.said[1])
    }

    /// Ends it in good order and waits for it.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid)?), Signal::SIGTERM)?;
        match timeout(STOP, self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                ensure!(status.success(), "{} ended with {status}: {}", self.name, self.errors());
                Ok(())
            }
            Err(_) => {
                self.child.kill().await?;
                bail!("{} did not stop within {} s and was killed", self.name, STOP.as_secs());
            }
        }
    }
}

/// The first line in a file that is this event. The last line may be half written; it is read again.
fn told(path: &Path, event: &str) -> Option<Value> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.find(|line| line["event"] == event)
}

fn tail(errors: &Path) -> String {
    let text = std::fs::read_to_string(errors).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}

//! The Docker engine that some of the jobs run in, and what it says of them: an observer that knows nothing of the platform.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, bail, ensure};
use robata_core::{AttemptId, JobId, executor::label};
use robata_testkit::checker::Line;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::proxy::Server;

/// A container's exit codes from here on are a signal's: it did not end by itself.
const SIGNALLED: u16 = 128;

/// The engine, seen directly: faults befall the workers' way to it only.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) server: Server,
    pub(crate) image: String,
    host: String,
    seen: Arc<Mutex<Seen>>,
    /// Ends with this.
    _events: tokio::process::Child,
}

/// What the engine's events told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Starts and ends of containers of attempts.
    pub(crate) lines: Vec<Line>,
    /// Those that ended by themselves, and not by a stop.
    pub(crate) by_themselves: BTreeSet<AttemptId>,
    /// What was said that nobody understood.
    odd: Vec<String>,
}

impl Engine {
    /// The engine that the variables of `tests/run` tell of, if they do. One that is told of must answer.
    pub(crate) fn told_of() -> Result<Option<Self>> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (Some(host), Some(image)) = (variable("ROBATA_TEST_DOCKER_HOST"), variable("ROBATA_TEST_IMAGE")) else {
            return Ok(None);
        };
        let server = match host.split_once("://") {
            Some(("unix", path)) => Server::Unix(path.into()),
            Some(("tcp" | "http", address)) => Server::Tcp(address.parse().context("the engine's address")?),
            _ => bail!("{host} is no address of an engine"),
        };
        // By the engine's own clock, so that nothing is missed between this and the first event.
        let now = say(&host, &["info", "--format", "{{.SystemTime}}"])?;
        let mut events = tokio::process::Command::from(docker(&host))
            .args(["events", "--since", now.trim(), "--format", "{{json .}}"])
            .args([
                "--filter",
                "type=container",
                "--filter",
                "event=start",
                "--filter",
                "event=die",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut said = BufReader::new(events.stdout.take().context("its output")?).lines();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let here = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let line = said.next_line().await;
                let mut seen = here.lock().unwrap_or_else(PoisonError::into_inner);
                match line {
                    Ok(Some(line)) => seen.take(&line),
                    end => return seen.odd.push(format!("the engine's events ended: {end:?}")),
                }
            }
        });
        Ok(Some(Self {
            server,
            image,
            host,
            seen,
            _events: events,
        }))
    }

    /// All that was seen; an error where the observer missed something.
    pub(crate) fn seen(&self) -> Result<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ensure!(seen.odd.is_empty(), "the engine's observer: {:?}", seen.odd);
        Ok(seen)
    }

    /// Containers of these jobs that are there, running or not.
    pub(crate) fn left_behind(&self, jobs: &BTreeSet<JobId>) -> Result<Vec<String>> {
        let ours = format!("label={}", label::ATTEMPT);
        let shown = format!("{{{{.Label {:?}}}}} {{{{.Names}}}} {{{{.Status}}}}", label::ATTEMPT);
        let list = say(
            &self.host,
            &["ps", "--all", "--no-trunc", "--filter", &ours, "--format", &shown],
        )?;
        let mut left = Vec::new();
        for line in list.lines() {
            let (attempt, container) = line.split_once(' ').unwrap_or((line, ""));
            // Other tests may use the engine at the same time.
            let of_ours = attempt
                .parse()
                .is_ok_and(|attempt: AttemptId| jobs.contains(&attempt.job));
            if of_ours {
                left.push(format!("{attempt}: its container is left: {container}"));
            }
        }
        Ok(left)
    }
}

impl Seen {
    fn take(&mut self, line: &str) {
        let Some((attempt, action, at, code)) = read(line) else {
            return self.odd.push(line.to_owned());
        };
        // Not every container is an attempt's.
        let Some(attempt) = attempt else { return };
        match action.as_str() {
            "start" => self.lines.push(Line::Begin(attempt, at)),
            _ => {
                self.lines.push(Line::End(attempt, at));
                if code.is_some_and(|code| code < SIGNALLED) {
                    self.by_themselves.insert(attempt);
                }
            }
        }
    }
}

/// An event's attempt (where it is about one), action, time in milliseconds and exit code.
fn read(line: &str) -> Option<(Option<AttemptId>, String, i64, Option<u16>)> {
    let event: Value = serde_json::from_str(line).ok()?;
    let attributes = &event["Actor"]["Attributes"];
    let attempt = match attributes[label::ATTEMPT].as_str() {
        Some(attempt) => Some(attempt.parse().ok()?),
        None => None,
    };
    let code = attributes["exitCode"].as_str().and_then(|code| code.parse().ok());
    let at = event["timeNano"].as_i64()? / 1_000_000;
    Some((attempt, event["Action"].as_str()?.to_owned(), at, code))
}

/// The engine's own client, with nothing of this user's settings.
fn docker(host: &str) -> Command {
    let mut command = Command::new("docker");
    command
        .args(["--config", "/nonexistent", "--host", host])
        .env_remove("DOCKER_CONTEXT")
        .env_remove("DOCKER_HOST");
    command
}

fn say(host: &str, arguments: &[&str]) -> Result<String> {
    let output = docker(host)
        .args(arguments)
        .output()
        .context("there is no docker client")?;
    ensure!(
        output.status.success(),
        "docker {arguments:?} at {host}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

//! What must hold at the end, from what the jobs wrote down and what the platform says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use robata_core::{AttemptId, JobId, JobState};
use robata_testkit::checker::{Expect, Line, Report, Told, ToldAttempt, check, read_journal};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    engine::{Engine, Seen},
    fleet::Fleet,
    kinds::{Kind, NARROW, output},
    load::Load,
};

/// A job as the platform tells it, whole.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) kind: Kind,
    pub(crate) told: Told,
    pub(crate) json: Value,
}

/// Waits until every job has ended and every log is sealed. A job that was taken in by way of the broker and found its key
/// taken, by a request of its own that nobody had an answer to, is told under the first one's id: it is that one.
pub(crate) async fn all_ended(load: &Arc<Load>, within: Duration) -> Result<BTreeMap<JobId, Ended>> {
    let deadline = Instant::now() + within;
    let accepted = load.accepted();
    let jobs = stream::iter(accepted).map(|(id, kind)| {
        let load = Arc::clone(load);
        async move { ended(&load, id, kind, deadline).await }
    });
    let mut jobs = jobs.buffer_unordered(16);
    let mut all = BTreeMap::new();
    while let Some(job) = jobs.try_next().await? {
        let id = job.told.job;
        ensure!(all.insert(id, job).is_none(), "{id} is the job of two requests");
    }
    Ok(all)
}

async fn ended(load: &Load, id: JobId, kind: Kind, deadline: Instant) -> Result<Ended> {
    loop {
        let json: Value = serde_json::from_str(&load.get(&format!("jobs/{id}")).await?)?;
        let state: JobState = json["state"].as_str().unwrap_or_default().parse()?;
        let attempts = json["attempts"].as_array().context("attempts")?;
        let sealed = attempts.iter().all(|attempt| attempt["log"]["state"] != "open");
        // One that has not ended in time is judged as it stands.
        if !(state.is_ended() && sealed) && Instant::now() < deadline {
            sleep(Duration::from_millis(200)).await;
            continue;
        }
        let mut told = Vec::new();
        for attempt in attempts {
            let number = attempt["number"]
                .as_u64()
                .and_then(|number| u32::try_from(number).ok())
                .context("a number")?;
            told.push(ToldAttempt {
                number,
                state: attempt["state"].as_str().unwrap_or_default().to_owned(),
                log_complete: attempt["log"]["state"] == "complete",
                stdout: load
                    .get(&format!("jobs/{id}/logs?attempt={number}&stream=stdout"))
                    .await?,
            });
        }
        let why = format!("{} {} {}", kind.name(), json["reason"], json["message"]);
        let told = Told {
            job: json["id"].as_str().context("an id")?.parse()?,
            state,
            why,
            attempts: told,
        };
        return Ok(Ended { kind, told, json });
    }
}

/// What was seen of the attempts from outside: what those in processes wrote down, and what the engine told of the others.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub(crate) lines: Vec<Line>,
    /// Those that ended by themselves.
    pub(crate) by_themselves: BTreeSet<AttemptId>,
}

impl Observed {
    fn read(journal: &Path, engine: Option<&Engine>, accepted: &BTreeSet<JobId>) -> Result<Self> {
        let mut lines = read_journal(&fs::read_to_string(journal).unwrap_or_default()).map_err(anyhow::Error::msg)?;
        ensure!(!lines.is_empty(), "no job wrote anything down");
        let ends = lines.iter().filter_map(|line| match line {
            Line::End(attempt, _) => Some(*attempt),
            Line::Begin(..) => None,
        });
        let mut by_themselves: BTreeSet<AttemptId> = ends.collect();
        if let Some(engine) = engine {
            let Seen {
                lines: seen,
                by_themselves: ended,
                ..
            } = engine.seen()?;
            // Others may use the engine at the same time.
            let ours = seen.into_iter().filter(|line| {
                let (Line::Begin(attempt, _) | Line::End(attempt, _)) = line;
                accepted.contains(&attempt.job)
            });
            let before = lines.len();
            lines.extend(ours);
            ensure!(lines.len() > before, "no container was seen to start");
            by_themselves.extend(ended);
        }
        Ok(Self { lines, by_themselves })
    }
}

/// Compares all, once what was finalised last had a moment to be removed.
pub(crate) async fn judge_when_clean(
    ended: &BTreeMap<JobId, Ended>,
    journal: &Path,
    fleet: &Fleet,
    engine: Option<&Engine>,
) -> Result<(Report, Observed)> {
    let accepted = ended.keys().copied().collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !left_behind(&accepted, fleet, engine)?.is_empty() && Instant::now() < deadline {
        sleep(Duration::from_millis(500)).await;
    }
    let observed = Observed::read(journal, engine, &accepted)?;
    let mut report = judge(ended, &observed);
    report.violations.extend(left_behind(&accepted, fleet, engine)?);
    Ok((report, observed))
}

fn judge(ended: &BTreeMap<JobId, Ended>, observed: &Observed) -> Report {
    let accepted: BTreeSet<JobId> = ended.keys().copied().collect();
    let told: Vec<Told> = ended.values().map(|ended| ended.told.clone()).collect();
    let expect = Expect {
        output: output(),
        all_succeed: false,
    };
    let mut report = check(&accepted, &observed.lines, &told, &expect);
    for (id, job) in ended {
        let reason = job.json["reason"].as_str().unwrap_or_default();
        if !job.kind.may_end(job.told.state, reason) {
            report
                .violations
                .push(format!("{id}: {} ({})", job.told.state, job.told.why));
        }
    }
    logs(ended, &observed.by_themselves, &mut report);
    let most = most_at_once(ended, &observed.lines);
    if most > NARROW {
        report
            .violations
            .push(format!("{most} jobs ran at once in a queue for {NARROW}"));
    }
    report
}

/// An attempt that came to its own end has its whole log, however its job ended.
fn logs(ended: &BTreeMap<JobId, Ended>, whole: &BTreeSet<AttemptId>, report: &mut Report) {
    for (job, ended) in ended {
        for attempt in &ended.told.attempts {
            let id = AttemptId {
                job: *job,
                number: attempt.number,
            };
            if !whole.contains(&id) || attempt.state == "succeeded" {
                continue;
            }
            if !attempt.log_complete {
                report
                    .violations
                    .push(format!("{id}: {}, its log is incomplete", attempt.state));
            } else if attempt.stdout != output() {
                report.violations.push(format!(
                    "{id}: {}, its log is called complete and is not",
                    attempt.state
                ));
            }
        }
    }
}

/// The most jobs of the narrow queue that ran at one moment.
fn most_at_once(ended: &BTreeMap<JobId, Ended>, lines: &[Line]) -> usize {
    let narrow = |attempt: &AttemptId| ended.get(&attempt.job).is_some_and(|job| job.kind == Kind::Narrow);
    let mut moments: Vec<(i64, i32)> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Begin(attempt, at) if narrow(attempt) => Some((*at, 1)),
            Line::End(attempt, at) if narrow(attempt) => Some((*at, -1)),
            _ => None,
        })
        .collect();
    moments.sort_unstable();
    let mut running = 0;
    let counts = moments.into_iter().map(|(_, step)| {
        running += step;
        running
    });
    usize::try_from(counts.max().unwrap_or_default()).unwrap_or_default()
}

/// Processes, state folders and containers of the run's jobs.
fn left_behind(accepted: &BTreeSet<JobId>, fleet: &Fleet, engine: Option<&Engine>) -> Result<Vec<String>> {
    let mut found = match engine {
        Some(engine) => engine.left_behind(accepted)?,
        None => Vec::new(),
    };
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(environment) = fs::read(entry.path().join("environ")) else {
            continue;
        };
        let variables = environment.split(|byte| *byte == 0);
        let mut id = variables.filter_map(|variable| variable.strip_prefix(b"ROBATA_JOB_ID="));
        let job = id
            .next()
            .and_then(|id| std::str::from_utf8(id).ok()?.parse::<JobId>().ok());
        if let Some(job) = job.filter(|job| accepted.contains(job)) {
            found.push(format!("{job}: its process {} is left", entry.path().display()));
        }
    }
    for installation in fs::read_dir(&fleet.state)?.flatten() {
        let things = fs::read_dir(installation.path().join("things"));
        for thing in things.into_iter().flatten().flatten() {
            found.push(format!("{} is left", thing.path().display()));
        }
    }
    Ok(found)
}

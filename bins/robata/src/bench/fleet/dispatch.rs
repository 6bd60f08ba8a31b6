//! A job that is due on an idle system: how soon a waiting worker has claimed it and asks its engine.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use robata_client::EnqueueRequest;
use robata_core::{JobId, JobState};
use sqlx::PgPool;
use tokio::time::sleep;

use super::{
    Fleet, by_hand,
    crew::{self, Crew},
};
use crate::bench::{
    BenchArgs, clock,
    front::APP,
    load,
    report::{Report, Row},
};

const SCENARIO: &str = "dispatch";
/// Jobs each way, at most.
const JOBS: u32 = 200;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(30);
/// A worker that was just started is waiting by then, and the masters know of its slots.
const SETTLED: Duration = Duration::from_secs(3);
/// A job that becomes due later, in seconds.
const DELAY: f64 = 0.4;
/// Looks at the server's clock; the one that took least tells most.
const CLOCKS: u32 = 50;

pub(super) async fn run(fleet: &Fleet, args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
    let jobs = args.jobs.map_or(JOBS, |jobs| jobs.min(JOBS));
    let mut crew = Crew::start(fleet, 1).await?;
    crew.add_workers(1, true).await?;
    sleep(SETTLED).await;
    let pool = crew::pool(&crew.server, 1).await?;
    let ahead = clock_ahead(&pool).await?;
    pool.close().await;
    // What is done once only is not measured.
    through(&crew, jobs.min(20), None, ahead).await?;
    let at_once = through(&crew, jobs, None, ahead).await?;
    let delayed = through(&crew, jobs, Some(DELAY), ahead).await?;
    let mut raw = histogram()?;
    for time in by_hand::dispatch(&crew.server, &fleet.queue_url, jobs, PAUSE).await? {
        raw.record(u64::try_from(time.as_micros())?)?;
    }
    for (what, times) in [("due at once", &at_once), ("due after a delay", &delayed)] {
        for (quantile, name, target) in [(0.5, "p50", 5.0), (0.99, "p99", 20.0)] {
            report.add(
                Row::new(
                    SCENARIO,
                    format!("{what} → claimed, {name}"),
                    millis(times, quantile),
                    "ms",
                )
                .at_most(target)
                .raw(millis(&raw, quantile), "by hand: insert, XADD, XREADGROUP, claim")
                .note(format!(
                    "{jobs} jobs, one after another; from run_at (whole milliseconds) to the worker's asking its engine"
                )),
            );
        }
    }
    crew.stop().await
}

/// Sends jobs one after another; how long after its `run_at` the worker's executor was asked for each.
async fn through(crew: &Crew, jobs: u32, delay: Option<f64>, ahead: i128) -> anyhow::Result<Histogram<u64>> {
    let request = EnqueueRequest {
        delay_seconds: delay,
        ..EnqueueRequest::new(APP, "true")?
    };
    let client = &crew.server.client;
    let mut due: HashMap<JobId, i128> = HashMap::new();
    for _ in 0..jobs {
        let job = client.enqueue(&request).await?.job;
        due.insert(job.id, i128::from(job.run_at.as_millis()) * 1_000_000 - ahead);
        if delay.is_none() {
            let job = client.wait(job.id).await?;
            ensure!(
                job.state.known() == Some(JobState::Succeeded),
                "job {} did not succeed",
                job.id
            );
        }
        sleep(PAUSE).await;
    }
    for id in due.keys() {
        client.wait(*id).await?;
    }
    let mut times = histogram()?;
    let stamps = std::fs::read_to_string(&crew.stamps).context("the worker wrote down nothing")?;
    for line in stamps.lines() {
        let (attempt, at) = line.split_once(' ').context("a stamp is an attempt and a time")?;
        let (job, _) = attempt.split_once('/').context("an attempt is JOB/NUMBER")?;
        let Some(due) = due.remove(&job.parse()?) else { continue };
        let at: i128 = at.parse()?;
        times.record(u64::try_from((at - due) / 1_000).unwrap_or(0))?;
    }
    ensure!(due.is_empty(), "{} jobs were never started", due.len());
    Ok(times)
}

/// Nanoseconds by which the database's clock is ahead of this machine's.
async fn clock_ahead(pool: &PgPool) -> anyhow::Result<i128> {
    let mut best: Option<(i128, i128)> = None;
    for _ in 0..CLOCKS {
        let before = clock::wall_nanos();
        let theirs: i64 = sqlx::query_scalar("SELECT (extract(epoch FROM robata.robata_now()) * 1000000)::bigint")
            .fetch_one(pool)
            .await?;
        let after = clock::wall_nanos();
        let found = (after - before, i128::from(theirs) * 1_000 - (before + after) / 2);
        best = Some(best.map_or(found, |best| best.min(found)));
    }
    Ok(best.map_or(0, |(_, ahead)| ahead))
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

fn millis(times: &Histogram<u64>, quantile: f64) -> f64 {
    load::millis(Duration::from_micros(times.value_at_quantile(quantile)))
}

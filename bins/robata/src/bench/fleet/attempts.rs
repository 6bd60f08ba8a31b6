//! Attempts of which nothing but their bookkeeping is left: how many a second, and where their time goes.

use std::time::{Duration, Instant};

use anyhow::ensure;
use robata_core::QueueName;
use tokio::time::sleep;

use super::{
    Fleet, SLOTS, by_hand,
    crew::{self, Crew},
    stats::{Meter, Used},
};
use crate::bench::{
    BenchArgs,
    front::{APP, BATCH},
    load,
    report::{Report, Row},
};

const SCENARIO: &str = "attempts";
/// Attempts measured.
pub(super) const JOBS: u32 = 20_000;
/// Attempts before that.
const WARM_UP: usize = 1_000;
/// An end that is recorded is finalised by then.
const FINALISED: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn run(fleet: &Fleet, args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
    let jobs = args.jobs.unwrap_or(JOBS);
    let mut crew = Crew::start(fleet, 1).await?;
    crew.add_workers(1, false).await?;
    let (rate, used) = measure(&crew, jobs).await?;
    let (raw, words) = by_hand::attempts_per_second(&crew.server, &fleet.queue_url, jobs as usize).await?;
    report.add(
        Row::new(
            SCENARIO,
            format!("{jobs} no-ops to their finalised end"),
            rate,
            "attempts/s",
        )
        .at_least(3_000.0)
        .raw(raw, words)
        .note(format!("one master, one worker with {SLOTS} slots")),
    );
    let (traffic, what) = used.traffic();
    let missing = "for statements, have the server load pg_stat_statements";
    let note = match used.statements {
        Some(_) => format!("{:.2} transactions a job", used.transactions),
        None => missing.to_owned(),
    };
    report.add(Row::new(SCENARIO, format!("{what} a job"), traffic, what).note(note));
    if let Some(millis) = used.database_millis {
        report.add(Row::new(SCENARIO, "PostgreSQL's time a job", millis * 1e3, "µs").note(used.by_statement()));
    }
    report.add(Row::new(SCENARIO, "CPU a job", used.cpu_micros(), "µs").note(used.by_process()));
    crew.stop().await
}

/// Attempts a second of a fleet that has workers, and what they used. They wait in a paused queue until all are there, so that
/// nothing else is measured.
pub(super) async fn measure(crew: &Crew, jobs: u32) -> anyhow::Result<(f64, Used)> {
    let (front, queue) = (&crew.server, QueueName::new(APP)?);
    let ended = async {
        front.enqueue("true", WARM_UP).await?;
        front.until_all_ended().await?;
        front.client.pause_queue(&queue, "the bench enqueues").await?;
        front.enqueue("true", jobs as usize).await
    };
    front.told(ended.await)?;
    let pool = crew::pool(front, 1).await?;
    let meter = Meter::begin(pool, crew).await?;
    let begin = Instant::now();
    front.client.resume_queue(&queue).await?;
    front.told(front.until_all_ended().await)?;
    let elapsed = until_finalised(crew, begin).await?;
    let used = meter.end(crew, jobs).await?;
    Ok((load::per_second(u64::from(jobs), elapsed), used))
}

/// Until nothing is held any more; the time since `begin`.
async fn until_finalised(crew: &Crew, begin: Instant) -> anyhow::Result<Duration> {
    let since = Instant::now();
    loop {
        let workers = crew.server.client.workers().await?;
        if workers.iter().all(|worker| worker.attempts == 0) {
            return Ok(begin.elapsed());
        }
        ensure!(
            since.elapsed() < FINALISED,
            "ended attempts are not finalised: {}",
            crew.said()
        );
        sleep(LOOK).await;
    }
}

const _: () = assert!(WARM_UP.is_multiple_of(BATCH), "whole batches");

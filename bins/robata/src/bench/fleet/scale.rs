//! More workers and more masters over one PostgreSQL must not make it slower, nor ask more of it for each job.

use super::{
    Fleet,
    attempts::{self, JOBS},
    crew::Crew,
    stats::Used,
};
use crate::bench::{
    BenchArgs,
    enqueue::{SINGLE, SINGLES, single},
    load::{self, Until},
    report::{Report, Row},
    site::Site as _,
};

const SCENARIO: &str = "scale";
const WORKERS: usize = 4;
const MASTERS: usize = 3;
/// "Does not fall", "does not rise": less than that is how far two runs of the same are apart.
const NOISE: f64 = 0.05;

/// What one shape did.
struct Found {
    attempts: f64,
    used: Used,
    enqueues: f64,
}

pub(super) async fn run(fleet: &Fleet, args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
    let base = measure(fleet, args, 1, 1).await?;
    let workers = measure(fleet, args, 1, WORKERS).await?;
    let masters = measure(fleet, args, MASTERS, 1).await?;
    let against = |what: String, more: f64, less: f64| {
        Row::new(SCENARIO, what, more / less, "times").note(format!("{more:.1} against {less:.1}"))
    };
    for (found, more) in [
        (&workers, format!("{WORKERS} workers / 1")),
        (&masters, format!("{MASTERS} masters / 1")),
    ] {
        report.add(against(format!("attempts a second, {more}"), found.attempts, base.attempts).at_least(1.0 - NOISE));
        let ((traffic, what), (before, _)) = (found.used.traffic(), base.used.traffic());
        report.add(against(format!("{what} a job, {more}"), traffic, before).at_most(1.0 + NOISE));
    }
    report.add(
        against(
            format!("enqueues a second, singly, {MASTERS} masters / 1"),
            masters.enqueues,
            base.enqueues,
        )
        .at_least(1.0 - NOISE),
    );
    Ok(())
}

async fn measure(fleet: &Fleet, args: &BenchArgs, masters: usize, workers: usize) -> anyhow::Result<Found> {
    let jobs = args.jobs.unwrap_or(JOBS);
    let mut crew = Crew::start(fleet, masters).await?;
    crew.add_workers(workers, false).await?;
    let (attempts, used) = attempts::measure(&crew, jobs).await?;
    // Without workers nothing runs meanwhile.
    for worker in &mut crew.workers {
        worker.stop().await?;
    }
    crew.workers.clear();
    let request = single(&crew.server);
    let fronts = &crew.server.fronts;
    let warm_up = Until::Elapsed(args.duration / 10);
    load::run(fronts, SINGLES, request.clone(), SINGLE, warm_up.into()).await?;
    let lasting = Until::Elapsed(args.duration);
    let enqueues = load::run(fronts, SINGLES, request, SINGLE, lasting.into()).await?;
    crew.stop().await?;
    fleet.tidy().await?;
    Ok(Found {
        attempts,
        used,
        enqueues: enqueues.per_second(),
    })
}

//! A long queue must cost memory and time as little as a short one.

use anyhow::ensure;
use bytes::Bytes;

use super::{
    claims,
    enqueue::{BATCHES, SINGLE, SINGLES, WHOLE, batch, single},
    load::{self, Until},
    proc,
    report::{Report, Row},
    server::{BATCH, Server, Setup},
};

const SCENARIO: &str = "queued";
const FEW: u64 = 1_000;
const MANY: u64 = 100_000;
/// Single enqueues measured at each length.
const SINGLE_JOBS: u64 = 5_000;
/// Batches measured at each length.
const BATCH_REQUESTS: u64 = 20;
/// Claims measured at each length.
const CLAIMS: usize = 960;
/// No slower than this part of the rate at a short queue.
const AT_LEAST: f64 = 0.8;

/// Rates at one length.
struct Rates {
    singly: f64,
    batches: f64,
}

pub(super) async fn run(report: &mut Report) -> anyhow::Result<()> {
    let mut short = blocked().await?;
    fill(&short, FEW).await?;
    short.stop().await?;
    let few_claims = claims::per_second_in(&short.data(), CLAIMS).await?;
    drop(short);

    let mut server = blocked().await?;
    fill(&server, FEW).await?;
    let few = rates(&server).await?;
    let there = server.counts().await?.queued;
    fill(&server, MANY - there).await?;
    let queued = server.counts().await?.queued;
    ensure!(queued == MANY, "{queued} jobs are queued in place of {MANY}");
    let memory = proc::memory(server.pid)?;
    let many = rates(&server).await?;
    server.stop().await?;
    let many_claims = claims::per_second_in(&server.data(), CLAIMS).await?;

    report.add(
        Row::new(SCENARIO, format!("memory with {MANY} queued"), memory.rss_mib, "MiB")
            .at_most(120.0)
            .note(format!("resident; peak {:.0} MiB", memory.peak_mib)),
    );
    let compare = |what: &str, many: f64, few: f64| {
        Row::new(
            SCENARIO,
            format!("{what} at {MANY} / at {FEW}"),
            many / few,
            "of the rate",
        )
        .at_least(AT_LEAST)
        .note(format!("{many:.0}/s against {few:.0}/s"))
    };
    report.add(compare("enqueue singly", many.singly, few.singly));
    report.add(compare("enqueue in batches", many.batches, few.batches));
    report.add(compare("give out and claim", many_claims, few_claims));
    Ok(())
}

async fn blocked() -> anyhow::Result<Server> {
    let server = Server::start(&Setup {
        process_slots: Some(1),
        ..Setup::default()
    })
    .await?;
    server.block(1).await?;
    Ok(server)
}

async fn fill(server: &Server, jobs: u64) -> anyhow::Result<()> {
    let requests = Until::Requests(jobs / BATCH as u64);
    load::run(server.address, BATCHES, batch(server), WHOLE, requests)
        .await
        .map(drop)
}

async fn rates(server: &Server) -> anyhow::Result<Rates> {
    let address = server.address;
    let request: Bytes = single(server);
    let singly = load::run(address, SINGLES, request, SINGLE, Until::Requests(SINGLE_JOBS)).await?;
    let batches = load::run(address, BATCHES, batch(server), WHOLE, Until::Requests(BATCH_REQUESTS)).await?;
    Ok(Rates {
        singly: singly.per_second(),
        batches: load::per_second(batches.requests * BATCH as u64, batches.elapsed),
    })
}

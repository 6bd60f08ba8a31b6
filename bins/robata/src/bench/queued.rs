//! A long queue, and a long history, must cost memory and time as little as short ones.

use anyhow::ensure;
use bytes::Bytes;

use super::{
    BenchArgs, claims,
    enqueue::{BATCHES, SINGLE, SINGLES, WHOLE, batch, single},
    front::{APP, BATCH},
    http,
    load::{self, Expect, Loaded, Until},
    proc,
    report::{Report, Row},
    server::Server,
    site::{Shape, Site},
};

const SCENARIO: &str = "queued";
const FEW: u64 = 1_000;
/// Single enqueues measured at each length.
const SINGLE_JOBS: u64 = 5_000;
/// Batches measured at each length.
const BATCH_REQUESTS: u64 = 20;
/// Claims measured at each length.
const CLAIMS: usize = 960;
/// Pages of each list measured at each length.
const PAGES: u64 = 100;
/// Jobs on a page.
const PAGE: usize = 50;
/// No slower than this part of the rate at a short queue.
const AT_LEAST: f64 = 0.8;
/// A page takes at most so long, in milliseconds.
const PAGE_MILLIS: f64 = 20.0;
/// What a server may need with up to 100,000 queued jobs, and with more, in MiB.
const MEMORY: [f64; 2] = [120.0, 250.0];

/// Rates at one length.
struct Rates {
    singly: f64,
    batches: f64,
    pages: Loaded,
}

pub(super) async fn run(site: &dyn Site, args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
    let many = args.queued.unwrap_or(site.targets().queued);
    // Measured at the short length after as many claims as at the long one: both begin with a fresh store.
    let mut short = site.start(Shape::Accepting).await?;
    fill(&short, FEW).await?;
    let few = rates(&short).await?;
    short.stop().await?;
    let few_claims = claims::per_second_in(&short.settings, short.executor, CLAIMS).await?;
    drop(short);
    site.tidy().await?;

    let mut server = site.start(Shape::Accepting).await?;
    if args.finished > 0 {
        site.history(&server, args.finished).await?;
    }
    fill(&server, many).await?;
    let queued = server.counts().await?.queued;
    ensure!(queued >= many, "{queued} jobs are queued in place of {many}");
    let memory = proc::memory(server.pid())?;
    let long = rates(&server).await?;
    server.stop().await?;
    let many_claims = claims::per_second_in(&server.settings, server.executor, CLAIMS).await?;

    let size = match args.finished {
        0 => format!("{many} queued"),
        finished => format!("{many} queued and {finished} finished"),
    };
    report.add(
        Row::new(SCENARIO, format!("memory with {size}"), memory.rss_mib, "MiB")
            .at_most(MEMORY[usize::from(many > 100_000)])
            .note(format!("resident; peak {:.0} MiB", memory.peak_mib)),
    );
    let compare = |what: &str, many: f64, few: f64| {
        Row::new(
            SCENARIO,
            format!("{what} at {size} / at {FEW}"),
            many / few,
            "of the rate",
        )
        .at_least(AT_LEAST)
        .note(format!("{many:.0}/s against {few:.0}/s"))
    };
    report.add(compare("enqueue singly", long.singly, few.singly));
    report.add(compare("enqueue in batches", long.batches, few.batches));
    report.add(compare("give out and claim", many_claims, few_claims));
    report.add(compare("list pages", long.pages.per_second(), few.pages.per_second()));
    report.add(
        Row::new(
            SCENARIO,
            format!("a list page at {size}, p99"),
            long.pages.quantile_millis(0.99),
            "ms",
        )
        .at_most(PAGE_MILLIS)
        .note(format!(
            "{}; {PAGE} jobs a page, by several filters",
            long.pages.latency()
        )),
    );
    Ok(())
}

async fn fill(server: &Server, jobs: u64) -> anyhow::Result<()> {
    let requests = Until::Requests(jobs.div_ceil(BATCH as u64));
    let filled = load::run(&server.fronts, BATCHES, batch(server), WHOLE, requests.into()).await;
    server.told(filled).map(drop)
}

async fn rates(server: &Server) -> anyhow::Result<Rates> {
    let fronts = &server.fronts;
    let request: Bytes = single(server);
    let singly = load::run(fronts, SINGLES, request, SINGLE, Until::Requests(SINGLE_JOBS).into()).await?;
    let requests = Until::Requests(BATCH_REQUESTS);
    let batches = load::run(fronts, BATCHES, batch(server), WHOLE, requests.into()).await?;
    Ok(Rates {
        singly: singly.per_second(),
        batches: load::per_second(batches.requests * BATCH as u64, batches.elapsed),
        pages: pages(server).await?,
    })
}

/// Pages of lists as people look at them, over one connection.
async fn pages(server: &Server) -> anyhow::Result<Loaded> {
    let expect = Expect {
        status: 200,
        times: PAGE,
        text: "\"created_at\":",
    };
    let mut all: Option<Loaded> = None;
    for filter in ["", "&state=queued", &format!("&app={APP}&job=true&state=queued")] {
        let path = format!("/api/v1/jobs?limit={PAGE}{filter}");
        let request = http::request("GET", &path, &server.address.to_string(), b"");
        let fronts = &server.fronts[..1];
        let loaded = load::run(fronts, 1, request, expect, Until::Requests(PAGES).into()).await?;
        all = Some(match all {
            Some(all) => all.and(&loaded)?,
            None => loaded,
        });
    }
    all.ok_or_else(|| anyhow::anyhow!("no list was asked for"))
}

//! How fast jobs are accepted durably over HTTP, while nothing else runs.

use bytes::Bytes;

use super::{
    BenchArgs,
    front::{APP, BATCH, Front},
    http::request,
    load::{self, Expect, Pace, Until},
    report::{Report, Row},
    site::{Shape, Site},
};

/// Connections of single enqueues.
pub(super) const SINGLES: usize = 64;
/// Connections of batches: two cores have no use for more.
pub(super) const BATCHES: usize = 4;
/// A payload of a usual size.
pub(super) const PAYLOAD: &str = r#"{"order":{"id":1234567890123,"lines":[{"sku":"A-1","n":2},{"sku":"B-7","n":1}]},"locale":"en","url":"https://shop.example.com/o/1"}"#;

const SCENARIO: &str = "enqueue";

pub(super) async fn run(site: &dyn Site, args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
    let targets = site.targets();
    let mut server = site.start(Shape::Accepting).await?;
    let warm_up = Until::Elapsed(args.duration / 10);
    let lasting = Until::Elapsed(args.duration);

    let fronts = std::slice::from_ref(&server.fronts[0]);
    let one = single(&server);
    load::run(fronts, SINGLES, one.clone(), SINGLE, warm_up.into()).await?;
    let singly = load::run(fronts, SINGLES, one.clone(), SINGLE, lasting.into()).await?;
    let raw = site.raw(&server, 1, args.duration).await?;
    report.add(
        Row::new(
            SCENARIO,
            format!("singly, {SINGLES} connections"),
            singly.per_second(),
            "jobs/s",
        )
        .at_least(targets.singly)
        .raw(raw.per_second, raw.words)
        .note(singly.latency()),
    );

    if let Some((rate, p99)) = targets.paced {
        let pace = Pace::at(rate, args.duration);
        let paced = load::run(fronts, SINGLES, one, SINGLE, pace).await?;
        report.add(
            Row::new(
                SCENARIO,
                format!("p99, singly, at {rate}/s"),
                paced.quantile_millis(0.99),
                "ms",
            )
            .at_most(p99)
            .note(format!(
                "{}; from when each was due to be sent; {:.0}/s came about",
                paced.latency(),
                paced.per_second()
            )),
        );
    }

    let some = batch(&server);
    load::run(fronts, BATCHES, some.clone(), WHOLE, warm_up.into()).await?;
    let batches = load::run(fronts, BATCHES, some, WHOLE, lasting.into()).await?;
    let raw = site.raw(&server, BATCH, args.duration).await?;
    let rate = load::per_second(batches.requests * BATCH as u64, batches.elapsed);
    report.add(
        Row::new(
            SCENARIO,
            format!("batches of {BATCH}, {BATCHES} connections"),
            rate,
            "jobs/s",
        )
        .at_least(targets.batches)
        .raw(raw.per_second, raw.words)
        .note(format!("a batch: {}", batches.latency())),
    );
    if targets.batches_of_raw > 0.0 {
        report.add(
            Row::new(
                SCENARIO,
                "batches / raw batches",
                rate / raw.per_second,
                "of the raw limit",
            )
            .at_least(targets.batches_of_raw),
        );
    }
    server.stop().await
}

/// One job's request, and what it must be answered with.
pub(super) fn single(front: &Front) -> Bytes {
    request("POST", "/api/v1/jobs", &front.address.to_string(), job().as_bytes())
}

pub(super) const SINGLE: Expect = Expect {
    status: 201,
    times: 1,
    text: "\"state\":\"queued\"",
};

/// A batch's request, and what it must be answered with.
pub(super) fn batch(front: &Front) -> Bytes {
    let body = format!("{{\"jobs\":[{}]}}", vec![job(); BATCH].join(","));
    request(
        "POST",
        "/api/v1/jobs/batch",
        &front.address.to_string(),
        body.as_bytes(),
    )
}

pub(super) const WHOLE: Expect = Expect {
    status: 200,
    times: BATCH,
    text: "\"status\":201",
};

fn job() -> String {
    format!("{{\"app\":\"{APP}\",\"job\":\"true\",\"payload\":{PAYLOAD}}}")
}

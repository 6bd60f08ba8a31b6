//! How fast jobs are accepted durably over HTTP. All slots are taken by jobs that wait, so nothing else runs meanwhile.

use bytes::Bytes;

use super::{
    BenchArgs,
    http::request,
    load::{self, Expect, Until},
    report::{Report, Row},
    server::{APP, BATCH, Server, Setup},
    sqlite,
};

/// Connections of single enqueues.
pub(super) const SINGLES: usize = 64;
/// Connections of batches: two cores have no use for more.
pub(super) const BATCHES: usize = 4;
/// A payload of a usual size.
pub(super) const PAYLOAD: &str = r#"{"order":{"id":1234567890123,"lines":[{"sku":"A-1","n":2},{"sku":"B-7","n":1}]},"locale":"en","url":"https://shop.example.com/o/1"}"#;

const SCENARIO: &str = "enqueue";

pub(super) async fn run(args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
    let mut server = Server::start(&Setup {
        process_slots: Some(1),
        ..Setup::default()
    })
    .await?;
    server.block(1).await?;
    let warm_up = Until::Elapsed(args.duration / 10);
    let lasting = Until::Elapsed(args.duration);

    let request = single(&server);
    load::run(server.address, SINGLES, request.clone(), SINGLE, warm_up).await?;
    let singly = load::run(server.address, SINGLES, request, SINGLE, lasting).await?;
    let raw = sqlite::rows_per_second(server.folder(), 1, PAYLOAD, args.duration).await?;
    report.add(
        Row::new(
            SCENARIO,
            format!("singly, {SINGLES} connections"),
            singly.per_second(),
            "jobs/s",
        )
        .at_least(5_000.0)
        .raw(raw, "SQLite rows, one a commit")
        .note(singly.latency()),
    );

    let request = batch(&server);
    load::run(server.address, BATCHES, request.clone(), WHOLE, warm_up).await?;
    let batches = load::run(server.address, BATCHES, request, WHOLE, lasting).await?;
    let raw = sqlite::rows_per_second(server.folder(), BATCH, PAYLOAD, args.duration).await?;
    let rate = load::per_second(batches.requests * BATCH as u64, batches.elapsed);
    report.add(
        Row::new(
            SCENARIO,
            format!("batches of {BATCH}, {BATCHES} connections"),
            rate,
            "jobs/s",
        )
        .at_least(30_000.0)
        .raw(raw, format!("SQLite rows, {BATCH} a commit"))
        .note(format!("a batch: {}", batches.latency())),
    );
    server.stop().await
}

/// One job's request, and what it must be answered with.
pub(super) fn single(server: &Server) -> Bytes {
    request("POST", "/api/v1/jobs", &server.address.to_string(), job().as_bytes())
}

pub(super) const SINGLE: Expect = Expect {
    status: 201,
    times: 1,
    text: "\"state\":\"queued\"",
};

/// A batch's request, and what it must be answered with.
pub(super) fn batch(server: &Server) -> Bytes {
    let body = format!("{{\"jobs\":[{}]}}", vec![job(); BATCH].join(","));
    request(
        "POST",
        "/api/v1/jobs/batch",
        &server.address.to_string(),
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

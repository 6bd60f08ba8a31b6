//! The load: one request again and again over some connections, each waiting for its answer before the next.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::http::{self, Connection};

/// When the load ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// After this time.
    Elapsed(Duration),
    /// After so many requests over all connections.
    Requests(u64),
}

/// What the load did.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Requests answered well.
    pub(super) requests: u64,
    /// From the first request to the last answer.
    pub(super) elapsed: Duration,
    /// Time per request, in microseconds.
    latency: Histogram<u64>,
}

impl Loaded {
    pub(super) fn per_second(&self) -> f64 {
        per_second(self.requests, self.elapsed)
    }

    /// p50 and p99 in words.
    pub(super) fn latency(&self) -> String {
        let millis = |quantile| millis(Duration::from_micros(self.latency.value_at_quantile(quantile)));
        format!("p50 {:.1} ms, p99 {:.1} ms", millis(0.5), millis(0.99))
    }
}

/// The rate.
#[expect(clippy::cast_precision_loss, reason = "a count of requests is far below 2^52")]
pub(super) fn per_second(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

/// Milliseconds with their fraction.
pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What every request must be answered with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expect {
    pub(super) status: u16,
    /// This must stand so often in the body.
    pub(super) times: usize,
    pub(super) text: &'static str,
}

/// Sends `request` until it is enough. The first answer that is not as expected ends everything.
pub(super) async fn run(
    address: SocketAddr,
    connections: usize,
    request: Bytes,
    expect: Expect,
    until: Until,
) -> anyhow::Result<Loaded> {
    let mut opened = Vec::with_capacity(connections);
    for _ in 0..connections {
        opened.push(Connection::tcp(address).await.context("cannot connect to the server")?);
    }
    let sent = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for connection in opened {
        let (request, sent) = (request.clone(), Arc::clone(&sent));
        tasks.spawn(one(connection, request, expect, until, sent, begin));
    }
    let mut latency = histogram()?;
    while let Some(ended) = tasks.join_next().await {
        latency.add(ended??)?;
    }
    Ok(Loaded {
        requests: latency.len(),
        elapsed: begin.elapsed(),
        latency,
    })
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 600_000_000, 3)?)
}

async fn one(
    mut connection: Connection,
    request: Bytes,
    expect: Expect,
    until: Until,
    sent: Arc<AtomicU64>,
    begin: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = histogram()?;
    loop {
        let enough = match until {
            Until::Elapsed(time) => begin.elapsed() >= time,
            Until::Requests(count) => sent.fetch_add(1, Ordering::Relaxed) >= count,
        };
        if enough {
            return Ok(latency);
        }
        let start = Instant::now();
        let reply = connection.call(&request).await?;
        latency.record(u64::try_from(start.elapsed().as_micros())?.max(1))?;
        let found = http::count(&reply.body, expect.text.as_bytes());
        ensure!(
            reply.status == expect.status && found == expect.times,
            "a request was answered {}: {}",
            reply.status,
            String::from_utf8_lossy(&reply.body)
                .chars()
                .take(300)
                .collect::<String>()
        );
    }
}

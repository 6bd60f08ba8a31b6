//! The load: one request again and again over some connections, as fast as answers come, or at a fixed pace.

use std::{
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

use super::{
    front::Front,
    http::{self, Connection},
};

/// When the load ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// After this time.
    Elapsed(Duration),
    /// After so many requests over all connections.
    Requests(u64),
}

/// When the next request is sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// As soon as a connection has its answer.
    Flat(Until),
    /// So many, each at its own time; its latency counts from then, however late a connection is free for it, so that a
    /// server that stalls is not spared the requests that would have come meanwhile.
    Fixed { every: Duration, count: u64 },
}

impl From<Until> for Pace {
    fn from(until: Until) -> Self {
        Self::Flat(until)
    }
}

impl Pace {
    /// So many a second for so long.
    pub(super) fn at(per_second: u32, lasting: Duration) -> Self {
        let every = Duration::from_secs(1) / per_second;
        let count = u64::try_from(lasting.as_nanos() / every.as_nanos().max(1)).unwrap_or(u64::MAX);
        Self::Fixed {
            every,
            count: count.max(1),
        }
    }

    /// Waits for the turn of the request with this number; the time from which it counts, or nothing where it is enough.
    async fn turn(self, begin: Instant, number: impl FnOnce() -> u64) -> Option<Instant> {
        match self {
            Self::Flat(Until::Elapsed(time)) => (begin.elapsed() < time).then(Instant::now),
            Self::Flat(Until::Requests(count)) => (number() < count).then(Instant::now),
            Self::Fixed { every, count } => {
                let number = number();
                if number >= count {
                    return None;
                }
                let due = begin + Duration::from_nanos(u64::try_from(every.as_nanos()).ok()?.checked_mul(number)?);
                tokio::time::sleep_until(due.into()).await;
                Some(due)
            }
        }
    }
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
        format!(
            "p50 {:.1} ms, p99 {:.1} ms",
            self.quantile_millis(0.5),
            self.quantile_millis(0.99)
        )
    }

    /// The time within which this part of the requests was answered.
    pub(super) fn quantile_millis(&self, quantile: f64) -> f64 {
        millis(Duration::from_micros(self.latency.value_at_quantile(quantile)))
    }

    /// Together with another load that came after it.
    pub(super) fn and(mut self, other: &Self) -> anyhow::Result<Self> {
        self.requests += other.requests;
        self.elapsed += other.elapsed;
        self.latency.add(&other.latency)?;
        Ok(self)
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

/// Sends `request` over so many connections, to these listeners in turn, until it is enough. The first answer that is not as
/// expected ends everything.
pub(super) async fn run(
    fronts: &[Front],
    connections: usize,
    request: Bytes,
    expect: Expect,
    pace: Pace,
) -> anyhow::Result<Loaded> {
    let mut opened = Vec::with_capacity(connections);
    for front in fronts.iter().cycle().take(connections) {
        let connection = Connection::tcp(front.address).await;
        opened.push(connection.context("cannot connect to the server")?);
    }
    let sent = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for connection in opened {
        let (request, sent) = (request.clone(), Arc::clone(&sent));
        tasks.spawn(one(connection, request, expect, pace, sent, begin));
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
    pace: Pace,
    sent: Arc<AtomicU64>,
    begin: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = histogram()?;
    let number = || sent.fetch_add(1, Ordering::Relaxed);
    while let Some(start) = pace.turn(begin, number).await {
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
    Ok(latency)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_paced_request_counts_from_when_it_was_due() {
        let pace = Pace::at(1_000, Duration::from_millis(10));
        let begin = Instant::now();
        // The connection was busy far beyond the times of all ten.
        let late = begin.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(pace.turn(late, || 7).await, Some(late + Duration::from_millis(7)));
        assert_eq!(pace.turn(late, || 10).await, None);
    }

    #[tokio::test]
    async fn a_load_as_fast_as_answers_come_ends_by_count_or_by_time() {
        let begin = Instant::now();
        assert!(Pace::from(Until::Requests(2)).turn(begin, || 1).await.is_some());
        assert!(Pace::from(Until::Requests(2)).turn(begin, || 2).await.is_none());
        let elapsed = Pace::from(Until::Elapsed(Duration::ZERO));
        assert!(
            elapsed
                .turn(begin, || unreachable!("it does not count"))
                .await
                .is_none()
        );
    }
}

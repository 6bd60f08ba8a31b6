//! The server under test as its clients see it: enqueue over HTTP, count, wait until all has ended.

use std::{net::SocketAddr, time::Duration};

use anyhow::{bail, ensure};
use robata_client::{BatchRequest, Client, EnqueueRequest, JobFilter};
use tokio::time::{Instant, sleep};

/// Jobs that make no progress for so long never will.
const STANDSTILL: Duration = Duration::from_secs(60);
/// How often counts are looked at: often enough for a rate over seconds, seldom enough to cost nothing.
const LOOK: Duration = Duration::from_millis(20);
/// Jobs in one batch.
pub(super) const BATCH: usize = 500;
/// The app whose jobs are run.
pub(super) const APP: &str = "bench";

/// One listener of the API.
#[derive(Clone, Debug)]
pub(super) struct Front {
    pub(super) address: SocketAddr,
    pub(super) client: Client,
}

/// Jobs by what they do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    pub(super) queued: u64,
    pub(super) running: u64,
}

impl Front {
    /// At the address that a daemon told of.
    pub(super) fn at(url: &str) -> anyhow::Result<Self> {
        Ok(Self {
            address: url.trim_start_matches("http://").parse()?,
            client: Client::new(url, None)?,
        })
    }

    /// Enqueues `count` jobs in batches.
    pub(super) async fn enqueue(&self, job: &str, count: usize) -> anyhow::Result<()> {
        let mut left = count;
        while left > 0 {
            let jobs = left.min(BATCH);
            left -= jobs;
            let request = BatchRequest {
                jobs: vec![EnqueueRequest::new(APP, job)?; jobs],
                atomic: true,
            };
            let answer = self.client.batch(&request).await?;
            let refused = answer.results.iter().find(|item| item.status != 201);
            ensure!(refused.is_none(), "a job was not taken: {refused:?}");
        }
        Ok(())
    }

    /// Waits until so many jobs run.
    pub(super) async fn until_running(&self, count: u64) -> anyhow::Result<()> {
        let running = || async { Ok(self.counts().await?.running) };
        self.until(running, |running| running >= count).await
    }

    /// Waits until nothing waits or runs, and makes sure that every job succeeded.
    pub(super) async fn until_all_ended(&self) -> anyhow::Result<()> {
        let open = || async {
            let counts = self.counts().await?;
            Ok(counts.queued + counts.running)
        };
        self.until(open, |open| open == 0).await?;
        let states = ["failed", "cancelled"].map(str::to_owned).to_vec();
        let bad = self
            .client
            .jobs(&JobFilter {
                states,
                limit: Some(1),
                ..JobFilter::default()
            })
            .await?;
        match bad.jobs.first() {
            None => Ok(()),
            Some(job) => bail!("job {} did not succeed: {:?} {:?}", job.id, job.reason, job.message),
        }
    }

    /// Looks at a count until it is `enough`; gives up where it no longer changes.
    async fn until<F: Future<Output = anyhow::Result<u64>>>(
        &self,
        count: impl Fn() -> F,
        enough: impl Fn(u64) -> bool,
    ) -> anyhow::Result<()> {
        let (mut last, mut moved) = (None, Instant::now());
        loop {
            let now = count().await?;
            if enough(now) {
                return Ok(());
            }
            if last != Some(now) {
                (last, moved) = (Some(now), Instant::now());
            }
            if moved.elapsed() > STANDSTILL {
                bail!("the server stands still at {now} jobs");
            }
            sleep(LOOK).await;
        }
    }

    /// How many jobs wait and run.
    pub(super) async fn counts(&self) -> anyhow::Result<Counts> {
        let queues = self.client.queues().await?;
        Ok(Counts {
            queued: queues.iter().map(|queue| queue.queued).sum(),
            running: queues.iter().map(|queue| queue.running).sum(),
        })
    }
}

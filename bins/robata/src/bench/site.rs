//! The seam between scenarios and the shape of what they measure: one implementation for each profile.

use std::time::Duration;

use async_trait::async_trait;
use clap::ValueEnum;

use super::{BenchArgs, Scenario, embedded::Embedded, report::Report, server::Server};
#[cfg(not(all(feature = "postgres", feature = "redis")))]
use crate::fault::Usage;

/// The shape under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// One process, over SQLite.
    Embedded,
    /// Masters and workers apart, over PostgreSQL and Redis.
    PostgresRedis,
}

/// How a server is to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// It accepts jobs, and nothing of them runs.
    Accepting,
    /// As somebody starts it who has no work yet.
    Plain,
}

/// What the profile's figures should be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Targets {
    /// Enqueues a second, one by one.
    pub(super) singly: f64,
    /// Jobs a second, in batches.
    pub(super) batches: f64,
    /// Jobs a second in batches, as a part of the raw limit; 0: none.
    pub(super) batches_of_raw: f64,
    /// The p99 of single enqueues that come at a fixed rate: a second, and milliseconds.
    pub(super) paced: Option<(u32, f64)>,
    /// Queued jobs that change nothing.
    pub(super) queued: u64,
}

/// The raw limit.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) per_second: f64,
    pub(super) words: String,
}

/// What is measured.
#[async_trait]
pub(super) trait Site: Send + Sync {
    /// What its figures should be.
    fn targets(&self) -> Targets;

    /// Starts a server with nothing in it.
    async fn start(&self, shape: Shape) -> anyhow::Result<Server>;

    /// Rows a second by hand, so many in each durable commit, into the store's own kind of table.
    async fn raw(&self, server: &Server, rows: usize, lasting: Duration) -> anyhow::Result<Raw>;

    /// Puts so many ended jobs into a store.
    async fn history(&self, server: &Server, jobs: u64) -> anyhow::Result<()>;

    /// Runs a scenario that this shape alone has.
    async fn run(&self, scenario: Scenario, args: &BenchArgs, report: &mut Report) -> anyhow::Result<()>;

    /// Removes what was made for servers that are gone.
    async fn tidy(&self) -> anyhow::Result<()>;
}

impl Profile {
    /// Which scenarios it has, in the order in which they are run.
    pub(super) fn scenarios(self) -> Vec<Scenario> {
        let has = |scenario: &Scenario| scenario.profiles().contains(&self);
        Scenario::value_variants().iter().copied().filter(has).collect()
    }

    /// Its site; refuses what is missing for it.
    pub(super) async fn site(self, args: &BenchArgs) -> anyhow::Result<Box<dyn Site>> {
        match self {
            Self::Embedded => Ok(Box::new(Embedded)),
            #[cfg(all(feature = "postgres", feature = "redis"))]
            Self::PostgresRedis => Ok(Box::new(super::fleet::Fleet::open(args).await?)),
            #[cfg(not(all(feature = "postgres", feature = "redis")))]
            Self::PostgresRedis => {
                let _ = args;
                Err(left_out())
            }
        }
    }
}

#[cfg(not(all(feature = "postgres", feature = "redis")))]
fn left_out() -> anyhow::Error {
    let words = "--profile postgres-redis needs the features `postgres` and `redis`, which this build leaves out: build with \
                 `cargo build --release --features robata/full -p robata -p robata-master -p robata-worker-daemon`";
    Usage(words.to_owned()).into()
}

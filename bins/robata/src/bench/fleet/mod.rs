//! Masters and workers apart, over PostgreSQL and Redis: the profile `postgres-redis`.
//!
//! The daemons are those that stand beside this program; what they work with is a database and keys of the bench's own.

mod attempts;
mod by_hand;
mod crew;
mod dispatch;
mod history;
mod link;
mod noop;
mod rows;
mod scale;
mod space;
mod stats;
mod work;

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use async_trait::async_trait;

use self::{crew::Crew, space::Space};
use super::{
    BenchArgs, Scenario,
    report::Report,
    server::Server,
    site::{Raw, Shape, Site, Targets},
};
use crate::fault::{Coded, Usage};

pub(super) use work::work;

/// Slots of a worker that does nothing but bookkeeping: as many as one that follows things elsewhere has, and far fewer than
/// its default there (1,000).
const SLOTS: u32 = 400;

/// The servers and programs that are there for the bench.
#[derive(Debug)]
pub(super) struct Fleet {
    store_url: String,
    queue_url: String,
    /// The folder of the daemons.
    programs: PathBuf,
    /// What was made and is not removed yet.
    spaces: Mutex<Vec<Space>>,
}

impl Fleet {
    /// Refuses what is missing.
    pub(super) async fn open(args: &BenchArgs) -> anyhow::Result<Self> {
        let given = |url: &Option<String>, flag: &str, what: &str| {
            let missing = || Usage(format!("--profile postgres-redis needs {flag} URL: {what}"));
            url.clone().filter(|url| !url.is_empty()).ok_or_else(missing)
        };
        let store_url = given(
            &args.store_url,
            "--store-url",
            "a PostgreSQL server where it may make a database of its own (or ROBATA_STORE__POSTGRES__URL)",
        )?;
        let queue_url = given(
            &args.queue_url,
            "--queue-url",
            "a Redis server (or ROBATA_QUEUE__REDIS__URL)",
        )?;
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        let programs = own.parent().context("this program is in no folder")?.to_owned();
        for (name, package) in [
            ("robata-master", "robata-master"),
            ("robata-worker", "robata-worker-daemon"),
        ] {
            let path = programs.join(name);
            if !path.is_file() {
                let message = format!(
                    "{} is not there: the bench runs the daemons beside this program; build them alike, with `-p {package}`",
                    path.display()
                );
                return Err(Coded {
                    code: "no_daemon",
                    message,
                }
                .into());
            }
        }
        link::connect(&queue_url).await?;
        space::reach(&store_url).await?;
        Ok(Self {
            store_url,
            queue_url,
            programs,
            spaces: Mutex::default(),
        })
    }

    /// A place of its own for a fleet.
    async fn space(&self) -> anyhow::Result<String> {
        let space = Space::make(&self.store_url, &self.queue_url).await?;
        let url = space.url.clone();
        self.spaces.lock().unwrap_or_else(PoisonError::into_inner).push(space);
        Ok(url)
    }
}

#[async_trait]
impl Site for Fleet {
    fn targets(&self) -> Targets {
        Targets {
            singly: 5_000.0,
            batches: 20_000.0,
            batches_of_raw: 0.5,
            paced: Some((2_000, 25.0)),
            queued: 1_000_000,
        }
    }

    async fn start(&self, shape: Shape) -> anyhow::Result<Server> {
        let mut crew = Crew::start(self, 1).await?;
        if shape == Shape::Plain {
            crew.add_worker(self).await?;
        }
        // Without a worker nothing that is accepted runs.
        Ok(crew.server)
    }

    async fn raw(&self, server: &Server, rows: usize, lasting: Duration) -> anyhow::Result<Raw> {
        let pool = crew::pool(server, rows::CONNECTIONS).await?;
        let raw = rows::per_second(&pool, rows, lasting).await;
        pool.close().await;
        raw
    }

    async fn history(&self, server: &Server, jobs: u64) -> anyhow::Result<()> {
        let pool = crew::pool(server, 1).await?;
        let done = history::write(&pool, jobs).await;
        pool.close().await;
        done
    }

    async fn run(&self, scenario: Scenario, args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
        match scenario {
            Scenario::Dispatch => dispatch::run(self, args, report).await,
            Scenario::Attempts => attempts::run(self, args, report).await,
            Scenario::Scale => scale::run(self, args, report).await,
            other => Err(other.foreign()),
        }
    }

    async fn tidy(&self) -> anyhow::Result<()> {
        loop {
            let space = self.spaces.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(space) = space else { return Ok(()) };
            space.remove().await?;
        }
    }
}

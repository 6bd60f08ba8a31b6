//! `robata bench`: what this machine does, each figure beside its target and the raw limit measured in the same run.
//!
//! The server under test is a child process of this very program with a data folder of its own, so that load generator
//! and server share nothing but the machine.

mod claims;
mod clock;
mod daemon;
mod docker;
mod embedded;
mod engine;
mod enqueue;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod fleet;
mod front;
mod gate;
mod group;
mod http;
mod idle;
mod load;
mod proc;
mod process;
mod queued;
mod report;
mod server;
mod site;
mod sqlite;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};
use robata_core::definition::duration;

use self::{
    report::Report,
    site::{Profile, Site},
};
use crate::{fault::Usage, output::Output};

/// What to measure and how long.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure [default: everything].
    #[arg(value_enum, value_name = "SCENARIO")]
    pub(crate) scenarios: Vec<Scenario>,
    /// What is under test: everything in one process over SQLite, or masters and workers apart over PostgreSQL and Redis.
    #[arg(long, value_enum, default_value = "embedded")]
    pub(crate) profile: Profile,
    /// How long each rate is measured.
    #[arg(long, value_parser = duration::parse, default_value = "5s", value_name = "DURATION")]
    pub(crate) duration: Duration,
    /// Jobs to run to their end [default: 1000 processes, 60 containers; 20000 that do nothing].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) jobs: Option<u32>,
    /// Queued jobs that must change nothing [default: 100000; 1000000 in PostgreSQL].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    pub(crate) queued: Option<u64>,
    /// Finished jobs that must change nothing either, in PostgreSQL.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) finished: u64,
    /// A PostgreSQL server where databases may be made, for the profile postgres-redis. The bench works in a database of its
    /// own, and drops it; the one that is named here is only connected to.
    #[arg(
        long,
        env = "ROBATA_STORE__POSTGRES__URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) store_url: Option<String>,
    /// A Redis server for the profile postgres-redis. The bench works with keys of its own, and deletes them.
    #[arg(long, env = "ROBATA_QUEUE__REDIS__URL", hide_env_values = true, value_name = "URL")]
    pub(crate) queue_url: Option<String>,
    /// Where Docker listens.
    #[arg(long, default_value = "unix:///var/run/docker.sock", value_name = "URL")]
    pub(crate) docker_host: String,
    /// An image on that engine in which `true` can be run.
    #[arg(long, default_value = "busybox", value_name = "IMAGE")]
    pub(crate) image: String,
    /// Be a worker of a bench by these settings, with an executor that does nothing.
    #[arg(long, hide = true, value_name = "SETTINGS")]
    pub(crate) worker: Option<PathBuf>,
    /// Where that worker writes down when it was asked to start what.
    #[arg(long, hide = true, value_name = "FILE")]
    pub(crate) stamps: Option<PathBuf>,
}

/// A group of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Durable enqueue over HTTP, one by one and in batches.
    Enqueue,
    /// Processes: rate to their recorded end, time to their start (embedded).
    Process,
    /// Containers, against the same by hand through the engine's API (embedded).
    Docker,
    /// A job that is due on an idle system: how soon a worker has claimed it (postgres-redis).
    Dispatch,
    /// Attempts of which nothing but their bookkeeping is left, and where their time goes (postgres-redis).
    Attempts,
    /// The same with more workers, and with more masters (postgres-redis).
    Scale,
    /// Many queued jobs: memory, enqueue, claim and lists.
    Queued,
    /// Memory and CPU of daemons without work.
    Idle,
}

impl Scenario {
    fn name(self) -> &'static str {
        match self {
            Self::Enqueue => "enqueue",
            Self::Process => "process",
            Self::Docker => "docker",
            Self::Dispatch => "dispatch",
            Self::Attempts => "attempts",
            Self::Scale => "scale",
            Self::Queued => "queued",
            Self::Idle => "idle",
        }
    }

    /// The profiles that have it.
    fn profiles(self) -> &'static [Profile] {
        match self {
            Self::Enqueue | Self::Queued | Self::Idle => &[Profile::Embedded, Profile::PostgresRedis],
            Self::Process | Self::Docker => &[Profile::Embedded],
            Self::Dispatch | Self::Attempts | Self::Scale => &[Profile::PostgresRedis],
        }
    }

    async fn run(self, site: &dyn Site, args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
        match self {
            Self::Enqueue => enqueue::run(site, args, report).await,
            Self::Queued => queued::run(site, args, report).await,
            Self::Idle => idle::run(site, args, report).await,
            own => site.run(own, args, report).await,
        }
    }

    /// The error of a profile that does not have it.
    fn foreign(self) -> anyhow::Error {
        let of = self.profiles().iter().filter_map(ValueEnum::to_possible_value);
        let of: Vec<_> = of.map(|profile| profile.get_name().to_owned()).collect();
        Usage(format!(
            "{} is measured with --profile {}",
            self.name(),
            of.join(" or ")
        ))
        .into()
    }
}

/// Runs the scenarios one after another and prints what came out; one that fails does not hold back the others.
pub(crate) async fn bench(args: BenchArgs, out: &Output) -> anyhow::Result<ExitCode> {
    #[cfg(all(feature = "postgres", feature = "redis"))]
    if let Some(settings) = args.worker {
        return fleet::work(settings, args.stamps).await;
    }
    let has = args.profile.scenarios();
    if let Some(foreign) = args.scenarios.iter().find(|scenario| !has.contains(scenario)) {
        return Err(foreign.foreign());
    }
    let chosen = if args.scenarios.is_empty() {
        &has
    } else {
        &args.scenarios
    };
    let site = args.profile.site(&args).await?;
    let mut report = Report::new();
    for scenario in chosen {
        out.note(&format!("measuring {} …", scenario.name()));
        let run = Box::pin(scenario.run(&*site, &args, &mut report));
        // An interrupt drops the run, and with it its servers and their folders.
        let ended = tokio::select! {
            ended = run => ended,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                site.tidy().await?;
                return Ok(ExitCode::from(crate::exit::CANCELLED));
            }
        };
        // Its servers are gone; what they worked with goes, too, before the next one begins.
        let ended = match (ended, site.tidy().await) {
            (Ok(()), tidied) => tidied,
            (error, _) => error,
        };
        if let Err(error) = ended {
            report.failed(scenario.name(), &error);
        }
    }
    out.print(&report, || report.text(out))?;
    Ok(if report.is_whole() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

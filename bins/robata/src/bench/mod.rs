//! `robata bench`: what this machine does, each figure beside its target and the raw limit measured in the same run.
//!
//! The server under test is a child process of this very program with a data folder of its own, so that load generator
//! and server share nothing but the machine.

mod claims;
mod clock;
mod docker;
mod engine;
mod enqueue;
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
mod sqlite;

use std::{process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};
use robata_core::definition::duration;

use self::report::Report;
use crate::output::Output;

/// What to measure and how long.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure [default: everything].
    #[arg(value_enum, value_name = "SCENARIO")]
    pub(crate) scenarios: Vec<Scenario>,
    /// How long each rate is measured.
    #[arg(long, value_parser = duration::parse, default_value = "5s", value_name = "DURATION")]
    pub(crate) duration: Duration,
    /// Jobs to run to their end [default: 1000 processes, 60 containers].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) jobs: Option<u32>,
    /// Where Docker listens.
    #[arg(long, default_value = "unix:///var/run/docker.sock", value_name = "URL")]
    pub(crate) docker_host: String,
    /// An image on that engine in which `true` can be run.
    #[arg(long, default_value = "busybox", value_name = "IMAGE")]
    pub(crate) image: String,
}

/// A group of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Durable enqueue over HTTP, one by one and in batches.
    Enqueue,
    /// Processes: rate to their recorded end, time to their start.
    Process,
    /// Containers, against the same by hand through the engine's API.
    Docker,
    /// 100,000 queued jobs: memory, enqueue and claim.
    Queued,
    /// Memory and CPU of a server without work.
    Idle,
}

impl Scenario {
    fn name(self) -> &'static str {
        match self {
            Self::Enqueue => "enqueue",
            Self::Process => "process",
            Self::Docker => "docker",
            Self::Queued => "queued",
            Self::Idle => "idle",
        }
    }

    async fn run(self, args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
        match self {
            Self::Enqueue => enqueue::run(args, report).await,
            Self::Process => process::run(args, report).await,
            Self::Docker => docker::run(args, report).await,
            Self::Queued => queued::run(report).await,
            Self::Idle => idle::run(args, report).await,
        }
    }
}

/// Runs the scenarios one after another and prints what came out; one that fails does not hold back the others.
pub(crate) async fn bench(args: BenchArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let chosen = if args.scenarios.is_empty() {
        Scenario::value_variants()
    } else {
        &args.scenarios
    };
    let mut report = Report::new();
    for scenario in chosen {
        out.note(&format!("measuring {} …", scenario.name()));
        let run = Box::pin(scenario.run(&args, &mut report));
        // An interrupt drops the run, and with it its servers and their folders.
        let ended = tokio::select! {
            ended = run => ended,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(ExitCode::from(crate::exit::CANCELLED));
            }
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

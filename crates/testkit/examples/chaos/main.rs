//! A fault run: masters, workers, PostgreSQL and a broker, thousands of jobs, and a seeded storm of faults; then a checker proves
//! from outside that every promise was kept. Where the variables of `tests/run` tell of a Docker engine, a share of the jobs
//! runs in containers.
//!
//!     cargo build --workspace --bins --features robata-adapters/full
//!     cargo run -p robata-testkit --example chaos -- --broker redis --seconds 300 --seed 7

mod broker;
mod chance;
mod clock;
mod engine;
mod faults;
mod fleet;
mod judge;
mod kinds;
mod load;
mod notice;
mod proxy;
mod redis;
mod servers;
mod sqs;
mod table;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use broker::{Broker, Kind};
use chance::Chance;
use engine::Engine;
use faults::Storm;
use fleet::Fleet;
use load::Load;
use notice::Watch;
use servers::Postgres;

/// The disk for logs, where one can be mounted; large enough for all that is printed.
const LOG_DISK: &str = "size=192m";
/// What is still waiting or running when the faults are over has so long to end.
const LAST: Duration = Duration::from_secs(240);

/// A fault run with PostgreSQL, a broker, two masters and three workers.
#[derive(Debug, Parser)]
struct Args {
    /// The broker, which is started and killed.
    #[arg(long, value_enum, default_value_t = Kind::Redis)]
    broker: Kind,
    /// How long faults happen.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// What all chance follows from; default: another one each time. The faults are the same for one seed, their moments
    /// nearly so.
    #[arg(long)]
    seed: Option<u64>,
    /// Jobs a second.
    #[arg(long, default_value_t = 8)]
    rate: u64,
    /// Where robata-master and robata-worker are; default: beside this program.
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Keeps the folder with all that the daemons wrote.
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| u64::from(std::process::id()));
    table::say(&format!("seed {seed}, {} s of faults, {}", args.seconds, args.broker));
    let binaries = match &args.binaries {
        Some(folder) => folder.clone(),
        // This is target/PROFILE/examples/chaos.
        None => std::env::current_exe()?
            .ancestors()
            .nth(2)
            .context("a folder")?
            .to_owned(),
    };
    // A socket's path may have no more than 107 bytes, and PostgreSQL's user must be able to pass.
    let work = tempfile::Builder::new()
        .prefix("robata-chaos.")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .disable_cleanup(true)
        .tempdir_in("/tmp")?;
    let logs = work.path().join("logs");
    std::fs::create_dir(&logs)?;
    let small_disk = mount(
        Some("robata-chaos"),
        &logs,
        Some("tmpfs"),
        MsFlags::empty(),
        Some(LOG_DISK),
    )
    .is_ok();
    let clean = run(&args, seed, &binaries, work.path(), small_disk).await;
    if small_disk {
        umount2(&logs, MntFlags::MNT_DETACH)?;
    }
    let Outcome { clean, all_done } = clean?;
    if args.keep || !clean {
        table::say(&format!("what the daemons wrote: {}", work.path().display()));
    } else {
        std::fs::remove_dir_all(work.path())?;
    }
    Ok(match (clean, all_done) {
        (true, true) => ExitCode::SUCCESS,
        // As tests/run has it: what could be done here went well.
        (true, false) => ExitCode::from(3),
        (false, _) => ExitCode::FAILURE,
    })
}

/// What came of a run.
struct Outcome {
    /// No promise was broken.
    clean: bool,
    /// No kind of fault had to be left out for want of something.
    all_done: bool,
}

async fn run(
    args: &Args,
    seed: u64,
    binaries: &std::path::Path,
    work: &std::path::Path,
    small_disk: bool,
) -> Result<Outcome> {
    let mut chance = Chance::new(seed);
    let postgres = Postgres::start(work).await?;
    let broker = Broker::start(args.broker, work).await?;
    let engine = Engine::told_of()?;
    let fleet = Arc::new(Fleet::start(work, binaries, (&postgres, &broker), engine.as_ref()).await?);
    let image = engine.as_ref().map(|engine| engine.image.clone());
    let load = Load::new(fleet.masters().map(|master| master.port).collect(), image)?;
    let journal = work.join("journal");
    load.apply(&journal).await?;
    let storm = Arc::new(Storm::new(Arc::clone(&fleet), postgres, broker, small_disk));
    let stop = CancellationToken::new();
    let watch = Arc::new(Watch::default());
    let watching = tokio::spawn(Arc::clone(&watch).run(Arc::clone(&load), stop.clone()));
    let enqueuing = tokio::spawn(Arc::clone(&load).run(chance.fork(), args.rate, stop.clone()));
    let begin = Instant::now();
    let raged = Arc::clone(&storm)
        .run(chance.fork(), Duration::from_secs(args.seconds))
        .await;
    table::say(&format!(
        "the faults are over after {:.0} s",
        begin.elapsed().as_secs_f64()
    ));
    stop.cancel();
    raged?;
    enqueuing.await?.context("those who enqueue")?;
    watching.await?;
    for daemon in &fleet.daemons {
        if let Some(ended) = daemon.ended_by_itself()? {
            bail!("{ended}");
        }
    }
    let ended = judge::all_ended(&load, LAST).await?;
    table::say(&format!("all is over after {:.0} s", begin.elapsed().as_secs_f64()));
    let (mut report, observed) = judge::judge_when_clean(&ended, &journal, &fleet, engine.as_ref()).await?;
    fleet.end();
    let windows = storm.windows.lock().await.clone();
    let times = notice::times(&watch, &windows, &ended, &observed);
    report.violations.extend(times.iter().filter_map(notice::Bound::broken));
    table::faults(&windows, &ended, &observed.lines);
    let all_done = table::not_run(&storm, &fleet);
    table::requests(&load);
    table::times(&times);
    table::say(&format!("seed {seed}: {report}"));
    Ok(Outcome {
        clean: report.violations.is_empty(),
        all_done,
    })
}

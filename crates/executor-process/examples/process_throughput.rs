//! How many processes a second, from prepare to removal, at 1, 2, 4 and 8 at once, and what each costs; the raw spawn
//! beside it.

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use nix::sys::resource::{UsageWho, getrusage};
use robata_core::{
    InstallationId,
    executor::{Event, Executor, Prepare, Spec, Target, ThingState},
};
use robata_executor_process::{ProcessConfig, ProcessExecutor, supervise_if_asked};
use tokio::sync::broadcast;

const COUNT: usize = 400;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    supervise_if_asked();
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut print = std::io::stdout();
    let (begun, used) = (Instant::now(), cpu()?);
    for _ in 0..COUNT {
        Command::new("/bin/true").stdin(Stdio::null()).status()?;
    }
    let used = (cpu()? - used).as_secs_f64() * 1000.0 / COUNT as f64;
    let rate = COUNT as f64 / begun.elapsed().as_secs_f64();
    writeln!(
        print,
        "raw spawn and wait, 1 at once: {rate:.0} a second, {used:.2} ms of CPU each"
    )?;
    let state = std::env::temp_dir().join(format!("robata-throughput-{}", std::process::id()));
    let executor = ProcessExecutor::open(ProcessConfig::new(&state, InstallationId::new()))?;
    let (told, _) = broadcast::channel(4096);
    let mut events = executor.events();
    tokio::spawn({
        let told = told.clone();
        async move {
            while let Some(event) = events.next().await {
                if let Event::Changed(handle) = event {
                    let _nobody_waits = told.send(handle);
                }
            }
        }
    });
    for parallel in [1, 2, 4, 8] {
        let (begun, used) = (Instant::now(), cpu()?);
        let one = |number: usize| {
            let (executor, told) = (executor.clone(), told.subscribe());
            async move { one(&executor, told, format!("n-{parallel}-{number}")).await }
        };
        let done: Vec<_> = stream::iter(0..COUNT)
            .map(one)
            .buffer_unordered(parallel)
            .collect()
            .await;
        for result in done {
            result?;
        }
        let rate = COUNT as f64 / begun.elapsed().as_secs_f64();
        let used = (cpu()? - used).as_secs_f64() * 1000.0 / COUNT as f64;
        writeln!(
            print,
            "prepare, start, end, remove, {parallel} at once: {rate:.0} a second, {used:.2} ms of CPU each"
        )?;
    }
    std::fs::remove_dir_all(state)?;
    Ok(())
}

async fn one(
    executor: &ProcessExecutor,
    mut told: broadcast::Receiver<robata_core::executor::Handle>,
    name: String,
) -> robata_core::Result<()> {
    let spec = Spec {
        command: Some(vec!["/bin/true".into()]),
        ..Spec::default()
    };
    let thing = executor
        .prepare(Prepare {
            name,
            labels: BTreeMap::new(),
            spec,
            progress: None,
        })
        .await?
        .handle;
    executor.start(&thing).await?;
    loop {
        let seen = executor.observe(&[Target::Handle(thing.clone())]).await?;
        if matches!(seen[0].state, ThingState::Ended(_)) {
            break;
        }
        while told.recv().await.is_ok_and(|handle| handle != thing) {}
    }
    executor.remove(&thing, false).await
}

/// The CPU time of this process and of all that it has buried, the supervisors and their jobs.
fn cpu() -> nix::Result<Duration> {
    let mut sum = Duration::ZERO;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        for time in [usage.user_time(), usage.system_time()] {
            sum +=
                Duration::new(time.tv_sec().unsigned_abs(), 0) + Duration::from_micros(time.tv_usec().unsigned_abs());
        }
    }
    Ok(sum)
}

//! A container that prints more than anybody reads: what it takes, what is kept of it, and what is said of the rest.
//!
//! `cargo run --release -p robata-executor-docker --example docker_flood -- HOST IMAGE MIB LOG_MAX_MIB`
#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use robata_core::{
    InstallationId,
    executor::{Executor, Position, Prepare, ReadOutput, Spec, Target, ThingState},
};
use robata_executor_docker::{DockerConfig, DockerExecutor};

/// Reading stands still for so long between two megabytes.
const PAUSE: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [host, image, mib, log_max] = &args[..] else {
        bail!("usage: flood HOST IMAGE MIB LOG_MAX_MIB");
    };
    let mib: u64 = mib.parse().context("MIB")?;
    let executor = DockerExecutor::connect(DockerConfig {
        host: Some(host.clone()),
        log_max_bytes: log_max.parse::<u64>().context("LOG_MAX_MIB")? << 20,
        ..DockerConfig::new(InstallationId::new())
    })?;
    let line = "x".repeat(1023);
    let script = format!("yes {line} | head -c {}", mib << 20);
    let mut spec = Spec {
        image: Some(image.clone()),
        command: Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), script]),
        ..Spec::default()
    };
    spec.docker.network = Some("none".to_owned());
    let request = Prepare {
        name: format!("flood-{}", std::process::id()),
        labels: [("robata.mark".to_owned(), "1".to_owned())].into(),
        spec,
        progress: None,
    };
    let handle = executor.prepare(request).await?.handle;
    executor.start(&handle).await?;
    let begun = Instant::now();
    let watch = {
        let (executor, target) = (executor.clone(), Target::Handle(handle.clone()));
        tokio::spawn(async move {
            loop {
                let seen = executor.observe(std::slice::from_ref(&target)).await?;
                if let ThingState::Ended(ending) = &seen[0].state {
                    println!("the container ended after {:?}: {:?}", begun.elapsed(), ending.end);
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    };
    let request = ReadOutput {
        handle: handle.clone(),
        from: Position::default(),
        follow: true,
    };
    let mut output = executor.output(request).await?;
    let (mut bytes, mut pause_at) = (0, 1 << 20);
    while let Some(piece) = output.next().await {
        match piece {
            Ok(piece) => bytes += piece.data.len(),
            Err(error) => println!("said at the end: {}", error.full()),
        }
        if bytes >= pause_at {
            pause_at += 1 << 20;
            tokio::time::sleep(PAUSE).await;
        }
    }
    println!(
        "read {:.1} of {mib} MiB in {:?}, slowed to 20 MiB/s",
        bytes as f64 / 1_048_576.0,
        begun.elapsed()
    );
    watch.await??;
    executor.remove(&handle, true).await?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let lines = status.lines();
    lines
        .filter(|line| line.starts_with("VmHWM"))
        .for_each(|line| println!("our memory at its peak: {line}"));
    Ok(())
}

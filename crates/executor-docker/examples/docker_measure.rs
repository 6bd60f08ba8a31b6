//! How many starts at once an engine bears best: create, start, wait for the end and remove, through this executor.
//!
//! `cargo run --release -p robata-executor-docker --example docker_measure -- HOST IMAGE` (the image needs `true` in its PATH)
#![expect(clippy::print_stdout, reason = "it prints a table")]

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, stream};
use robata_core::{
    InstallationId,
    executor::{Executor, Prepare, Spec, Target, ThingState, label},
};
use robata_executor_docker::{DockerConfig, DockerExecutor};
use tokio::time::Instant;

const RUNS: usize = 40;
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let host = args.next();
    let image = args.next().unwrap_or_else(|| "busybox".to_owned());
    println!(
        "{:8} {:>8} {:>26} {:>12} {:>12}",
        "network", "parallel", "a second (each round)", "start p50", "whole p50"
    );
    for network in ["none", "default"] {
        for parallel in [1, 2, 4, 8] {
            let mut rates = Vec::new();
            let (mut starts, mut wholes) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let executor = DockerExecutor::connect(DockerConfig {
                    host: host.clone(),
                    parallel_starts: 0,
                    ..DockerConfig::new(InstallationId::new())
                })?;
                executor.realm().await?;
                let begun = Instant::now();
                let runs: Vec<_> = stream::iter(0..RUNS)
                    .map(|_| one(&executor, &image, network))
                    .buffer_unordered(parallel)
                    .collect()
                    .await;
                rates.push(format!("{:.1}", RUNS as f64 / begun.elapsed().as_secs_f64()));
                for run in runs {
                    let (start, whole) = run?;
                    starts.push(start);
                    wholes.push(whole);
                }
            }
            let (start, whole) = (median(starts), median(wholes));
            println!(
                "{network:8} {parallel:>8} {:>26} {start:>9} ms {whole:>9} ms",
                rates.join(" ")
            );
        }
    }
    Ok(())
}

async fn one(executor: &DockerExecutor, image: &str, network: &str) -> anyhow::Result<(Duration, Duration)> {
    let mut spec = Spec {
        image: Some(image.to_owned()),
        command: Some(vec!["true".to_owned()]),
        ..Spec::default()
    };
    spec.docker.network = Some(network.to_owned());
    let begun = Instant::now();
    let made = executor
        .prepare(Prepare {
            name: format!("measure-{}", uuid::Uuid::new_v4().simple()),
            labels: BTreeMap::from([(label::MARK.to_owned(), uuid::Uuid::new_v4().to_string())]),
            spec,
            progress: None,
        })
        .await?;
    let started = Instant::now();
    executor.start(&made.handle).await?;
    let start = started.elapsed();
    loop {
        let seen = executor.observe(&[Target::Handle(made.handle.clone())]).await?;
        if matches!(seen[0].state, ThingState::Ended(_)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    executor.remove(&made.handle, false).await?;
    Ok((start, begun.elapsed()))
}

fn median(mut times: Vec<Duration>) -> u128 {
    times.sort();
    times[times.len() / 2].as_millis()
}

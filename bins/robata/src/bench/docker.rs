//! Containers: what Robata adds to the engine's own time, and whether it keeps the engine as busy as it bears.
//!
//! By hand and by Robata take turns, so that an engine that gets slower gets slower for both.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use robata_client::{EnqueueRequest, Job};
use robata_core::JobState;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    BenchArgs,
    embedded::{self, DockerSetup, Setup},
    engine::{Engine, Host, description},
    enqueue::PAYLOAD,
    front::APP,
    load::{millis, per_second},
    report::{Report, Row},
    server::Server,
};

const SCENARIO: &str = "docker";
/// Containers one after another, each way.
const ONE_BY_ONE: usize = 30;
/// Rounds of containers in parallel, each way.
const ROUNDS: u32 = 3;
/// Of these the best by hand is compared.
const PARALLEL: [u32; 4] = [1, 2, 4, 8];
/// An engine that has not removed what ended by then has a fault.
const CLEAN_WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

pub(super) async fn run(args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
    let host = Host::parse(&args.docker_host)?;
    let mut engine = Engine::connect(&host).await?;
    engine.has_image(&args.image).await?;
    let setup = |slots, payload| Setup {
        docker: Some(DockerSetup {
            host: args.docker_host.clone(),
            image: args.image.clone(),
            slots,
            payload,
        }),
        ..Setup::default()
    };

    let mut server = Docked::start(&setup(2, "auto"), &mut engine).await?;
    let by_hand = by_hand(&server.server, &args.image)?;
    let (mut robata, mut hand) = (Vec::new(), Vec::new());
    for _ in 0..ONE_BY_ONE {
        hand.push(engine_time(&mut engine, &by_hand).await?);
        robata.push(server.job_time(&mut engine).await?);
    }
    server.server.stop().await?;
    let mut server = Docked::start(&setup(2, "volume"), &mut engine).await?;
    let mut volume = Vec::new();
    for _ in 0..ONE_BY_ONE {
        volume.push(server.job_time(&mut engine).await?);
    }
    server.server.stop().await?;
    let (robata, hand, volume) = (median(robata), median(hand), median(volume));
    let words = |time: Duration| format!("{:.0} ms from enqueue to recorded end", millis(time));
    report.add(
        Row::new(
            SCENARIO,
            "over by hand, payload mounted",
            millis(robata) - millis(hand),
            "ms",
        )
        .at_most(15.0)
        .raw(millis(hand), "create + start + wait + remove")
        .note(words(robata)),
    );
    report.add(
        Row::new(
            SCENARIO,
            "over by hand, payload by volume",
            millis(volume) - millis(hand),
            "ms",
        )
        .raw(millis(hand), "the same, payload mounted")
        .note(words(volume)),
    );
    in_parallel(args, report, &host, &mut engine, &setup).await
}

async fn in_parallel(
    args: &BenchArgs,
    report: &mut Report,
    host: &Host,
    engine: &mut Engine,
    setup: &(impl Fn(u32, &'static str) -> Setup + Sync),
) -> anyhow::Result<()> {
    let jobs = args.jobs.unwrap_or(60);
    let folder = tempfile::tempdir()?;
    let description = description(&args.image, &payload_file(folder.path())?);
    let mut found = Vec::new();
    for parallel in PARALLEL {
        let time = many_by_hand(host, &description, parallel, jobs).await?;
        found.push((parallel, per_second(u64::from(jobs), time)));
    }
    let (best, _) = found
        .iter()
        .copied()
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .context("nothing was tried")?;
    let mut server = Docked::start(&setup(best, "auto"), engine).await?;
    let (mut robata, mut hand) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        hand += many_by_hand(host, &description, best, jobs).await?;
        let begin = Instant::now();
        server.server.enqueue("container", jobs as usize).await?;
        server.server.until_all_ended().await?;
        robata += begin.elapsed();
        server.until_clean(engine).await?;
    }
    server.server.stop().await?;
    let count = u64::from(jobs * ROUNDS);
    let (robata, hand) = (per_second(count, robata), per_second(count, hand));
    let tried: Vec<_> = found
        .iter()
        .map(|(parallel, rate)| format!("{rate:.1} at {parallel}"))
        .collect();
    report.add(
        Row::new(SCENARIO, format!("throughput, {best} in parallel"), robata, "jobs/s")
            .at_least(0.95 * hand)
            .raw(hand, "by hand, as many in parallel")
            .note(format!(
                "{:.0} % of by hand; by hand a second: {}",
                robata / hand * 100.0,
                tried.join(", ")
            )),
    );
    Ok(())
}

/// A server that runs containers, and how to tell them from others'.
struct Docked {
    server: Server,
    /// What this server's containers carry.
    installation: String,
    job: EnqueueRequest,
}

impl Docked {
    async fn start(setup: &Setup, engine: &mut Engine) -> anyhow::Result<Self> {
        let server = embedded::start(setup).await?;
        let job = EnqueueRequest {
            payload: Some(serde_json::value::RawValue::from_string(PAYLOAD.to_owned())?),
            ..EnqueueRequest::new(APP, "container")?
        };
        // What is done once only (the realm, the image) is not measured.
        let first = server.client.enqueue(&job).await?.job;
        let found = async {
            loop {
                if let Some(installation) = engine.installation_of(first.id).await? {
                    return anyhow::Ok(installation);
                }
                sleep(LOOK).await;
            }
        };
        let installation = timeout(CLEAN_WITHIN, found)
            .await
            .context("the first job got no container")??;
        succeeded(&server.client.wait(first.id).await?)?;
        let mut docked = Self {
            server,
            installation,
            job,
        };
        docked.until_clean(engine).await?;
        Ok(docked)
    }

    /// From sending the enqueue to the answer that tells the recorded end; the next one begins on a clean engine.
    async fn job_time(&mut self, engine: &mut Engine) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let job = self.server.client.enqueue(&self.job).await?.job;
        let job = self.server.client.wait(job.id).await?;
        let time = begin.elapsed();
        succeeded(&job)?;
        self.until_clean(engine).await?;
        Ok(time)
    }

    async fn until_clean(&mut self, engine: &mut Engine) -> anyhow::Result<()> {
        let clean = async {
            while engine.left(&self.installation).await? > 0 {
                sleep(LOOK).await;
            }
            anyhow::Ok(())
        };
        timeout(CLEAN_WITHIN, clean)
            .await
            .context("containers that ended are not removed")?
    }
}

fn succeeded(job: &Job) -> anyhow::Result<()> {
    let state = job.state.known();
    ensure!(
        state == Some(JobState::Succeeded),
        "job {} did not succeed: {:?} {:?}",
        job.id,
        job.reason,
        job.message
    );
    Ok(())
}

fn by_hand(server: &Server, image: &str) -> anyhow::Result<Value> {
    Ok(description(image, &payload_file(server.folder())?))
}

fn payload_file(folder: &std::path::Path) -> anyhow::Result<String> {
    let path = folder.join("payload");
    std::fs::write(&path, PAYLOAD)?;
    Ok(path.display().to_string())
}

async fn engine_time(engine: &mut Engine, description: &Value) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    engine.run(description).await?;
    Ok(begin.elapsed())
}

/// `count` containers over `parallel` connections.
async fn many_by_hand(host: &Host, description: &Value, parallel: u32, count: u32) -> anyhow::Result<Duration> {
    let mut engines = Vec::new();
    for _ in 0..parallel {
        engines.push(Engine::connect(host).await?);
    }
    let left = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(count));
    let begin = Instant::now();
    let mut lanes = JoinSet::new();
    for mut engine in engines {
        let (description, left) = (description.clone(), std::sync::Arc::clone(&left));
        lanes.spawn(async move {
            let one = |left: u32| left.checked_sub(1);
            let order = std::sync::atomic::Ordering::Relaxed;
            while left.fetch_update(order, order, one).is_ok() {
                engine.run(&description).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = lanes.join_next().await {
        ended??;
    }
    Ok(begin.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        let seconds = |seconds: &[u64]| seconds.iter().copied().map(Duration::from_secs).collect::<Vec<_>>();
        assert_eq!(median(seconds(&[9, 1, 5])), Duration::from_secs(5));
        assert_eq!(median(Vec::new()), Duration::ZERO);
    }
}

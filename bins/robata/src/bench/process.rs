//! Processes: how many a second come to their recorded end, and how soon one starts on an idle system.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures::TryStreamExt as _;
use hdrhistogram::Histogram;
use robata_client::{EnqueueRequest, LogsRequest};
use robata_core::JobState;

use super::{
    BenchArgs, clock,
    load::per_second,
    report::{Report, Row},
    server::{APP, Server, Setup},
};

const SCENARIO: &str = "process";
/// Starts on an idle system.
const STARTS: usize = 100;
/// Between two of them: the last one's log is sealed and its folder removed meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn run(args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
    let lasting = args.duration;
    let raw = tokio::task::spawn_blocking(move || spawned_per_second(lasting)).await??;
    let mut server = Server::start(&Setup::default()).await?;
    // What is done once only (files, statements) is not measured.
    server.enqueue("true", 20).await?;
    server.until_all_ended().await?;

    let starts = starts(&server).await?;
    let by_hand = tokio::task::spawn_blocking(starts_by_hand).await??;
    let millis = |histogram: &Histogram<u64>, quantile| {
        Duration::from_micros(histogram.value_at_quantile(quantile)).as_secs_f64() * 1e3
    };
    report.add(
        Row::new(
            SCENARIO,
            "enqueue → process reads its clock, p50",
            millis(&starts, 0.5),
            "ms",
        )
        .at_most(10.0)
        .raw(millis(&by_hand, 0.5), "the same program spawned by hand")
        .note(format!(
            "p99 {:.1} ms; {STARTS} starts of `date`, one after another",
            millis(&starts, 0.99)
        )),
    );

    let jobs = args.jobs.unwrap_or(1_000);
    let begin = Instant::now();
    server.enqueue("true", jobs as usize).await?;
    server.until_all_ended().await?;
    let rate = per_second(u64::from(jobs), begin.elapsed());
    report.add(
        Row::new(
            SCENARIO,
            format!("{jobs} × /bin/true to their recorded end"),
            rate,
            "jobs/s",
        )
        .at_least(200.0)
        .raw(raw, "spawn and wait, one after another")
        .note("default slots: 2 × cores"),
    );
    server.stop().await
}

/// From sending the enqueue to the moment that the job's own process reads from the clock: `date` prints it, so that
/// exec and the program's own beginning are in it, too (as in the figure by hand).
async fn starts(server: &Server) -> anyhow::Result<Histogram<u64>> {
    let request = EnqueueRequest::new(APP, "stamp")?;
    let mut latency = Histogram::new(3)?;
    for _ in 0..STARTS {
        let sent = clock::wall_nanos();
        let job = server.client.enqueue(&request).await?.job;
        let job = server.client.wait(job.id).await?;
        ensure!(
            job.state.known() == Some(JobState::Succeeded),
            "job {} did not succeed: {:?}",
            job.id,
            job.message
        );
        // Followed, it ends when the log is sealed.
        let logs = LogsRequest {
            follow: true,
            ..LogsRequest::default()
        };
        let pieces: Vec<_> = server.client.logs(job.id, &logs).await?.try_collect().await?;
        latency.record(since(sent, &pieces.concat())?)?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(latency)
}

fn starts_by_hand() -> anyhow::Result<Histogram<u64>> {
    let mut latency = Histogram::new(3)?;
    for _ in 0..STARTS {
        let sent = clock::wall_nanos();
        let output = Command::new("date").arg("+%s%N").stdin(Stdio::null()).output()?;
        latency.record(since(sent, &output.stdout)?)?;
    }
    Ok(latency)
}

/// Microseconds from `sent` to what `date` printed.
fn since(sent: i128, printed: &[u8]) -> anyhow::Result<u64> {
    let text = String::from_utf8_lossy(printed);
    let stamp: i128 = text
        .trim()
        .parse()
        .with_context(|| format!("{text:?} is no time: GNU's `date` is needed"))?;
    u64::try_from((stamp - sent) / 1_000).context("the clock was set back meanwhile")
}

fn spawned_per_second(lasting: Duration) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let mut spawned = 0;
    while begin.elapsed() < lasting {
        let status = Command::new("/bin/true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "/bin/true ended with {status}");
        spawned += 1;
    }
    Ok(per_second(spawned, begin.elapsed()))
}

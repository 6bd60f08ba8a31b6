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
    embedded::{self, Setup},
    front::APP,
    group::Group,
    load::{self, per_second},
    report::{Report, Row},
    server::Server,
};

const SCENARIO: &str = "process";
/// Starts on an idle system, at most.
const STARTS: u32 = 100;
/// Between two of them: the last one's log is sealed and its folder removed meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn run(args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
    let lasting = args.duration;
    let raw = tokio::task::spawn_blocking(move || spawned_per_second(lasting)).await??;
    let mut server = embedded::start(&Setup::default()).await?;
    // What is done once only (files, statements) is not measured.
    server.enqueue("true", 20).await?;
    server.until_all_ended().await?;

    let count = args.jobs.map_or(STARTS, |jobs| jobs.min(STARTS));
    let starts = starts(&server, count).await?;
    let by_hand = tokio::task::spawn_blocking(move || starts_by_hand(count, plain)).await??;
    let p50 = |starts: &Histogram<u64>| millis(starts, 0.5);
    let mut note = format!(
        "p99 {:.1} ms; {count} starts of `date`, one after another",
        millis(&starts, 0.99)
    );
    if let Some(group) = Group::new() {
        let in_group = tokio::task::spawn_blocking(move || starts_by_hand(count, || group.date())).await??;
        note.push_str(&format!(
            "; by hand into a control group, as the executor does: {:.1} ms",
            p50(&in_group)
        ));
    }
    report.add(
        Row::new(SCENARIO, "enqueue → process reads its clock, p50", p50(&starts), "ms")
            .at_most(10.0)
            .raw(p50(&by_hand), "the same program spawned by hand")
            .note(note),
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
async fn starts(server: &Server, count: u32) -> anyhow::Result<Histogram<u64>> {
    let request = EnqueueRequest::new(APP, "stamp")?;
    let mut latency = Histogram::new(3)?;
    for _ in 0..count {
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

/// The same by hand, as far apart: how long a kernel takes depends on how long it was idle before.
fn starts_by_hand(count: u32, command: impl Fn() -> Command) -> anyhow::Result<Histogram<u64>> {
    let mut latency = Histogram::new(3)?;
    for _ in 0..count {
        let sent = clock::wall_nanos();
        let output = command().output()?;
        latency.record(since(sent, &output.stdout)?)?;
        std::thread::sleep(PAUSE);
    }
    Ok(latency)
}

fn plain() -> Command {
    let mut command = Command::new("date");
    command.arg("+%s%N").stdin(Stdio::null());
    command
}

fn millis(starts: &Histogram<u64>, quantile: f64) -> f64 {
    load::millis(Duration::from_micros(starts.value_at_quantile(quantile)))
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

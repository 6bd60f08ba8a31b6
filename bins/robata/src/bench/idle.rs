//! What a server costs that has nothing to do: started as a new user starts it, no settings but a free port.

use tokio::time::{Instant, sleep};

use super::{
    BenchArgs, proc,
    report::{Report, Row},
    server::{Server, Setup},
};

const SCENARIO: &str = "idle";
/// The share of CPU time is small: it is measured over so many durations.
const LONGER: u32 = 4;

pub(super) async fn run(args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
    let mut server = Server::start(&Setup {
        plain: true,
        ..Setup::default()
    })
    .await?;
    // What the start still has to do is not idleness.
    sleep(args.duration).await;
    let (begin, before) = (Instant::now(), proc::cpu_time(server.pid)?);
    sleep(args.duration * LONGER).await;
    let used = proc::cpu_time(server.pid)?.saturating_sub(before);
    let elapsed = begin.elapsed();
    let memory = proc::memory(server.pid)?;
    report.add(
        Row::new(SCENARIO, "memory", memory.rss_mib, "MiB")
            .at_most(40.0)
            .note(format!("resident; peak {:.0} MiB", memory.peak_mib)),
    );
    report.add(
        Row::new(
            SCENARIO,
            "CPU",
            used.as_secs_f64() / elapsed.as_secs_f64() * 100.0,
            "% of a core",
        )
        .at_most(1.0)
        .note(format!("over {:.0} s", elapsed.as_secs_f64())),
    );
    server.stop().await
}

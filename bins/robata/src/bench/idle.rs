//! What daemons cost that have nothing to do: started as a user starts them who has no work yet.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    BenchArgs, proc,
    report::{Report, Row},
    site::{Shape, Site},
};

const SCENARIO: &str = "idle";
/// The share of CPU time is small: it is measured over so many durations.
const LONGER: u32 = 4;

pub(super) async fn run(site: &dyn Site, args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
    let mut server = site.start(Shape::Plain).await?;
    // What the start still has to do is not idleness.
    sleep(args.duration).await;
    let used = || {
        let of = server.daemons.iter().map(|daemon| proc::cpu_time(daemon.pid));
        of.collect::<anyhow::Result<Vec<Duration>>>()
    };
    let (begin, before) = (Instant::now(), used()?);
    sleep(args.duration * LONGER).await;
    let (after, elapsed) = (used()?, begin.elapsed());
    for ((daemon, before), after) in server.daemons.iter().zip(before).zip(after) {
        let memory = proc::memory(daemon.pid)?;
        report.add(
            Row::new(SCENARIO, format!("{}: memory", daemon.name), memory.rss_mib, "MiB")
                .at_most(40.0)
                .note(format!("resident; peak {:.0} MiB", memory.peak_mib)),
        );
        let share = after.saturating_sub(before).as_secs_f64() / elapsed.as_secs_f64();
        report.add(
            Row::new(SCENARIO, format!("{}: CPU", daemon.name), share * 100.0, "% of a core")
                .at_most(1.0)
                .note(format!("over {:.0} s", elapsed.as_secs_f64())),
        );
    }
    server.stop().await
}

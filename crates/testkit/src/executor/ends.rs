//! Cases of how things end: each end is told as what it was.

use std::time::Duration;

use futures::{StreamExt, stream};
use robata_core::{
    definition::{Limit, Memory},
    finish::End,
};

use super::Stage;

/// Exit codes come through as they are.
pub async fn exit_codes_come_through(stage: Stage) {
    let codes = [0, 1, 2, 42, 77, 124, 126, 127, 128, 129, 200, 254, 255];
    let ends: Vec<_> = stream::iter(codes)
        .map(|code| {
            let stage = stage.clone();
            async move { (code, stage.run_to_end(stage.sh(&format!("exit {code}"))).await.1.end) }
        })
        .buffered(4)
        .collect()
        .await;
    for (code, end) in ends {
        let may = stage.harness().ends_by_code(code);
        assert!(may.contains(&end), "code {code}: {end:?}");
    }
}

/// An end by signal is told from an exit, as far as the engine can.
pub async fn an_end_by_signal_is_told(stage: Stage) {
    for (signal, name) in [(9, "KILL"), (15, "TERM"), (6, "ABRT")] {
        let (_, ending) = stage
            .run_to_end(stage.sh(&format!("kill -{name} $$; sleep 1000")))
            .await;
        let may = stage.harness().ends_by_signal(signal);
        assert!(may.contains(&ending.end), "{name}: {ending:?}");
    }
}

/// Codes that look like a kill are no lack of memory.
pub async fn codes_137_and_143_are_not_out_of_memory(stage: Stage) {
    for code in [137, 143] {
        let (_, ending) = stage.run_to_end(stage.sh(&format!("exit {code}"))).await;
        let mut may = stage.harness().ends_by_signal(code - 128);
        may.push(End::Exited(code));
        assert!(may.contains(&ending.end), "{ending:?}");
    }
}

/// Running over the memory limit is told apart, where the executor says so; in any case it ends badly.
pub async fn out_of_memory_is_told_apart(stage: Stage) {
    // A shell's own memory doubles until the limit stops it. The main process waits first, for an engine may begin to
    // watch a little after the start; and it outlives that one: where the cgroup goes at the same moment, the report may
    // be lost (https://github.com/containerd/containerd/issues/8180).
    let script = "sleep 1; sh -c 'x=0123456789abcdef; while :; do x=$x$x; done'; code=$?; sleep 1; exit $code";
    let mut spec = stage.sh(script);
    spec.resources.memory_limit = Limit::At(Memory { bytes: 32 << 20 });
    let (_, ending) = stage.run_to_end(spec).await;
    if stage.harness().tells_out_of_memory(&*stage.executor) {
        assert!(matches!(ending.end, End::OutOfMemory(_)), "{ending:?}");
    } else {
        assert!(
            !matches!(ending.end, End::Exited(0) | End::OutOfMemory(_)),
            "{ending:?}"
        );
    }
    let mut modest = stage.sh("exit 3");
    modest.resources.memory_limit = Limit::At(Memory { bytes: 128 << 20 });
    assert_eq!(stage.run_to_end(modest).await.1.end, End::Exited(3));
}

/// What crashes as it begins is told with its code and its words.
pub async fn a_crash_at_boot_is_told_with_its_words(stage: Stage) {
    let (handle, ending) = stage
        .run_to_end(stage.sh("echo 'DATABASE_URL is not set' >&2; exit 78"))
        .await;
    assert_eq!(ending.end, End::Exited(78));
    assert!(stage.printed(&handle).await.all().contains("DATABASE_URL is not set"));
}

/// Start and end times are the engine's, and in order.
pub async fn start_and_end_times_are_the_engines(stage: Stage) {
    let (_, ending) = stage.run_to_end(stage.sh("sleep 0.3")).await;
    let (started, finished) = (
        ending.started_at.expect("a start time"),
        ending.finished_at.expect("an end time"),
    );
    let took = finished.since(started);
    assert!(
        (Duration::from_millis(250)..Duration::from_secs(30)).contains(&took),
        "{took:?}"
    );
    let running = stage.run(stage.sh("exec sleep 1000")).await;
    stage.until_running(&running).await;
    let before = stage.observe(&running).await;
    assert_eq!(before, stage.observe(&running).await, "the start time does not move");
}

/// When the main process has ended, no descendant is left, in whatever session it is.
pub async fn the_end_of_the_main_process_ends_every_descendant(stage: Stage) {
    let script = "setsid sleep 1000 & (trap '' TERM HUP; setsid sh -c 'sleep 1001; sleep 1002') & sleep 1; exit 0";
    let handle = stage.run(stage.sh(script)).await;
    stage.until_processes(4).await;
    assert_eq!(stage.ending(&handle).await.end, End::Exited(0));
    assert_eq!(stage.processes(), Vec::<String>::new());
    let (_, ending) = stage.run_to_end(stage.sh("setsid sleep 1000 & exit 0")).await;
    assert_eq!(ending.end, End::Exited(0));
    assert_eq!(stage.processes(), Vec::<String>::new());
}

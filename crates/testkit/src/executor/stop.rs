//! Cases of `stop`: SIGTERM, the grace period, SIGKILL; and it returns when nothing is left.

use std::time::{Duration, Instant};

use robata_core::{
    executor::{Handle, ThingState},
    finish::End,
};

use super::Stage;

/// It MUST send SIGTERM, and lets the thing end by itself within the grace period.
pub async fn stop_lets_it_end_by_itself_within_the_grace_period(stage: Stage) {
    let script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done";
    let handle = stage.run(stage.sh(script)).await;
    stage
        .until("it is up", || async { stage.printed(&handle).await.text() == "up\n" })
        .await;
    let begun = Instant::now();
    stage
        .executor
        .stop(&handle, Duration::from_secs(60))
        .await
        .expect("stop");
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "it did not wait for the whole grace period"
    );
    assert_eq!(stage.processes(), Vec::<String>::new());
    let ThingState::Ended(ending) = stage.observe(&handle).await.state else {
        panic!("it has ended when stop returns")
    };
    assert_eq!(ending.end, End::Exited(3));
    assert_eq!(stage.printed(&handle).await.text(), "up\nbye\n");
}

/// It MUST send SIGKILL after the grace period.
pub async fn stop_kills_what_ignores_term(stage: Stage) {
    let handle = stage
        .run(stage.sh("trap '' TERM; echo up; while :; do sleep 0.05; done"))
        .await;
    stage
        .until("it is up", || async { stage.printed(&handle).await.text() == "up\n" })
        .await;
    let begun = Instant::now();
    stage
        .executor
        .stop(&handle, Duration::from_secs(1))
        .await
        .expect("stop");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(900),
        "it was not given its grace period: {took:?}"
    );
    assert_eq!(stage.processes(), Vec::<String>::new());
    let ThingState::Ended(ending) = stage.observe(&handle).await.state else {
        panic!("it has ended when stop returns")
    };
    assert!(stage.harness().ends_by_signal(9).contains(&ending.end), "{ending:?}");
}

/// `stop` MUST return only when no process of the thing is left, be it the main one or a descendant.
pub async fn stop_reaches_descendants_in_other_sessions(stage: Stage) {
    let script = "trap '' TERM; setsid sh -c \"trap '' TERM HUP; sleep 1000; sleep 1001\" & setsid sleep 1002 & \
                  while :; do sleep 0.05; done";
    let handle = stage.run(stage.sh(script)).await;
    stage.until_processes(4).await;
    stage
        .executor
        .stop(&handle, Duration::from_millis(300))
        .await
        .expect("stop");
    assert_eq!(stage.processes(), Vec::<String>::new());
    assert!(matches!(stage.observe(&handle).await.state, ThingState::Ended(_)));
}

/// No grace: SIGKILL at once.
pub async fn stop_with_no_grace_is_prompt(stage: Stage) {
    let handle = stage.run(stage.sh("trap '' TERM; while :; do sleep 0.05; done")).await;
    stage.until_processes(1).await;
    let begun = Instant::now();
    stage.executor.stop(&handle, Duration::ZERO).await.expect("stop");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(stage.processes(), Vec::<String>::new());
}

/// Of an ended or absent thing it MUST answer well.
pub async fn stop_of_an_ended_or_absent_thing_is_well(stage: Stage) {
    let (handle, ending) = stage.run_to_end(stage.sh("exit 9")).await;
    stage
        .executor
        .stop(&handle, Duration::from_secs(5))
        .await
        .expect("stop what has ended");
    assert_eq!(stage.observe(&handle).await.state, ThingState::Ended(ending));
    stage.executor.remove(&handle, false).await.expect("remove");
    for absent in [handle, Handle("00000000000000000000000000000000".to_owned())] {
        stage
            .executor
            .stop(&absent, Duration::from_secs(5))
            .await
            .expect("stop what is absent");
    }
}

/// Each of many callers is answered only when it is over.
pub async fn many_stops_at_once_are_all_confirmed(stage: Stage) {
    let handle = stage.run(stage.sh("trap '' TERM; while :; do sleep 0.05; done")).await;
    stage.until_processes(1).await;
    let other = stage.restarted().await;
    let calls = (0..6).map(|call| {
        let executor = if call % 2 == 0 { &stage.executor } else { &other };
        let handle = &handle;
        let stage = &stage;
        async move {
            executor.stop(handle, Duration::from_millis(500)).await.expect("stop");
            assert_eq!(stage.processes(), Vec::<String>::new());
        }
    });
    futures::future::join_all(calls).await;
}

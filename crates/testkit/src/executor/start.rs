//! Cases of `start`: what was never set going runs once, and outlives whoever started it.

use std::time::Duration;

use robata_core::{
    error::ErrorKind,
    executor::{Handle, Target, ThingState},
    finish::End,
};

use super::Stage;

/// Of an absent thing it MUST answer `NotFound`.
pub async fn start_of_an_absent_thing_is_not_found(stage: Stage) {
    let handle = stage.prepare(stage.sh("exit 0")).await;
    stage.executor.remove(&handle, false).await.expect("remove");
    for absent in [handle, Handle("0123456789abcdef0123456789abcdef".to_owned())] {
        let error = stage.executor.start(&absent).await.expect_err("it is absent");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    }
}

/// `start` MUST set going only what was never set going, however many ask at once.
pub async fn many_starts_at_once_run_it_once(stage: Stage) {
    let handle = stage.prepare(stage.sh("echo ran")).await;
    let other = stage.restarted().await;
    let calls = (0..8).map(|call| {
        if call % 2 == 0 {
            stage.executor.start(&handle)
        } else {
            other.start(&handle)
        }
    });
    for answer in futures::future::join_all(calls).await {
        answer.expect("start");
    }
    assert_eq!(stage.ending(&handle).await.end, End::Exited(0));
    assert_eq!(stage.printed(&handle).await.text(), "ran\n");
}

/// Started again after it has run it MUST change nothing and answer well.
pub async fn start_never_runs_again_what_has_ended(stage: Stage) {
    let (handle, ending) = stage.run_to_end(stage.sh("echo ran; exit 5")).await;
    stage.executor.start(&handle).await.expect("start again");
    stage
        .restarted()
        .await
        .start(&handle)
        .await
        .expect("start by a restarted worker");
    stage.run_to_end(stage.sh("exit 0")).await;
    assert_eq!(stage.observe(&handle).await.state, ThingState::Ended(ending));
    assert_eq!(stage.printed(&handle).await.text(), "ran\n");
}

/// Started again while it runs it MUST change nothing and answer well.
pub async fn start_again_while_it_runs_changes_nothing(stage: Stage) {
    let handle = stage.run(stage.sh("echo ran; exec sleep 1000")).await;
    stage
        .until("it is up", || async { stage.printed(&handle).await.text() == "ran\n" })
        .await;
    let before = stage.observe(&handle).await;
    stage.executor.start(&handle).await.expect("start again");
    assert_eq!(stage.observe(&handle).await, before);
    stage.executor.stop(&handle, Duration::ZERO).await.expect("stop");
    assert_eq!(stage.printed(&handle).await.text(), "ran\n");
}

/// A thing that was removed never runs: the fence between a worker that lost its lease and its successor.
pub async fn what_was_removed_is_never_started(stage: Stage) {
    let request = stage.request(stage.sh("echo ran; exec sleep 1000"));
    let handle = stage.executor.prepare(request.clone()).await.expect("prepare").handle;
    stage.restarted().await.remove(&handle, false).await.expect("remove");
    assert_eq!(
        stage.executor.start(&handle).await.expect_err("it is gone").kind(),
        ErrorKind::NotFound
    );
    let seen = stage
        .executor
        .observe(&[Target::Name(request.name)])
        .await
        .expect("observe");
    assert_eq!(seen[0].state, ThingState::Absent);
    assert_eq!(stage.processes(), Vec::<String>::new());
}

/// Start and remove at once: either it runs and the removal is refused, or it is gone and never runs.
pub async fn start_and_remove_at_once_agree(stage: Stage) {
    let other = stage.restarted().await;
    for round in 0..20 {
        let handle = stage.prepare(stage.sh("exec sleep 1000")).await;
        let (started, removed) = if round % 2 == 0 {
            tokio::join!(stage.executor.start(&handle), other.remove(&handle, false))
        } else {
            let (removed, started) = tokio::join!(other.remove(&handle, false), stage.executor.start(&handle));
            (started, removed)
        };
        match (started, removed) {
            (Ok(()), Err(error)) => {
                assert_eq!(error.kind(), ErrorKind::StillRuns, "{error:?}");
                stage.until_running(&handle).await;
                stage.executor.remove(&handle, true).await.expect("remove with force");
            }
            (Err(error), Ok(())) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}"),
            (started, removed) => panic!("start {started:?}, remove {removed:?}"),
        }
        assert_eq!(stage.observe(&handle).await.state, ThingState::Absent);
        assert_eq!(stage.processes(), Vec::<String>::new());
    }
}

/// A prepared thing outlives the worker that made it, and its successor sets it going.
pub async fn a_restarted_worker_starts_what_was_prepared(stage: Stage) {
    let first = stage.restarted().await;
    let request = stage.request(stage.sh("echo ran; exit 3"));
    let handle = first.prepare(request.clone()).await.expect("prepare").handle;
    drop(first);
    let second = stage.restarted().await;
    let seen = second.observe(&[Target::Name(request.name)]).await.expect("observe");
    assert_eq!(
        (seen[0].handle.as_ref(), &seen[0].state),
        (Some(&handle), &ThingState::Prepared)
    );
    second.start(&handle).await.expect("start");
    assert_eq!(stage.ending(&handle).await.end, End::Exited(3));
    assert_eq!(stage.printed(&handle).await.text(), "ran\n");
}

/// Things MUST outlive the executor.
pub async fn what_runs_outlives_its_executor(stage: Stage) {
    let first = stage.restarted().await;
    let handle = first
        .prepare(stage.request(stage.sh("trap 'echo told; exit 6' TERM; echo up; while :; do sleep 0.05; done")))
        .await
        .expect("prepare")
        .handle;
    first.start(&handle).await.expect("start");
    stage
        .until("it is up", || async { stage.printed(&handle).await.text() == "up\n" })
        .await;
    drop(first);
    let second = stage.restarted().await;
    let seen = second
        .observe(&[Target::Handle(handle.clone())])
        .await
        .expect("observe");
    assert!(matches!(seen[0].state, ThingState::Running { .. }), "{seen:?}");
    second.stop(&handle, Duration::from_secs(20)).await.expect("stop");
    assert_eq!(stage.ending_by(&*second, &handle).await.end, End::Exited(6));
    assert_eq!(stage.printed(&handle).await.text(), "up\ntold\n");
}

/// A worker that comes later finds the true end and the whole output of what ended while nobody looked.
pub async fn a_restarted_worker_finds_what_ended_meanwhile(stage: Stage) {
    let first = stage.restarted().await;
    let handle = first
        .prepare(stage.request(stage.sh("echo out; exit 42")))
        .await
        .expect("prepare")
        .handle;
    first.start(&handle).await.expect("start");
    drop(first);
    let ending = stage.ending(&handle).await;
    let late = stage.restarted().await;
    assert_eq!(stage.ending_by(&*late, &handle).await, ending);
    assert_eq!(ending.end, End::Exited(42));
    late.remove(&handle, false).await.expect("remove");
    assert_eq!(stage.observe(&handle).await.state, ThingState::Absent);
}

//! What an engine does only at its worst, scripted: removals that hang, fail or are under way, and a race with a start.

#[path = "support/scripted.rs"]
mod scripted;

use std::time::{Duration, Instant};

use robata_core::{
    ErrorKind, InstallationId,
    executor::{Executor, Handle, Target, ThingState},
    finish::End,
};
use scripted::{Answer, Scripted, container, ok, refused};
use serde_json::{Value, json};

const BUSY: &str = "container x: driver \"overlay2\" failed to remove root filesystem: device or resource busy";

fn ended(code: i64, status: &str) -> Value {
    json!({
        "Status": status, "ExitCode": code,
        "StartedAt": "2026-11-22T23:50:01Z", "FinishedAt": "2026-11-22T23:50:02Z",
    })
}

fn created() -> Value {
    json!({ "Status": "created", "StartedAt": "0001-01-01T00:00:00Z", "FinishedAt": "0001-01-01T00:00:00Z" })
}

/// An engine with one ended container, whose removal is answered by `delete`, told how often it was asked before.
fn removing(mut delete: impl FnMut(usize) -> Answer + Send + 'static) -> Scripted {
    let ours = InstallationId::new();
    let (mut asked, mut gone) = (0, false);
    Scripted::new(ours, move |request| match request {
        _ if request.starts_with("GET /containers/x/json") && gone => refused(404, "No such container: x"),
        _ if request.starts_with("GET /containers/x/json") => {
            container(ours, &ended(0, if asked > 0 { "dead" } else { "exited" }))
        }
        _ if request.starts_with("DELETE /containers/x") => {
            let answer = delete(asked);
            asked += 1;
            gone = matches!(answer, Answer::Now(204, _));
            answer
        }
        other => panic!("unexpected: {other}"),
    })
}

#[tokio::test]
async fn a_removal_that_is_under_way_already_is_asked_for_until_it_is_done() {
    let engine = removing(|asked| match asked {
        0..=2 => refused(409, "removal of container x is already in progress"),
        _ => Answer::Now(204, Vec::new()),
    });
    engine
        .executor()
        .remove(&Handle("x".into()), true)
        .await
        .expect("it is gone in the end");
}

#[tokio::test]
async fn a_dead_container_that_cannot_be_removed_is_unavailable_with_the_engines_words_and_goes_when_it_can() {
    let busy = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let engine = removing({
        let busy = std::sync::Arc::clone(&busy);
        move |_| match busy.load(std::sync::atomic::Ordering::Relaxed) {
            true => refused(500, BUSY),
            false => Answer::Now(204, Vec::new()),
        }
    });
    let executor = engine.executor();
    let begun = Instant::now();
    let error = executor
        .remove(&Handle("x".into()), true)
        .await
        .expect_err("it is busy");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.message().contains("device or resource busy"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    busy.store(false, std::sync::atomic::Ordering::Relaxed);
    executor.remove(&Handle("x".into()), true).await.expect("it is gone");
}

#[tokio::test]
async fn a_removal_that_hangs_is_unavailable_in_time_and_asked_for_again() {
    let engine = removing(|asked| match asked {
        0 => Answer::Never,
        _ => Answer::Now(204, Vec::new()),
    });
    let executor = engine.executor();
    let begun = Instant::now();
    let error = executor.remove(&Handle("x".into()), false).await.expect_err("it hangs");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.message().contains("did not answer"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    executor.remove(&Handle("x".into()), false).await.expect("it is gone");
}

/// Removes without force what had not run at our look, while the engine's history is this.
async fn removed_with_history(history: &[&str]) -> robata_core::Result<()> {
    let events: Vec<Value> = history
        .iter()
        .map(|action| {
            json!({
                "Type": "container", "Action": action, "timeNano": 1_795_391_400_000_000_000_i64,
                "Actor": { "ID": "x", "Attributes": if *action == "die" { json!({ "exitCode": "3" }) } else { json!({}) } },
            })
        })
        .collect();
    let ours = InstallationId::new();
    let engine = Scripted::new(ours, move |request| match request {
        _ if request.starts_with("GET /containers/x/json") => container(ours, &created()),
        _ if request.starts_with("DELETE /containers/x") => Answer::Now(204, Vec::new()),
        _ if request.starts_with("GET /events") => Answer::Now(200, events.clone()),
        other => panic!("unexpected: {other}"),
    });
    engine.executor().remove(&Handle("x".into()), false).await
}

#[tokio::test]
async fn what_ran_and_ended_between_our_look_and_its_removal_is_not_told_as_never_run() {
    removed_with_history(&["destroy"]).await.expect("it never ran");
    let error = removed_with_history(&["start", "die", "destroy"])
        .await
        .expect_err("it ran");
    assert_eq!(error.kind(), ErrorKind::StillRuns, "{error:?}");
    assert!(error.message().contains("exit code 3"), "{error}");
}

#[tokio::test]
async fn an_end_is_not_told_before_the_engine_says_when_it_was_started() {
    let ours = InstallationId::new();
    let mut asked = 0;
    let engine = Scripted::new(ours, move |request| match request {
        _ if request.starts_with("GET /containers/x/json") => container(ours, &ended(1, "exited")),
        _ if request.starts_with("GET /networks/bridge") => {
            asked += 1;
            match asked {
                1 => refused(500, "the engine is busy"),
                _ => ok(json!({ "Name": "bridge", "Created": "2026-11-22T23:50:03Z" })),
            }
        }
        _ if request.starts_with("GET /info") => ok(json!({ "LiveRestoreEnabled": false })),
        other => panic!("unexpected: {other}"),
    });
    let executor = engine.executor();
    let targets = [Target::Handle(Handle("x".into()))];
    let error = executor.observe(&targets).await.expect_err("it does not say");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let seen = executor.observe(&targets).await.expect("it says");
    let ThingState::Ended(ending) = &seen[0].state else {
        panic!("{seen:?}");
    };
    assert_eq!(
        ending.end,
        End::EngineFault,
        "it ended a second before the engine was up"
    );
}

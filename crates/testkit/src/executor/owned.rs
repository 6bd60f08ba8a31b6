//! Cases of `owned`, `remove`, labels and the realm: what is ours, and only that.

use std::time::Duration;

use robata_core::{
    error::ErrorKind,
    executor::{Handle, Target, ThingState, label},
};

use super::Stage;

/// `owned` MUST list what this installation made and nothing else.
pub async fn owned_lists_only_this_installations_things(stage: Stage) {
    let stranger = stage.stranger().await;
    let theirs = stranger
        .prepare(stage.strangers_request(stage.sh("exit 0")))
        .await
        .expect("prepare")
        .handle;
    let prepared = stage.prepare(stage.sh("exit 0")).await;
    let running = stage.run(stage.sh("exec sleep 1000")).await;
    let (ended, _) = stage.run_to_end(stage.sh("exit 0")).await;
    let mut expected = vec![prepared, running, ended];
    expected.sort();
    for executor in [std::sync::Arc::clone(&stage.executor), stage.restarted().await] {
        let mut listed: Vec<_> = executor
            .owned()
            .await
            .expect("owned")
            .into_iter()
            .map(|thing| thing.handle)
            .collect();
        listed.sort();
        assert_eq!(listed, expected);
    }
    let listed: Vec<_> = stranger
        .owned()
        .await
        .expect("owned")
        .into_iter()
        .map(|thing| thing.handle)
        .collect();
    assert_eq!(listed, [theirs]);
}

/// Labels come back from `owned` and `observe` as they were given.
pub async fn labels_come_back_as_they_were_given(stage: Stage) {
    let mut request = stage.request(stage.sh("exit 0"));
    request.labels.insert(
        label::ATTEMPT.to_owned(),
        "01890a5d-ac96-774b-bcce-b302099a8057/3".to_owned(),
    );
    request
        .labels
        .insert("shop.example/note".to_owned(), "žluťoučký = \"kůň\"".to_owned());
    let handle = stage.executor.prepare(request.clone()).await.expect("prepare").handle;
    let listed = stage.executor.owned().await.expect("owned");
    for (name, value) in &request.labels {
        assert_eq!(listed[0].labels.get(name), Some(value));
        assert_eq!(stage.observe(&handle).await.labels.get(name), Some(value));
    }
    assert!(
        listed[0].created_at.as_millis() > 1_500_000_000_000,
        "{:?}",
        listed[0].created_at
    );
}

/// `remove` without force MUST answer `StillRuns` for a thing that runs.
pub async fn remove_without_force_refuses_what_runs(stage: Stage) {
    let handle = stage.run(stage.sh("exec sleep 1000")).await;
    // At once, too, when it was told to go and is only about to run.
    let error = stage
        .executor
        .remove(&handle, false)
        .await
        .expect_err("it was set going");
    assert_eq!(error.kind(), ErrorKind::StillRuns, "{error:?}");
    stage.until_running(&handle).await;
    let error = stage.executor.remove(&handle, false).await.expect_err("it runs");
    assert_eq!(error.kind(), ErrorKind::StillRuns, "{error:?}");
    assert!(matches!(stage.observe(&handle).await.state, ThingState::Running { .. }));
    stage.until_processes(1).await;
}

/// With force it ends what runs, descendants too.
pub async fn remove_with_force_ends_what_runs(stage: Stage) {
    let handle = stage
        .run(stage.sh("trap '' TERM; setsid sleep 1000 & while :; do sleep 0.05; done"))
        .await;
    stage.until_processes(2).await;
    stage.executor.remove(&handle, true).await.expect("remove");
    assert_eq!(stage.processes(), Vec::<String>::new());
    assert_eq!(stage.observe(&handle).await.state, ThingState::Absent);
    assert!(stage.executor.owned().await.expect("owned").is_empty());
}

/// Without force it takes what never ran and what has ended.
pub async fn remove_takes_what_never_ran_and_what_has_ended(stage: Stage) {
    let prepared = stage.prepare(stage.sh("exit 0")).await;
    let (ended, _) = stage.run_to_end(stage.sh("echo some output; exit 1")).await;
    for handle in [prepared, ended] {
        stage.executor.remove(&handle, false).await.expect("remove");
        assert_eq!(stage.observe(&handle).await.state, ThingState::Absent);
    }
    assert!(stage.executor.owned().await.expect("owned").is_empty());
}

/// Of an absent thing it MUST answer well.
pub async fn remove_of_an_absent_thing_is_well(stage: Stage) {
    let handle = stage.prepare(stage.sh("exit 0")).await;
    for force in [false, true, false] {
        stage.executor.remove(&handle, force).await.expect("remove");
    }
    let never = Handle("00000000000000000000000000000000".to_owned());
    stage
        .executor
        .remove(&never, true)
        .await
        .expect("remove what never was");
}

/// Two installations on one engine do not reach each other's things by name, even by the same one.
pub async fn a_stranger_does_not_see_our_names(stage: Stage) {
    let request = stage.request(stage.sh("exec sleep 1000"));
    let handle = stage.executor.prepare(request.clone()).await.expect("prepare").handle;
    stage.executor.start(&handle).await.expect("start");
    stage.until_running(&handle).await;
    let stranger = stage.stranger().await;
    let seen = stranger
        .observe(&[Target::Name(request.name.clone())])
        .await
        .expect("observe");
    assert_eq!(seen[0].state, ThingState::Absent);
    // The stranger's cleaning takes nothing of ours.
    for thing in stranger.owned().await.expect("owned") {
        stranger.remove(&thing.handle, true).await.expect("remove");
    }
    assert!(matches!(stage.observe(&handle).await.state, ThingState::Running { .. }));
    stage.executor.stop(&handle, Duration::ZERO).await.expect("stop");
}

/// The realm's identity is the engine's: the same for every worker and installation, and it stays.
pub async fn the_realm_is_the_same_for_all(stage: Stage) {
    let realm = stage.executor.realm().await.expect("realm");
    assert!(!realm.0.is_empty());
    assert_eq!(stage.restarted().await.realm().await.expect("realm"), realm);
    assert_eq!(stage.executor.realm().await.expect("realm"), realm);
    assert_eq!(stage.stranger().await.realm().await.expect("realm"), realm);
}

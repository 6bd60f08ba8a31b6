//! An engine of the test's own, killed and restarted: what it ended is its fault, and what we need is found again.

#[path = "support/go.rs"]
mod go;
#[path = "support/own_engine.rs"]
mod own_engine;
mod support;

use std::{path::PathBuf, time::Duration};

use futures::StreamExt;
use own_engine::Engine;
use robata_core::{
    ErrorKind, InstallationId,
    executor::{Event, Executor, Handle, Position, ThingState},
    finish::End,
};
use robata_executor_docker::DockerExecutor;

async fn until_running(executor: &DockerExecutor, handle: &Handle) {
    while !matches!(support::observe(executor, handle).await, ThingState::Running { .. }) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Output that is there, and then the word that some may have been lost with the engine.
async fn torn(executor: &DockerExecutor, handle: &Handle, expected: &[u8]) {
    let mut pieces = support::pieces(executor, handle, Position::default()).await;
    let error = pieces.pop().expect("an end").expect_err("some may be missing");
    assert!(error.message().contains("started anew"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Internal);
    let data: Vec<u8> = pieces
        .into_iter()
        .flat_map(|piece| piece.expect("a piece").data)
        .collect();
    assert_eq!(String::from_utf8_lossy(&data), String::from_utf8_lossy(expected));
}

/// The next gap, after the engine was said to be unreachable.
async fn gap_after_unreachable(events: &mut (impl futures::Stream<Item = Event> + Unpin)) {
    let wait = async {
        let mut unreachable = false;
        while let Some(event) = events.next().await {
            unreachable |= matches!(event, Event::Unreachable(_));
            if unreachable && event == Event::Gap {
                return;
            }
        }
    };
    tokio::time::timeout(support::STATE, wait)
        .await
        .expect("the stream comes back");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_ends_when_it_restarts_is_its_own_fault() {
    let mut engine = Engine::new(&[]);
    engine.start().await;
    engine.load_image(&support::variable("ROBATA_TEST_IMAGE"));
    let config = engine.config(InstallationId::new());
    let executor = DockerExecutor::connect(config.clone()).unwrap();
    let realm = executor.realm().await.expect("realm");
    let mut events = executor.events();
    assert_eq!(events.next().await, Some(Event::Gap));

    // Ends that are the containers' own are told as such, before and after.
    let failed = support::start(&executor, support::sh("exit 3")).await;
    let killed = support::start(&executor, support::sh("kill -9 $$")).await;
    assert_eq!(support::ending(&executor, &failed).await.end, End::Exited(3));
    assert_eq!(support::ending(&executor, &killed).await.end, End::Signalled(9));

    // A crash: its next start ends what it finds.
    let plain = support::start(&executor, support::sh("echo up; exec sleep 1000")).await;
    let catcher = support::start(
        &executor,
        support::sh("trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done"),
    )
    .await;
    for handle in [&plain, &catcher] {
        until_running(&executor, handle).await;
    }
    let prepared = executor
        .prepare(support::request(support::sh("exit 0")))
        .await
        .expect("prepare")
        .handle;
    engine.kill().await;
    let error = executor
        .realm()
        .await
        .map(drop)
        .and(executor.owned().await.map(drop))
        .expect_err("it is down");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    engine.start().await;
    gap_after_unreachable(&mut events).await;
    for handle in [&plain, &catcher] {
        let ending = support::ending(&executor, handle).await;
        assert_eq!(ending.end, End::EngineFault, "{ending:?}");
        assert!(ending.detail.unwrap().contains("exit code"));
    }
    // Its log is kept, but for what dockerd may have held.
    torn(&executor, &plain, b"up\n").await;
    assert_eq!(support::ending(&executor, &failed).await.end, End::Exited(3));
    assert_eq!(support::ending(&executor, &killed).await.end, End::Signalled(9));
    assert_eq!(support::observe(&executor, &prepared).await, ThingState::Prepared);
    assert_eq!(executor.realm().await.expect("realm"), realm);

    // In good order: it ends them as it goes down.
    let plain = support::start(&executor, support::sh("exec sleep 1000")).await;
    until_running(&executor, &plain).await;
    engine.end().await;
    engine.start().await;
    gap_after_unreachable(&mut events).await;
    assert_eq!(support::ending(&executor, &plain).await.end, End::EngineFault);

    // The same seen by a worker that was not there at the time.
    let late = DockerExecutor::connect(config.clone()).unwrap();
    assert_eq!(support::ending(&late, &plain).await.end, End::EngineFault);
    // And what fails by itself now is its own again.
    let after = support::start(&late, support::sh("exit 4")).await;
    assert_eq!(support::ending(&late, &after).await.end, End::Exited(4));
    support::empty(&config).await;
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruned_realm_volume_is_made_again_with_the_id_that_the_containers_carry() {
    let mut engine = Engine::new(&[]);
    engine.start().await;
    engine.load_image(&support::variable("ROBATA_TEST_IMAGE"));
    let config = engine.config(InstallationId::new());
    let first = DockerExecutor::connect(config.clone()).unwrap();
    let realm = first.realm().await.expect("realm");
    first
        .prepare(support::request(support::sh("exit 0")))
        .await
        .expect("prepare");
    let client = support::client(&config);
    let volumes = client
        .list_volumes(None::<bollard::query_parameters::ListVolumesOptions>)
        .await
        .unwrap();
    let volumes = volumes.volumes.unwrap();
    assert_eq!(volumes.len(), 1);
    let options = None::<bollard::query_parameters::RemoveVolumeOptions>;
    client.remove_volume(&volumes[0].name, options).await.expect("prune");
    let second = DockerExecutor::connect(config.clone()).unwrap();
    assert_eq!(second.realm().await.expect("realm"), realm);
    support::empty(&config).await;
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_live_restore_a_killed_engine_ends_nothing_and_what_it_lost_of_the_output_is_told() {
    let mut engine = Engine::new(&["--live-restore"]);
    engine.start().await;
    engine.load_image(&support::variable("ROBATA_TEST_IMAGE"));
    let config = engine.config(InstallationId::new());
    let client = support::client(&config);
    let executor = DockerExecutor::connect(config.clone()).unwrap();
    let mut events = executor.events();
    assert_eq!(events.next().await, Some(Event::Gap));
    let script = "echo before; i=0; while [ ! -e /tmp/go ] && [ $i -lt 1200 ]; do i=$((i+1)); sleep 0.05; done; \
                  echo after; exit 7";
    let going = support::start(&executor, support::sh(script)).await;
    let meanwhile = support::start(&executor, support::sh("echo before; sleep 3; echo lost; exit 5")).await;
    // Its output is in the log before the engine goes.
    for handle in [&going, &meanwhile] {
        while first_piece(&executor, handle).await.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let before = support::observe(&executor, &going).await;
    let found = client.inspect_container(&meanwhile.0, None).await.unwrap();
    let main = PathBuf::from(format!("/proc/{}", found.state.unwrap().pid.unwrap()));

    engine.kill().await;
    let deadline = tokio::time::Instant::now() + support::STATE;
    while main.exists() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "it does not end without its engine"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    engine.start().await;
    gap_after_unreachable(&mut events).await;

    assert_eq!(support::observe(&executor, &going).await, before, "it goes on");
    assert_eq!(executor.owned().await.expect("owned").len(), 2);
    go::go(&config, &going.0).await;
    assert_eq!(support::ending(&executor, &going).await.end, End::Exited(7));
    assert_eq!(support::ending(&executor, &meanwhile).await.end, End::Exited(5));
    let after = support::start(&executor, support::sh("echo whole; exit 3")).await;
    assert_eq!(support::ending(&executor, &after).await.end, End::Exited(3));
    // A worker that was not there knows it, too.
    let late = DockerExecutor::connect(config.clone()).unwrap();
    for executor in [&executor, &late] {
        torn(executor, &going, b"before\nafter\n").await;
        torn(executor, &meanwhile, b"before\n").await;
        assert_eq!(support::printed(executor, &after).await.expect("all of it"), b"whole\n");
    }
    support::empty(&config).await;

    // Nothing runs while it restarts, and an end while it was away is the container's own all the same.
    let meanwhile = support::start(&executor, support::sh("sleep 2; exit 9")).await;
    let found = client.inspect_container(&meanwhile.0, None).await.unwrap();
    let main = PathBuf::from(format!("/proc/{}", found.state.unwrap().pid.unwrap()));
    engine.end().await;
    while main.exists() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    engine.start().await;
    gap_after_unreachable(&mut events).await;
    assert_eq!(support::ending(&executor, &meanwhile).await.end, End::Exited(9));
    support::empty(&config).await;
    engine.end().await;
}

/// What was printed up to now begins with this.
async fn first_piece(executor: &DockerExecutor, handle: &Handle) -> Option<robata_core::executor::Output> {
    let request = robata_core::executor::ReadOutput {
        handle: handle.clone(),
        from: Position::default(),
        follow: false,
    };
    let mut seen = executor.output(request).await.expect("output");
    seen.next().await.map(|piece| piece.expect("a piece"))
}

//! Nothing is left behind, and nothing that is not ours is touched.

mod support;

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use robata_core::{
    ErrorKind, InstallationId,
    executor::{Executor, Spec, Target, ThingState, label},
    finish::End,
};
use robata_executor_docker::{DockerConfig, DockerExecutor, PayloadWay};

fn executor(config: &DockerConfig) -> DockerExecutor {
    DockerExecutor::connect(config.clone()).expect("connect")
}

fn with_payload(script: &str) -> Spec {
    Spec {
        payload: Bytes::from_static(b"{}"),
        payload_file_env: Some("ROBATA_PAYLOAD_FILE".to_owned()),
        ..support::sh(script)
    }
}

/// The containers and volumes on the engine that carry this installation's label, seen from outside.
async fn left(config: &DockerConfig) -> (usize, usize) {
    let client = support::client(config);
    let ours = format!("{}={}", label::INSTALLATION, config.installation);
    let filters = Some([("label".to_owned(), vec![ours])].into());
    let list = bollard::query_parameters::ListContainersOptions {
        all: true,
        filters,
        ..Default::default()
    };
    let volumes = bollard::query_parameters::ListVolumesOptions {
        filters: list.filters.clone(),
    };
    let containers = client.list_containers(Some(list)).await.expect("a list").len();
    (
        containers,
        client
            .list_volumes(Some(volumes))
            .await
            .expect("a list")
            .volumes
            .unwrap_or_default()
            .len(),
    )
}

#[tokio::test]
async fn a_hundred_quick_containers_leave_nothing() {
    for way in [PayloadWay::Auto, PayloadWay::Volume] {
        let mut config = support::config(InstallationId::new());
        config.payload = way;
        let executor = executor(&config);
        let runs = (0..50).map(|number| {
            let executor = executor.clone();
            async move {
                let handle = support::start(
                    &executor,
                    with_payload(&format!("cat $ROBATA_PAYLOAD_FILE; exit {number}")),
                )
                .await;
                assert_eq!(support::ending(&executor, &handle).await.end, End::Exited(number));
                assert_eq!(support::printed(&executor, &handle).await.unwrap(), b"{}");
                executor.remove(&handle, false).await.expect("remove");
            }
        });
        stream::iter(runs).buffer_unordered(4).collect::<Vec<_>>().await;
        assert_eq!(left(&config).await, (0, 0));
        assert_eq!(support::payload_files(&config), Vec::<String>::new());
        assert!(executor.owned().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn two_installations_on_one_engine_never_touch_each_others_containers() {
    let (one, two) = (
        support::config(InstallationId::new()),
        support::config(InstallationId::new()),
    );
    let (first, second) = (executor(&one), executor(&two));
    let request = support::request(with_payload("exec sleep 1000"));
    let handle = first.prepare(request.clone()).await.expect("prepare").handle;
    first.start(&handle).await.expect("start");

    assert!(second.owned().await.unwrap().is_empty());
    let seen = second
        .observe(&[Target::Handle(handle.clone()), Target::Name(request.name.clone())])
        .await
        .unwrap();
    assert!(seen.iter().all(|seen| seen.state == ThingState::Absent));
    second.stop(&handle, Duration::ZERO).await.expect("nothing of its own");
    second.remove(&handle, true).await.expect("nothing of its own");
    assert_eq!(second.start(&handle).await.unwrap_err().kind(), ErrorKind::NotFound);
    // A name that the other one has is not free, and not to be freed.
    assert_eq!(second.prepare(request).await.unwrap_err().kind(), ErrorKind::Conflict);

    assert!(matches!(
        support::observe(&first, &handle).await,
        ThingState::Running { .. }
    ));
    assert_eq!(support::payload_files(&one).len(), 1);
    first.stop(&handle, Duration::ZERO).await.expect("stop");
    support::empty(&one).await;
    support::empty(&two).await;
}

#[tokio::test]
async fn a_removal_that_is_under_way_is_waited_for() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    let handle = support::start(&executor, support::sh("exit 0")).await;
    support::ending(&executor, &handle).await;
    let removals = (0..6).map(|_| executor.remove(&handle, false));
    for removed in futures::future::join_all(removals).await {
        removed.expect("remove");
    }
    assert_eq!(support::observe(&executor, &handle).await, ThingState::Absent);
}

#[tokio::test]
async fn a_payload_file_taken_away_by_a_dropped_prepare_does_not_break_the_next_one() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    let request = support::request(with_payload("cat $ROBATA_PAYLOAD_FILE"));
    for micros in (0..40_000).step_by(2_000) {
        drop(tokio::time::timeout(Duration::from_micros(micros), executor.prepare(request.clone())).await);
    }
    let handle = executor.prepare(request).await.expect("prepare").handle;
    executor.start(&handle).await.expect("start");
    assert_eq!(support::ending(&executor, &handle).await.end, End::Exited(0));
    assert_eq!(support::printed(&executor, &handle).await.unwrap(), b"{}");
    support::empty(&config).await;
    assert_eq!(left(&config).await, (0, 0));
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_unavailable_and_says_where_it_was_looked_for() {
    let mut config = support::config(InstallationId::new());
    config.host = Some("unix:///no/such/engine.sock".to_owned());
    let executor = executor(&config);
    let error = executor.realm().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        error.message(),
        "cannot reach Docker at unix:///no/such/engine.sock: is it running?"
    );
    let events: Vec<_> = executor.events().take(3).collect().await;
    assert_eq!(events[0], robata_core::executor::Event::Gap);
    assert!(matches!(&events[1], robata_core::executor::Event::Unreachable(words) if words.contains("is it running?")));
    config.host = Some("ftp://x".to_owned());
    assert_eq!(DockerExecutor::connect(config).unwrap_err().kind(), ErrorKind::Invalid);
}

//! What the tests against a real engine share.

use std::{collections::BTreeMap, time::Duration};

use robata_core::{
    InstallationId,
    executor::{Ending, Executor, Handle, Output, Position, Prepare, ReadOutput, Spec, Target, ThingState, label},
};
use robata_executor_docker::DockerConfig;

/// No state that a test waits for may take longer.
pub(crate) const STATE: Duration = Duration::from_secs(60);

/// A variable that a test cannot do without.
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: this test needs a Docker engine (see tests/run)"))
}

/// The settings for the engine under test, with a folder for payload files.
pub(crate) fn config(installation: InstallationId) -> DockerConfig {
    DockerConfig {
        host: Some(variable("ROBATA_TEST_DOCKER_HOST")),
        payload_folder: Some(std::env::temp_dir().join("robata-test-payloads")),
        ..DockerConfig::new(installation)
    }
}

/// What runs this argv in the test image, without a network, which is the quickest.
pub(crate) fn argv(argv: &[&str]) -> Spec {
    let mut spec = Spec {
        image: Some(variable("ROBATA_TEST_IMAGE")),
        command: Some(argv.iter().map(|&arg| arg.to_owned()).collect()),
        grace_period: Duration::from_secs(1),
        ..Spec::default()
    };
    spec.docker.network = Some("none".to_owned());
    spec
}

/// What runs this shell script.
pub(crate) fn sh(script: &str) -> Spec {
    argv(&["/bin/sh", "-c", script])
}

/// A request under a name and mark of its own.
pub(crate) fn request(spec: Spec) -> Prepare {
    Prepare {
        name: format!("robata-test-{}", uuid::Uuid::new_v4().simple()),
        labels: BTreeMap::from([(label::MARK.to_owned(), uuid::Uuid::new_v4().to_string())]),
        spec,
        progress: None,
    }
}

/// Looks at one thing.
pub(crate) async fn observe(executor: &dyn Executor, handle: &Handle) -> ThingState {
    let seen = executor
        .observe(&[Target::Handle(handle.clone())])
        .await
        .expect("observe");
    seen[0].state.clone()
}

/// Prepares and starts.
pub(crate) async fn start(executor: &dyn Executor, spec: Spec) -> Handle {
    let handle = executor.prepare(request(spec)).await.expect("prepare").handle;
    executor.start(&handle).await.expect("start");
    handle
}

/// Waits for the end.
pub(crate) async fn ending(executor: &dyn Executor, handle: &Handle) -> Ending {
    let wait = async {
        loop {
            match observe(executor, handle).await {
                ThingState::Ended(ending) => return ending,
                ThingState::Absent => panic!("{handle} is absent"),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(STATE, wait).await.expect("it ends in time")
}

/// All of its output, of both streams, to its end.
pub(crate) async fn printed(executor: &dyn Executor, handle: &Handle) -> robata_core::Result<Vec<u8>> {
    let pieces = pieces(executor, handle, Position::default()).await;
    pieces.into_iter().try_fold(Vec::new(), |mut all, piece| {
        all.extend_from_slice(&piece?.data);
        Ok(all)
    })
}

/// Every piece from a position on.
pub(crate) async fn pieces(
    executor: &dyn Executor,
    handle: &Handle,
    from: Position,
) -> Vec<robata_core::Result<Output>> {
    let request = ReadOutput {
        handle: handle.clone(),
        from,
        follow: true,
    };
    let stream = executor.output(request).await.expect("output");
    let all = futures::StreamExt::collect(stream);
    tokio::time::timeout(STATE, all).await.expect("the output ends in time")
}

/// Removes everything of an installation.
pub(crate) async fn empty(config: &DockerConfig) {
    let executor = robata_executor_docker::DockerExecutor::connect(config.clone()).expect("connect");
    for thing in executor.owned().await.expect("owned") {
        executor.remove(&thing.handle, true).await.expect("remove");
    }
    assert_eq!(payload_files(config), Vec::<String>::new(), "left behind");
}

/// The payload files of this installation on this machine.
pub(crate) fn payload_files(config: &DockerConfig) -> Vec<String> {
    let ours = config.installation.uuid().simple().to_string();
    let entries = config
        .payload_folder
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten());
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains(&ours)).collect()
}

/// A client of the engine under test, to look at it from outside.
pub(crate) fn client(config: &DockerConfig) -> bollard::Docker {
    let host = config.host.as_deref().expect("a host");
    let version = bollard::ClientVersion {
        major_version: 1,
        minor_version: 41,
    };
    bollard::Docker::connect_with_unix(host, 120, &version).expect("a client")
}

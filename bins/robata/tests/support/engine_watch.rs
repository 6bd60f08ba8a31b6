//! An observer of a Docker engine that knows nothing of the platform: it writes down what the engine's events say.
#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    thread,
};

use bollard::{
    Docker,
    query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder, ListVolumesOptionsBuilder},
};
use futures::StreamExt;
use robata_testkit::checker::Line;
use tokio::{runtime::Runtime, sync::oneshot};

/// Watches until it is dropped.
#[derive(Debug)]
pub(crate) struct EngineWatch {
    docker: Docker,
    lines: Arc<Mutex<Vec<Line>>>,
    runtime: Runtime,
}

/// The engine of the tests: its address, and the image that is there.
pub(crate) fn engine() -> (String, String) {
    let named = |name| {
        std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: `tests/run` sets it where an engine runs"))
    };
    (named("ROBATA_TEST_DOCKER_HOST"), named("ROBATA_TEST_IMAGE"))
}

impl EngineWatch {
    /// Begins to watch.
    pub(crate) fn start() -> Self {
        let (host, _) = engine();
        let docker =
            Docker::connect_with_socket(host.trim_start_matches("unix://"), 30, bollard::API_DEFAULT_VERSION).unwrap();
        let runtime = Runtime::new().unwrap();
        let docker = runtime.block_on(docker.negotiate_version()).unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (ready, is_ready) = oneshot::channel();
        runtime.spawn(watch(docker.clone(), Arc::clone(&lines), ready));
        runtime.block_on(is_ready).unwrap();
        Self { docker, lines, runtime }
    }

    /// What was seen so far.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap().clone()
    }

    /// The names of containers, and of volumes besides the realm's own, that carry this installation's label.
    pub(crate) fn left_of(&self, installation: &str) -> Vec<String> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("robata.installation={installation}")])]);
        self.runtime.block_on(async {
            let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
            let containers = self.docker.list_containers(Some(options)).await.unwrap();
            let volumes = ListVolumesOptionsBuilder::new().filters(&filters).build();
            let volumes = self
                .docker
                .list_volumes(Some(volumes))
                .await
                .unwrap()
                .volumes
                .unwrap_or_default();
            let volumes = volumes
                .into_iter()
                .map(|volume| volume.name)
                .filter(|name| !name.starts_with("robata-realm"));
            containers
                .into_iter()
                .filter_map(|container| container.id)
                .chain(volumes)
                .collect()
        })
    }
}

async fn watch(docker: Docker, lines: Arc<Mutex<Vec<Line>>>, ready: oneshot::Sender<()>) {
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("event".to_owned(), vec!["start".to_owned(), "die".to_owned()]),
    ]);
    // From a moment ago, so that nothing is missed between the request and its first answer.
    let info = docker.info().await.unwrap();
    let now: jiff::Timestamp = info.system_time.unwrap().parse().unwrap();
    let since = now.as_second().to_string();
    let options = EventsOptionsBuilder::new().since(&since).filters(&filters).build();
    let mut events = docker.events(Some(options));
    ready.send(()).unwrap();
    while let Some(event) = events.next().await {
        let event = event.unwrap();
        let attributes = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
        let Some(attempt) = attributes.get("robata.attempt").and_then(|text| text.parse().ok()) else {
            continue;
        };
        let at = event.time_nano.unwrap_or_default() / 1_000_000;
        let line = if event.action.as_deref() == Some("start") {
            Line::Begin(attempt, at)
        } else {
            Line::End(attempt, at)
        };
        lines.lock().unwrap().push(line);
    }
}

/// Runs two at once.
pub(crate) fn side_by_side<T: Send>(one: impl FnOnce() -> T + Send, other: impl FnOnce() -> T + Send) -> (T, T) {
    thread::scope(|scope| {
        let other = scope.spawn(other);
        (one(), other.join().unwrap())
    })
}

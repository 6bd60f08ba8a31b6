//! An engine of the test's own, killed and restarted: what it ended is its fault, and what we need is found again.

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures::StreamExt;
use robata_core::{
    InstallationId,
    executor::{Event, Executor, ThingState},
    finish::End,
};
use robata_executor_docker::{DockerConfig, DockerExecutor};

/// A dockerd that shares nothing with another one on this machine.
struct Engine {
    folder: tempfile::TempDir,
    bridge: String,
    daemon: Option<Child>,
}

impl Engine {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let number = std::process::id();
        let engine = Self {
            folder,
            bridge: format!("rbt{number}"),
            daemon: None,
        };
        let address = format!("10.215.{}.1/24", number % 250 + 1);
        run("ip", &["link", "add", "name", &engine.bridge, "type", "bridge"]);
        run("ip", &["addr", "add", &address, "dev", &engine.bridge]);
        run("ip", &["link", "set", &engine.bridge, "up"]);
        engine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    async fn start(&mut self) {
        let log = std::fs::File::create(self.path("log")).expect("a log");
        let (data, exec, pid) = (self.path("data"), self.path("run"), self.path("pid"));
        let mut command = Command::new("dockerd");
        command
            .arg("-H")
            .arg(self.host())
            .arg("--data-root")
            .arg(data)
            .arg("--exec-root")
            .arg(exec);
        command
            .arg("--pidfile")
            .arg(pid)
            .args(["--bridge", &self.bridge, "--iptables=false", "--ip-forward=false"]);
        command.args(["--containerd-namespace", &self.bridge]);
        command.args(["--containerd-plugins-namespace", &format!("{}-plugins", self.bridge)]);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        self.daemon = Some(command.spawn().expect("dockerd"));
        let deadline = tokio::time::Instant::now() + support::STATE;
        while !self.answers().await {
            let log = || std::fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(
                tokio::time::Instant::now() < deadline,
                "dockerd does not answer: {}",
                log()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn answers(&self) -> bool {
        let socket = self.path("docker.sock");
        let version = bollard::ClientVersion {
            major_version: 1,
            minor_version: 41,
        };
        match bollard::Docker::connect_with_unix(&socket.display().to_string(), 5, &version) {
            Ok(client) => client.ping().await.is_ok(),
            Err(_) => false,
        }
    }

    /// SIGKILL, as a crash.
    async fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        daemon.kill().expect("kill");
        daemon.wait().expect("wait");
        std::fs::remove_file(self.path("pid")).ok();
        // Its containerd dies with it. Where nobody reaps orphans it stays as a zombie, and the next start takes that
        // for a live one by the file with its id.
        let file = self.path("run/containerd/containerd.pid");
        let containerd = std::fs::read_to_string(&file).expect("its containerd's id");
        let status = format!("/proc/{}/stat", containerd.trim());
        let dead =
            || std::fs::read_to_string(&status).is_ok_and(|stat| stat.contains(") Z ")) || !Path::new(&status).exists();
        let deadline = tokio::time::Instant::now() + support::STATE;
        while !dead() {
            assert!(tokio::time::Instant::now() < deadline, "containerd lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::fs::remove_file(file).expect("remove");
    }

    /// SIGTERM, as an upgrade.
    async fn end(&mut self) {
        let Some(mut daemon) = self.daemon.take() else {
            return;
        };
        run("kill", &[&daemon.id().to_string()]);
        tokio::task::spawn_blocking(move || daemon.wait())
            .await
            .expect("a task")
            .expect("wait");
    }

    /// An image of one static program, without a registry.
    fn load_image(&self, image: &str) {
        let from = support::variable("ROBATA_TEST_DOCKER_HOST");
        let pipe = format!("docker -H {from} save {image} | docker -H {} load", self.host());
        run("sh", &["-c", &pipe]);
    }

    fn config(&self, installation: InstallationId) -> DockerConfig {
        DockerConfig {
            host: Some(self.host()),
            ..support::config(installation)
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            Command::new("kill").arg(daemon.id().to_string()).status().ok();
            daemon.wait().ok();
        }
        end_left(self.folder.path());
        Command::new("ip").args(["link", "delete", &self.bridge]).status().ok();
    }
}

/// What is left of an engine that was killed, known by its folder.
fn end_left(folder: &Path) {
    if let Ok(pid) = std::fs::read_to_string(folder.join("run/containerd/containerd.pid")) {
        Command::new("kill").arg(pid.trim()).stderr(Stdio::null()).status().ok();
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|path| Path::new(path).starts_with(folder));
    for path in ours.collect::<Vec<_>>().into_iter().rev() {
        Command::new("umount").args(["-l", path]).status().ok();
    }
}

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        done.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

async fn until_running(executor: &DockerExecutor, handle: &robata_core::executor::Handle) {
    while !matches!(support::observe(executor, handle).await, ThingState::Running { .. }) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
    let mut engine = Engine::new();
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
    assert_eq!(error.kind(), robata_core::ErrorKind::Unavailable, "{error:?}");
    engine.start().await;
    gap_after_unreachable(&mut events).await;
    for handle in [&plain, &catcher] {
        let ending = support::ending(&executor, handle).await;
        assert_eq!(ending.end, End::EngineFault, "{ending:?}");
        assert!(ending.detail.unwrap().contains("exit code"));
    }
    assert_eq!(
        support::printed(&executor, &plain).await.expect("its log is kept"),
        b"up\n"
    );
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
    let mut engine = Engine::new();
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

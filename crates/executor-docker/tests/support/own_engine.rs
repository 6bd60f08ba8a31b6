//! An engine of a test's own, which it can kill, restart and starve.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use robata_core::InstallationId;
use robata_executor_docker::DockerConfig;

use super::support;

/// A dockerd that shares nothing with another one on this machine.
pub(crate) struct Engine {
    pub(crate) folder: tempfile::TempDir,
    bridge: String,
    args: &'static [&'static str],
    daemon: Option<Child>,
}

impl Engine {
    pub(crate) fn new(args: &'static [&'static str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        static ENGINES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let (process, number) = (
            std::process::id(),
            ENGINES.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        );
        let engine = Self {
            folder,
            bridge: format!("rbt{process}-{number}"),
            args,
            daemon: None,
        };
        let address = format!("10.{}.{}.1/24", 215 + number % 40, process % 250 + 1);
        run("ip", &["link", "add", "name", &engine.bridge, "type", "bridge"]);
        run("ip", &["addr", "add", &address, "dev", &engine.bridge]);
        run("ip", &["link", "set", &engine.bridge, "up"]);
        engine
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    pub(crate) async fn start(&mut self) {
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
            .args(self.args)
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
    pub(crate) async fn kill(&mut self) {
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
    pub(crate) async fn end(&mut self) {
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
    pub(crate) fn load_image(&self, image: &str) {
        let from = support::variable("ROBATA_TEST_DOCKER_HOST");
        let pipe = format!("docker -H {from} save {image} | docker -H {} load", self.host());
        run("sh", &["-c", &pipe]);
    }

    pub(crate) fn config(&self, installation: InstallationId) -> DockerConfig {
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

pub(crate) fn run(program: &str, args: &[&str]) {
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

//! A PostgreSQL server of the test's own, to be killed. As root it runs as the user `postgres`, for it refuses to run as root.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, chown, geteuid},
};
use tempfile::TempDir;

use crate::support::connect;

/// A server, ended when it is dropped.
pub(crate) struct Server {
    folder: TempDir,
    bin: PathBuf,
    port: u16,
    child: Option<Child>,
}

/// Asks again and again until `probe` has an answer or `within` has passed; `probe` may keep something between.
pub(crate) async fn wait<T>(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = tokio::time::Instant::now() + within;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    loop {
        ticks.tick().await;
        if let Some(answer) = probe().await? {
            return Ok(answer);
        }
        ensure!(
            tokio::time::Instant::now() < deadline,
            "waited {within:?} in vain: {what}"
        );
    }
}

/// The folder of the server's programs.
fn programs() -> Result<PathBuf> {
    let said = std::env::var_os("ROBATA_TEST_POSTGRES_BIN").map(PathBuf::from);
    let mut found: Vec<PathBuf> = said.into_iter().collect();
    if found.is_empty()
        && let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql")
    {
        found.extend(versions.flatten().map(|version| version.path().join("bin")));
        found.sort();
    }
    if found.is_empty()
        && let Ok(told) = Command::new("pg_config").arg("--bindir").output()
    {
        found.push(PathBuf::from(String::from_utf8_lossy(&told.stdout).trim()));
    }
    found.into_iter().rfind(|bin| bin.join("initdb").exists()).context(
        "this test starts a PostgreSQL server of its own and finds no initdb: install the server, or name its programs' folder \
         in ROBATA_TEST_POSTGRES_BIN",
    )
}

fn command(bin: &Path, program: &str) -> Result<Command> {
    let mut command = Command::new(bin.join(program));
    command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir("/");
    if geteuid().is_root() {
        let user = User::from_name("postgres")?.context("there is no user postgres")?;
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    Ok(command)
}

impl Server {
    pub(crate) async fn start() -> Result<Self> {
        let bin = programs()?;
        let folder = tempfile::tempdir()?;
        if geteuid().is_root() {
            let user = User::from_name("postgres")?.context("there is no user postgres")?;
            chown(folder.path(), Some(user.uid), Some(user.gid))?;
        }
        let made = command(&bin, "initdb")?
            .arg("-D")
            .arg(folder.path().join("data"))
            .args(["-U", "robata", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
            .output()?;
        ensure!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = Self {
            folder,
            bin,
            port,
            child: None,
        };
        server.again().await?;
        Ok(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://robata@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts it again; tried anew while what a kill left behind is still going away.
    pub(crate) async fn again(&mut self) -> Result<()> {
        let url = self.url();
        wait("the server starts", Duration::from_secs(60), async || {
            let gone = match &mut self.child {
                Some(child) => child.try_wait()?.is_some(),
                None => true,
            };
            if gone {
                let child = command(&self.bin, "postgres")?
                    .arg("-D")
                    .arg(self.folder.path().join("data"))
                    .args(["-p", &self.port.to_string()])
                    .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
                    .args(["-c", "max_connections=60", "-c", "shared_buffers=16MB"])
                    .stderr(Stdio::null())
                    .spawn()?;
                self.child = Some(child);
            }
            Ok(connect(&url).await.ok().map(drop))
        })
        .await
    }

    /// Ends it at once: SIGKILL for the first process alone, SIGQUIT (PostgreSQL's immediate shutdown) for all of them.
    pub(crate) async fn end(&mut self, signal: Signal) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        wait("the server ends", Duration::from_secs(30), async || {
            Ok(child.try_wait()?.map(drop))
        })
        .await?;
        self.child = None;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            if let Ok(pid) = i32::try_from(child.id()) {
                // Immediate shutdown; it may be gone already.
                let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
            }
            let _ = child.wait();
        }
    }
}

//! PostgreSQL of the run's own, which it kills and starts again; and what starting any server takes.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, geteuid},
};
use tokio::time::{Instant, sleep};

/// A port that is free now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Ends a child by a signal, and waits for it.
pub(crate) fn end(child: &mut Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(child.id().cast_signed());
    kill(pid, signal).context("kill")?;
    child.wait()?;
    Ok(())
}

/// Waits until a check succeeds.
pub(crate) async fn until<F: Future<Output = Result<()>>>(
    what: &str,
    within: Duration,
    mut check: impl FnMut() -> F,
) -> Result<()> {
    let deadline = Instant::now() + within;
    loop {
        match check().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.context(format!("{what} in {within:?}"))),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

pub(crate) fn log_to(path: &Path) -> Result<Stdio> {
    Ok(fs::OpenOptions::new().create(true).append(true).open(path)?.into())
}

/// The program of that name: in PATH, or where Debian has PostgreSQL's.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = debian.map(|version| version.path().join("bin")).collect();
    folders.sort();
    folders.extend(std::env::split_paths(&path));
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("there is no {name} (tests/run --install installs it)"))
}

/// PostgreSQL.
#[derive(Debug)]
pub(crate) struct Postgres {
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Postgres {
    pub(crate) async fn start(work: &Path) -> Result<Self> {
        let folder = work.join("postgres");
        fs::create_dir(&folder)?;
        // PostgreSQL does not run as root.
        if geteuid().is_root() {
            let user = Self::user()?.context("root needs Debian's user postgres to run PostgreSQL")?;
            chown(&folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        let made = Self::command("initdb")?
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=robata",
                "--encoding=UTF8",
                "--locale=C",
                "-D",
            ])
            .arg(&folder)
            .stdout(Stdio::null())
            .stderr(log_to(&work.join("initdb.log"))?)
            .status()?;
        ensure!(
            made.success(),
            "initdb failed: see {}",
            work.join("initdb.log").display()
        );
        let mut server = Self {
            folder,
            port: free_port()?,
            child: None,
        };
        server.resume().await?;
        Ok(server)
    }

    fn user() -> Result<Option<User>> {
        Ok(User::from_name("postgres")?)
    }

    fn command(name: &str) -> Result<Command> {
        let mut command = Command::new(program(name)?);
        if geteuid().is_root()
            && let Some(user) = Self::user()?
        {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command.current_dir("/");
        Ok(command)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The address by way of a port.
    pub(crate) fn url(port: u16) -> String {
        format!("postgres://robata@127.0.0.1:{port}/postgres")
    }

    /// Ends it as a crash does.
    pub(crate) fn crash(&mut self) -> Result<()> {
        match &mut self.child {
            Some(child) => end(child, Signal::SIGQUIT)?,
            None => bail!("it does not run"),
        }
        self.child = None;
        Ok(())
    }

    pub(crate) async fn resume(&mut self) -> Result<()> {
        let child = Self::command("postgres")?
            .arg("-D")
            .arg(&self.folder)
            .args(["-p", &self.port.to_string(), "-h", "127.0.0.1"])
            .args(["-c", "unix_socket_directories=", "-c", "max_connections=120"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_to(&self.folder.with_extension("log"))?)
            .process_group(0)
            .spawn()
            .context("cannot start PostgreSQL")?;
        self.child = Some(child);
        let port = self.port;
        until("PostgreSQL answers", Duration::from_secs(60), || async move {
            let ready = Self::command("pg_isready")?
                .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
                .status()?;
            ensure!(ready.success(), "it is not ready");
            Ok(())
        })
        .await
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // What has ended already is fine, too.
        self.child.as_mut().map(|child| end(child, Signal::SIGQUIT).ok());
    }
}

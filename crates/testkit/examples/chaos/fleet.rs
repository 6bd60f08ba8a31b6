//! The daemons: two masters and three workers, each with its own way to the database and to the broker.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    broker::Broker,
    engine::Engine,
    proxy::{Cut, Mode, Proxy, on_socket},
    servers::{Postgres, end, free_port, until},
};

/// Attempts of one worker at once.
const SLOTS: usize = 10;
/// The same in containers, and how many start at once: one engine serves all workers, and starts some five a second.
const CONTAINERS: usize = 4;
const STARTS: usize = 2;

/// One daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) name: String,
    pub(crate) is_master: bool,
    pub(crate) port: u16,
    pub(crate) store: Proxy,
    pub(crate) broker: Proxy,
    /// A worker's way to the Docker engine, where there is one.
    pub(crate) engine: Option<Cut>,
    binary: PathBuf,
    settings: PathBuf,
    /// Where the library that gives it another clock reads by how much.
    clock: Option<Clock>,
    child: Mutex<Option<Child>>,
}

#[derive(Clone, Debug)]
struct Clock {
    library: PathBuf,
    file: PathBuf,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) logs: PathBuf,
    pub(crate) state: PathBuf,
}

impl Fleet {
    pub(crate) async fn start(
        work: &Path,
        binaries: &Path,
        (postgres, server): (&Postgres, &Broker),
        engine: Option<&Engine>,
    ) -> Result<Self> {
        let logs = work.join("logs");
        let state = work.join("processes");
        for folder in [&logs, &state] {
            fs::create_dir_all(folder)?;
        }
        let mut fleet = Self {
            daemons: Vec::new(),
            logs,
            state,
        };
        for name in ["master-1", "master-2", "worker-1", "worker-2", "worker-3"] {
            let daemon = Daemon::new(name, work, binaries, (postgres, server), engine, &fleet).await?;
            fleet.daemons.push(daemon);
        }
        for daemon in &fleet.daemons {
            daemon.start()?;
            // The first one makes the tables, the others find them.
            daemon.until_alive().await?;
        }
        Ok(fleet)
    }

    pub(crate) fn masters(&self) -> impl Iterator<Item = &Daemon> {
        self.daemons.iter().filter(|daemon| daemon.is_master)
    }

    pub(crate) fn workers(&self) -> impl Iterator<Item = &Daemon> {
        self.daemons.iter().filter(|daemon| !daemon.is_master)
    }

    /// Whether there are jobs in containers.
    pub(crate) fn has_engine(&self) -> bool {
        self.daemons.iter().any(|daemon| daemon.engine.is_some())
    }

    /// Starts and connects all again.
    pub(crate) async fn heal(&self) -> Result<()> {
        for daemon in &self.daemons {
            let ways = [&daemon.store.cut, &daemon.broker.cut]
                .into_iter()
                .chain(&daemon.engine);
            ways.for_each(|way| way.set(Mode::Pass));
            daemon.shift_clock(0)?;
            daemon.signal(Signal::SIGCONT).ok();
            if !daemon.runs()? {
                daemon.start()?;
            }
            daemon.until_alive().await?;
        }
        Ok(())
    }

    /// Ends every daemon; their jobs have ended before.
    pub(crate) fn end(&self) {
        for daemon in &self.daemons {
            // One that runs no more has ended, too.
            daemon.kill().ok();
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Also where the run itself failed.
        self.end();
    }
}

impl Daemon {
    async fn new(
        name: &str,
        work: &Path,
        binaries: &Path,
        (postgres, server): (&Postgres, &Broker),
        engine: Option<&Engine>,
        fleet: &Fleet,
    ) -> Result<Self> {
        let is_master = name.starts_with("master");
        let binary = binaries.join(if is_master { "robata-master" } else { "robata-worker" });
        ensure!(
            binary.is_file(),
            "{} is not there: cargo build --bins --features full, or --binaries FOLDER",
            binary.display()
        );
        let store = Proxy::start(postgres.address()).await?;
        let broker = Proxy::start(server.address()).await?;
        let port = free_port()?;
        let library = Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1");
        let clock = (name == "master-2" && library.is_file()).then(|| Clock {
            library: library.to_owned(),
            file: work.join("clock"),
        });
        // Masters know the executor's name, and have no way to it.
        let socket = work.join(format!("{name}.engine")).join("docker.sock");
        let way = match engine.filter(|_| !is_master) {
            Some(engine) => Some(on_socket(&socket, engine.server.clone())?),
            None => None,
        };
        let containers = engine.map_or_else(String::new, |_| {
            let host = format!("unix://{}", socket.display());
            format!("[executors.docker.docker]\nhost = {host:?}\nslots = {CONTAINERS}\nparallel_starts = {STARTS}\n")
        });
        let settings = work.join(format!("{name}.toml"));
        let role = if is_master { "server" } else { "worker" };
        fs::write(
            &settings,
            format!(
                r#"
[data]
folder = {data:?}
[{role}]
listen = "127.0.0.1:{port}"
[store.postgres]
url = {store:?}
{queue}[logs.folder]
path = {logs:?}
[executors.process.process]
folder = {state:?}
slots = {SLOTS}
{containers}"#,
                data = work.join(name),
                store = Postgres::url(store.port),
                queue = server.settings(broker.port),
                logs = fleet.logs,
                state = fleet.state,
            ),
        )?;
        let daemon = Self {
            name: name.to_owned(),
            is_master,
            port,
            store,
            broker,
            engine: way,
            binary,
            settings,
            clock,
            child: Mutex::new(None),
        };
        daemon.shift_clock(0)?;
        Ok(daemon)
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn start(&self) -> Result<()> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.settings.with_extension("log"))?;
        let mut command = Command::new(&self.binary);
        command
            .arg("--config")
            .arg(&self.settings)
            .env(
                "RUST_LOG",
                std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        if let Some(clock) = &self.clock {
            command
                .env("LD_PRELOAD", &clock.library)
                .env("FAKETIME_TIMESTAMP_FILE", &clock.file)
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                .env("FAKETIME_CACHE_DURATION", "1");
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        *self.child() = Some(child);
        Ok(())
    }

    pub(crate) async fn until_alive(&self) -> Result<()> {
        self.until_alive_within(Duration::from_secs(60)).await
    }

    pub(crate) async fn until_alive_within(&self, within: Duration) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/healthz", self.port);
        until(&format!("{} is alive", self.name), within, || async {
            if let Some(child) = &mut *self.child()
                && let Some(status) = child.try_wait()?
            {
                bail!(
                    "{} ended with {status}: see {}",
                    self.name,
                    self.settings.with_extension("log").display()
                );
            }
            let answer = robata_testkit::http()
                .build()?
                .get(&url)
                .timeout(Duration::from_secs(2))
                .send()
                .await?;
            ensure!(answer.status().is_success(), "{}", answer.status());
            Ok(())
        })
        .await
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    fn runs(&self) -> Result<bool> {
        match &mut *self.child() {
            Some(child) => Ok(child.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    /// Whether it ended by itself, which a daemon must not.
    pub(crate) fn ended_by_itself(&self) -> Result<Option<String>> {
        match &mut *self.child() {
            Some(child) => Ok(child
                .try_wait()?
                .map(|status| format!("{} ended by itself: {status}", self.name))),
            None => Ok(None),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        match &*self.child() {
            Some(child) => Ok(kill(Pid::from_raw(child.id().cast_signed()), signal)?),
            None => bail!("{} does not run", self.name),
        }
    }

    /// Kill -9.
    pub(crate) fn kill(&self) -> Result<()> {
        let child = self.child().take();
        match child {
            Some(mut child) => end(&mut child, Signal::SIGKILL),
            None => bail!("{} does not run", self.name),
        }
    }

    /// Whether its clock can be shifted here.
    pub(crate) fn has_own_clock(&self) -> bool {
        self.clock.is_some()
    }

    /// Sets its wall clock off by so many seconds.
    pub(crate) fn shift_clock(&self, seconds: i64) -> Result<()> {
        if let Some(clock) = &self.clock {
            fs::write(&clock.file, format!("{seconds:+}\n"))?;
        }
        Ok(())
    }
}

//! One daemon: started, signalled, and what it says in its log.

use std::{
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

use super::eventually;

/// A master or a worker.
pub(crate) struct Daemon {
    name: &'static str,
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    /// Ends with the last line of its log.
    listener: JoinHandle<()>,
}

/// The program of this name, with nothing of this environment but PATH.
pub(crate) fn program(name: &str) -> Command {
    let worker = PathBuf::from(env!("CARGO_BIN_EXE_robata-worker"));
    // Both are built into one folder.
    let path = worker.with_file_name(name);
    assert!(path.is_file(), "{} is not built: cargo build -p {name}", path.display());
    program_at(path)
}

/// The program at this place, with nothing of this environment but PATH.
pub(crate) fn program_at(path: PathBuf) -> Command {
    let mut command = Command::new(path);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("ROBATA_TELEMETRY__LOG", "json")
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

impl Daemon {
    pub(crate) fn start(name: &'static str, mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let heard = Arc::clone(&said);
        let listener = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                heard.lock().unwrap().push(line);
            }
        });
        Self {
            name,
            child,
            said,
            listener,
        }
    }

    /// What it said so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    /// The first line of its log with this event.
    pub(crate) fn event(&self, event: &str) -> Option<Value> {
        let said = self.said.lock().unwrap();
        let mut lines = said.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["event"] == event)
    }

    /// Waits for a line of its log with this event.
    #[track_caller]
    pub(crate) fn until(&self, event: &str) -> impl Future<Output = Value> {
        let what = format!("{} says {event}", self.name);
        eventually(what, move || {
            let found = self.event(event);
            async move { found }
        })
    }

    /// Where it listens.
    pub(crate) async fn url(&self) -> String {
        self.until("listening").await["url"].as_str().unwrap().to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end, and for all that it said: its last lines may be heard after it is gone.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let end = async {
            let status = self.child.wait().await.unwrap();
            (&mut self.listener).await.unwrap();
            status
        };
        match tokio::time::timeout(super::DEADLINE, end).await {
            Ok(status) => status,
            Err(_) => panic!(
                "{} does not end, or others hold its standard error: {}",
                self.name,
                self.said()
            ),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} said:\n{}", self.name, self.said());
        }
    }
}

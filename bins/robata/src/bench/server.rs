//! What is under test: some daemons with a folder of their own, and where they are spoken to. One shape for everything in
//! one process and for masters apart, so that a scenario does not ask which it is.

use std::{ops::Deref, path::Path};

use anyhow::Context as _;
use robata_settings::Settings;
use tempfile::TempDir;

use super::{daemon::Daemon, front::Front, gate::Gate};

/// Running servers. Dropped, they are killed, and their folder goes.
#[derive(Debug)]
pub(super) struct Server {
    /// The API's listeners, the first of them this one's own.
    pub(super) fronts: Vec<Front>,
    /// In the order in which they were started: first the one that `fronts` begins with.
    pub(super) daemons: Vec<Daemon>,
    /// By which its store can be opened: beside it, or once it has stopped.
    pub(super) settings: Settings,
    /// Where its jobs run.
    pub(super) executor: &'static str,
    /// What its waiting jobs wait for; opened when this goes.
    pub(super) gate: Option<Gate>,
    pub(super) folder: TempDir,
}

impl Deref for Server {
    type Target = Front;

    fn deref(&self) -> &Front {
        &self.fronts[0]
    }
}

impl Server {
    /// The process whose memory and CPU are told.
    pub(super) fn pid(&self) -> u32 {
        self.daemons[0].pid
    }

    /// A folder for files of the bench, on the same disk.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds what the daemons said to an error.
    pub(super) fn told<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        let said = || {
            let said = self.daemons.iter().map(Daemon::errors);
            said.filter(|said| !said.is_empty()).collect::<Vec<_>>().join("; ")
        };
        result.with_context(|| format!("the daemons said last: {}", said()))
    }

    /// Ends all in good order, the latest first, and waits for them. The data stays.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        while let Some(mut daemon) = self.daemons.pop() {
            daemon.stop().await?;
        }
        if let Some(gate) = &self.gate {
            gate.open();
        }
        Ok(())
    }
}

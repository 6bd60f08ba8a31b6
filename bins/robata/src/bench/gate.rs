//! A gate for jobs: processes that take up slots without using the CPU, until the gate is opened.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::{fcntl::OFlag, sys::stat::Mode};

/// A named pipe. `cat` of it waits in `open` until somebody opens the other end, and ends when that is closed.
#[derive(Debug)]
pub(super) struct Gate {
    path: PathBuf,
}

impl Gate {
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("gate");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU)?;
        Ok(Self { path })
    }

    /// What waits before the gate, as argv; it gives up by itself should nobody be left to open the gate.
    pub(super) fn command(&self) -> [String; 4] {
        let path = self.path.display().to_string();
        ["timeout".to_owned(), "600".to_owned(), "cat".to_owned(), path]
    }

    /// Lets go whoever waits. Where nobody does there is nothing to do (opening the pipe fails then).
    pub(super) fn open(&self) {
        let opened = OpenOptions::new()
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&self.path);
        drop(opened);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_waits_before_the_gate_ends_when_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let gate = Gate::new(folder.path()).unwrap();
        let [program, args @ ..] = gate.command();
        let mut child = Command::new(program).args(args).stdout(Stdio::null()).spawn().unwrap();
        // It may not have come to the gate yet.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let status = loop {
            gate.open();
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(std::time::Instant::now() < deadline, "it still waits");
            std::thread::yield_now();
        };
        assert!(status.success());
    }
}

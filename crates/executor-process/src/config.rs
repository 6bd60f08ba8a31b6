//! The executor's options.

use std::{collections::BTreeMap, path::PathBuf};

use robata_core::InstallationId;

/// Options of a [`ProcessExecutor`](crate::ProcessExecutor).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProcessConfig {
    /// The state folder, made where it is not there: output, payloads and outcomes live in it, and the realm's
    /// identity. Not on a network file system. Workers that share it reach the same processes.
    pub state: PathBuf,
    /// Whose things are made, seen and removed; others in the same folder are not touched.
    pub installation: InstallationId,
    /// The environment of each process, below its own. Default: a usual `PATH`, `LANG=C.UTF-8`, and `HOME` (the working
    /// folder). The executor reads no environment by itself: who wants the worker's own `PATH`, `HOME` and `LANG` to
    /// reach the jobs puts them here.
    pub environment: BTreeMap<String, String>,
    /// The program that is started as supervisor; default: the running program itself, whose main then begins with
    /// [`supervise_if_asked`](crate::supervise_if_asked).
    pub supervisor: Option<PathBuf>,
    /// Whether control groups are used.
    pub cgroups: Cgroups,
}

/// Whether control groups (Linux cgroups, version 1 or 2) are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cgroups {
    /// Where they can be written.
    #[default]
    Auto,
    /// Never: memory is limited by RLIMIT_AS, and running out of it is not told apart.
    Off,
}

impl ProcessConfig {
    /// The defaults, for this folder and installation.
    #[must_use]
    pub fn new(state: impl Into<PathBuf>, installation: InstallationId) -> Self {
        let environment = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LANG", "C.UTF-8"),
        ];
        Self {
            state: state.into(),
            installation,
            environment: environment
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            supervisor: None,
            cgroups: Cgroups::default(),
        }
    }
}

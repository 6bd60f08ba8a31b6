//! What a supervisor is told to do. It goes to it in memory, never over a disk, and is not printed: the environment may hold
//! secrets.

use std::{collections::BTreeMap, path::PathBuf};

use robata_core::Format;
use serde::{Deserialize, Serialize};

use crate::cgroup::Group;

/// Written by the worker, read by the supervisor that it has just started: both are the same program.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    /// That of the request: the outcome is written in it, too.
    pub(crate) format: Format,
    pub(crate) argv: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    /// `None`: a fresh one.
    pub(crate) working_dir: Option<PathBuf>,
    pub(crate) user: Option<Ids>,
    pub(crate) limits: Vec<(Resource, u64)>,
    pub(crate) groups: Vec<Group>,
    /// From SIGTERM to SIGKILL where the machine itself ends us.
    pub(crate) grace_millis: u64,
}

/// Who runs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ids {
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) groups: Vec<u32>,
}

/// What setrlimit(2) limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Resource {
    OpenFiles,
    CpuSeconds,
    AddressSpace,
}

//! What only Docker executors know of a definition: its `[….docker]` table.

mod check;
mod value;

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

pub(crate) use self::check::across;
pub(super) use self::check::mistakes;
pub use self::{
    check::{capability, is_path, is_volume},
    value::{Gpus, Mounted, Ulimit},
};
use super::Memory;

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// Where it is not there yet.
    #[default]
    IfAbsent,
    /// Before each attempt.
    Always,
    /// Never.
    Never,
}

/// What only Docker executors know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DockerOptions {
    /// When the image is pulled.
    pub pull: PullPolicy,
    /// The image's platform, as `linux/arm64`; default: the engine's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The network: `none`, or a name that the operator allows; default: the engine's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Networks joined beside it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// Lines of `/etc/hosts`: name → address, or `host-gateway` for the engine's machine.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_hosts: BTreeMap<String, String>,
    /// The size of `/dev/shm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<Memory>,
    /// Folders in memory: path → size.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tmpfs: BTreeMap<String, Memory>,
    /// The engine's named volumes: path → name. Kept after the job; made by the engine where there is none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Mounted>,
    /// Folders and files of the engine's machine: path → path there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub mounts: BTreeMap<String, Mounted>,
    /// Limits of each process: name as in `ulimit` → limit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Capabilities besides those of the level of security, as `NET_ADMIN`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// Devices of the engine's machine, under the same path inside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Graphics processors: `all`, a number, or a list of ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Gpus>,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// Whether an init runs as process 1 (default: yes).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
}

/// The engine's word for the address by which a container reaches the engine's machine.
pub const HOST_GATEWAY: &str = "host-gateway";

/// Limits that a definition may set (`man 2 setrlimit`). Those that put a container before all others of the machine
/// (`nice`, `rtprio`, `rttime`) are not among them.
pub const ULIMITS: [&str; 12] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nofile",
    "nproc",
    "rss",
    "sigpending",
    "stack",
];

/// Whether a line of `/etc/hosts` can lead there.
fn is_address(text: &str) -> bool {
    text == HOST_GATEWAY || text.parse::<IpAddr>().is_ok()
}

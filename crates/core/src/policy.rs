//! The operator's policy of an executor: what definitions may ask of it, whatever they say (DESIGN.md §7).
//!
//! An apply and every start check it. Every list names what is allowed, and what it does not name is not.

mod allowed;
mod check;
mod image;

use std::time::Duration;

pub use self::{
    allowed::{Allowed, glob},
    image::{Reference, image_allowed},
};
use crate::definition::{Cpu, Definition, Limit, Memory};

/// What definitions may ask of an executor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// The table of the settings in which it stands, as `executors.batch.docker`; a refusal names it.
    pub table: String,
    /// Apps whose jobs may run there; `*` stands for any text. Default: all.
    pub apps: Vec<String>,
    /// What one job may use at most.
    pub max: Max,
    /// What containers may ask for; `None` where the executor runs none.
    pub containers: Option<Containers>,
}

/// What one job may use at most; what is not set has no bound.
///
/// A definition that says nothing of it gets the bound as its limit, see [`Policy::bound`]; one that asks for more, or for
/// no limit, is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Max {
    /// CPU.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// The longest run, and the longest grace period after it.
    pub timeout: Option<Duration>,
}

/// What containers may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Containers {
    /// Images, see [`image_allowed`]. Default: all.
    pub images: Vec<String>,
    /// Networks besides `none` and the engine's default one; `*` stands for any text of a network's name. What is an option
    /// of the engine rather than a name (`host`, `container:x`) is allowed only where it stands here in full.
    pub networks: Vec<String>,
    /// The engine's named volumes; `*` stands for any text.
    pub volumes: Vec<Allowed>,
    /// Paths of the engine's machine. One that may only be read is allowed with what is below it, one that may be written by
    /// itself: below it a job may leave a symbolic link to anywhere. Where links that jobs cannot make lead is the
    /// operator's matter.
    pub mounts: Vec<Allowed>,
    /// Devices of the engine's machine; `*` stands for any text.
    pub devices: Vec<String>,
    /// Capabilities besides the level's own, as `NET_ADMIN`; `ALL` only where it stands here.
    pub cap_add: Vec<String>,
    /// Whether graphics processors may be asked for.
    pub gpus: bool,
    /// Whether `security = "privileged"` is allowed.
    pub privileged: bool,
}

impl Default for Containers {
    fn default() -> Self {
        Self {
            images: vec!["*".to_owned()],
            networks: Vec::new(),
            volumes: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            cap_add: Vec::new(),
            gpus: false,
            privileged: false,
        }
    }
}

impl Default for Policy {
    /// All apps and images, the engine's default network and `none`, and nothing else.
    fn default() -> Self {
        Self {
            table: String::new(),
            apps: vec!["*".to_owned()],
            max: Max::default(),
            containers: Some(Containers::default()),
        }
    }
}

impl Policy {
    /// The default, standing in this table of the settings.
    #[must_use]
    pub fn of(table: impl Into<String>) -> Self {
        Self {
            table: table.into(),
            ..Self::default()
        }
    }

    /// Gives a definition the operator's bound where it has said nothing of its own: CPU and memory without limit or
    /// reservation, and a time limit and a grace period left at their defaults where the bound is shorter.
    pub fn bound(&self, definition: &mut Definition) {
        let resources = &mut definition.resources;
        if let (Some(most), Limit::Unset, None) = (self.max.cpu, resources.cpu_limit, resources.cpu) {
            resources.cpu_limit = Limit::At(most);
        }
        if let (Some(most), Limit::Unset, None) = (self.max.memory, resources.memory_limit, resources.memory) {
            resources.memory_limit = Limit::At(most);
        }
        let default = Definition::default().timeout;
        if let Some(most) = self.max.timeout
            && definition.timeout == default
            && default.is_none_or(|default| default > most)
        {
            definition.timeout = Some(most);
        }
        let default = Definition::default().grace_period;
        if let Some(most) = self.max.timeout
            && definition.grace_period == default
        {
            definition.grace_period = default.min(most);
        }
    }
}

//! Job definitions: what to run for a job name of an app (DESIGN.md §6, "Definitions").

pub mod catalog;
pub mod docker;
pub mod document;
pub mod duration;
mod images;
pub mod plan;
pub mod quantity;
mod variables;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    catalog::{App, Catalog, CatalogWrite, JobEntry, QueueSettings, Retention},
    docker::{DockerOptions, PullPolicy},
    document::{Document, Problem},
    plan::{Plan, PlanAction, PlanItem, PlanKind},
    quantity::{Cpu, Limit, Memory},
};
use crate::{
    name::{ExecutorName, QueueName, SecretName},
    retry::RetryPolicy,
};

/// A job definition with all of its keys, after merging defaults, app and job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Definition {
    /// What the job is for, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The container's image; a definition with an image never becomes a process on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Replaces the image's CMD. Argv, never a shell string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Replaces the image's ENTRYPOINT. A process runs entrypoint + command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The working folder; default: the image's, or for a process a fresh one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// `user[:group]`, by name or number; default: the image's, or for a process the worker's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Environment variables.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Environment variables by a secret's name, resolved where the attempt starts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretName>,
    /// The queue; default: the app's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueName>,
    /// The executor; default: the installation's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executor: Option<ExecutorName>,
    /// The longest run, from the engine's own start; `None` ("none"): no limit.
    #[serde(with = "duration::or_none")]
    pub timeout: Option<Duration>,
    /// The longest time from the first claim to the engine's start.
    #[serde(with = "duration")]
    pub start_within: Duration,
    /// From SIGTERM to SIGKILL.
    #[serde(with = "duration")]
    pub grace_period: Duration,
    /// What it needs and may use.
    pub resources: Resources,
    /// When another attempt follows.
    pub retry: RetryPolicy,
    /// What an enqueuer's `env` may set.
    pub env_allow: Vec<String>,
    /// Whether and under which names the payload is in the environment, too.
    pub payload_env: PayloadEnv,
    /// At most so many of this definition run at once, over all workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
    /// So much of an attempt's output is kept, of both streams together; `None` ("none"): all of it. What is beyond it is
    /// read and dropped, and the log is marked incomplete, reason `log_limit`.
    #[serde(with = "quantity::or_none")]
    pub log_limit: Option<Memory>,
    /// The Pod Security Standards' word.
    pub security: Security,
    /// What only Docker executors know.
    pub docker: DockerOptions,
    /// What only process executors know.
    pub process: ProcessOptions,
}

impl Default for Definition {
    fn default() -> Self {
        Self {
            description: None,
            image: None,
            command: None,
            entrypoint: None,
            working_dir: None,
            user: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            queue: None,
            executor: None,
            timeout: Some(Duration::from_secs(3600)),
            start_within: Duration::from_secs(24 * 3600),
            grace_period: Duration::from_secs(30),
            resources: Resources::default(),
            retry: RetryPolicy::default(),
            env_allow: Vec::new(),
            payload_env: PayloadEnv::default(),
            max_running: None,
            log_limit: Some(Memory { bytes: 256 << 20 }),
            security: Security::default(),
            docker: DockerOptions::default(),
            process: ProcessOptions::default(),
        }
    }
}

/// What a job reserves and what it may use at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Reserved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Reserved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Default: `cpu`.
    #[serde(skip_serializing_if = "Limit::is_unset")]
    pub cpu_limit: Limit<Cpu>,
    /// Default: `memory`.
    #[serde(skip_serializing_if = "Limit::is_unset")]
    pub memory_limit: Limit<Memory>,
    /// At most so many processes and threads.
    pub processes: u32,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            cpu: None,
            memory: None,
            cpu_limit: Limit::Unset,
            memory_limit: Limit::Unset,
            processes: 4096,
        }
    }
}

impl Resources {
    /// The CPU limit in force.
    #[must_use]
    pub fn cpu_at_most(&self) -> Option<Cpu> {
        self.cpu_limit.or_default(self.cpu)
    }

    /// The memory limit in force.
    #[must_use]
    pub fn memory_at_most(&self) -> Option<Memory> {
        self.memory_limit.or_default(self.memory)
    }
}

/// Whether the payload (up to 32 KiB) is in the environment, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "true, false, or a list of environment names")]
pub enum PayloadEnv {
    /// As `ROBATA_PAYLOAD`, or not at all.
    Switch(bool),
    /// As `ROBATA_PAYLOAD` and under these names.
    Names(Vec<String>),
}

impl Default for PayloadEnv {
    fn default() -> Self {
        Self::Switch(true)
    }
}

impl PayloadEnv {
    /// The names under which the payload goes into the environment.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let own = || "ROBATA_PAYLOAD".to_owned();
        match self {
            Self::Switch(false) => Vec::new(),
            Self::Switch(true) => vec![own()],
            Self::Names(names) => std::iter::once(own()).chain(names.iter().cloned()).collect(),
        }
    }
}

/// DESIGN.md §7's levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Security {
    /// No new privileges, the engine's own seccomp and capabilities, process limit, an init.
    #[default]
    Baseline,
    /// Also: all capabilities dropped, non-root.
    Restricted,
    /// No isolation from the machine's kernel and devices; only where the operator's policy allows it.
    Privileged,
}

/// What only process executors know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessOptions {
    /// At most so many open files (RLIMIT_NOFILE).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// At most so much CPU time per process (RLIMIT_CPU), in whole seconds.
    #[serde(with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub cpu_time: Option<Duration>,
}

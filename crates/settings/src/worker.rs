//! `[worker]`: what a worker takes, and how it stops.

use std::{collections::BTreeMap, time::Duration};

use robata_core::{QueueName, definition::duration};
use serde::{Deserialize, Serialize};

use crate::listen::Listen;

/// `[worker]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerSettings {
    /// The name under which the worker is shown; default: the machine's.
    pub host: String,
    /// Where robata-worker answers `/healthz`, `/readyz` and `/metrics`; default: nowhere.
    pub listen: Listen,
    /// The queues it takes from, each with its weight; empty: all, alike.
    pub queues: BTreeMap<QueueName, u32>,
    /// The queues it takes from, one only while those before it are empty; empty: as `queues` says.
    pub queues_strict: Vec<QueueName>,
    /// What SIGTERM means; not set: `leave`, but `drain` where the worker's end would end its jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_sigterm: Option<OnSigterm>,
    /// How long draining may take before what still runs is left to the next worker; `none`: as long as it takes.
    #[serde(with = "duration::or_none")]
    pub drain_within: Option<Duration>,
    /// Things of this installation whose attempts the store does not know are removed after this time (PROTOCOL C1).
    #[serde(with = "duration")]
    pub orphan_after: Duration,
    /// How long a log that cannot be kept is tried again after its attempt's end, before it is marked incomplete.
    #[serde(with = "duration")]
    pub logs_patience: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            host: String::new(),
            listen: Listen::Off,
            queues: BTreeMap::new(),
            queues_strict: Vec::new(),
            on_sigterm: None,
            drain_within: None,
            orphan_after: Duration::from_secs(24 * 3600),
            logs_patience: Duration::from_secs(3600),
        }
    }
}

/// What a worker does when it is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnSigterm {
    /// Takes nothing new, leaves running jobs to the next worker, ends.
    Leave,
    /// Takes nothing new, and ends once its jobs have.
    Drain,
}

//! What a worker can be told.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use robata_core::{ExecutorName, Policy, secret::Secrets};

use crate::queues::Queues;

/// A worker's settings.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerConfig {
    /// The host's name, for people.
    pub host: String,
    /// The queues it takes from.
    pub queues: Queues,
    /// Attempts at once, by executor; default: 2 × cores.
    pub slots: BTreeMap<ExecutorName, u32>,
    /// Slots of an executor that `slots` does not name.
    pub default_slots: u32,
    /// How long an unknown thing of our installation is left alone (PROTOCOL C1).
    pub orphan_after: Duration,
    /// How often the realm is compared with the store.
    pub clean_every: Duration,
    /// How often everything followed is looked at, whatever the events say.
    pub sweep_every: Duration,
    /// A start that waits longer for an engine or for capacity gives its slot back (PROTOCOL X2).
    pub slot_patience: Duration,
    /// A start whose answer was lost is looked for so long, before what was made is removed (PROTOCOL X1).
    pub lost_start_patience: Duration,
    /// How long a log that cannot be kept is tried again after its attempt's end, before it is marked incomplete.
    pub logs_patience: Duration,
    /// The fence of executors that have one (PROTOCOL H6): so long after its lease's end, where it could not be renewed, the
    /// worker stops what runs there. One minute less than the executor's `lost_after`.
    pub fence: BTreeMap<ExecutorName, Duration>,
    /// The operator's policies, checked at every start; an executor that does not stand here has the default one.
    pub policies: BTreeMap<ExecutorName, Policy>,
    /// Where each executor's secrets live. What asks for secrets on an executor without such a place never starts.
    pub secrets: BTreeMap<ExecutorName, Arc<dyn Secrets>>,
    /// How long references of a later release are left in their lines for a worker of it; then this worker, for which all of
    /// them have gone out again in a format that it reads, lets them go.
    pub newer_patience: Duration,
    /// How long stopping may take to bring what is half done to a known state.
    pub stop_within: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            host: String::new(),
            queues: Queues::All,
            slots: BTreeMap::new(),
            default_slots: u32::try_from(2 * cores).unwrap_or(u32::MAX),
            orphan_after: Duration::from_secs(24 * 3600),
            clean_every: Duration::from_secs(300),
            sweep_every: Duration::from_secs(15),
            slot_patience: Duration::from_secs(10),
            lost_start_patience: Duration::from_secs(60),
            logs_patience: Duration::from_secs(3600),
            fence: BTreeMap::new(),
            policies: BTreeMap::new(),
            secrets: BTreeMap::new(),
            newer_patience: Duration::from_secs(600),
            stop_within: Duration::from_secs(5),
        }
    }
}

//! Opens the parts that settings name, and makes the engines' settings from them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use robata_adapters::Role;
use robata_core::{ExecutorName, Policy, executor::Executor, log_store::LogStore, queue::Queue, store::Store};
use robata_scheduler::{Scheduler, SchedulerConfig};
use robata_settings::{Settings, StoreSettings};
use robata_worker::{Queues, Worker, WorkerConfig};

use crate::{fault::Coded, folder, waiting};

/// An engine that answers does so within this time; else it is told as not reached. It is tried again all the time.
const REACHED_WITHIN: Duration = Duration::from_secs(3);

/// The adapters, opened.
#[derive(Debug)]
pub struct Parts {
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    logs: Arc<dyn LogStore>,
    executors: BTreeMap<ExecutorName, Arc<dyn Executor>>,
}

/// An executor whose engine does not answer now.
#[derive(Clone, Debug)]
pub struct Unreached {
    /// The executor.
    pub executor: ExecutorName,
    /// Why.
    pub message: String,
}

impl Parts {
    /// Opens what this role needs; the store first, since its lock says whether another one runs here. A master opens no
    /// executor. A database that does not serve yet is waited for, without an end; a broker connects at its first use.
    pub async fn open(settings: &Settings, role: Role) -> anyhow::Result<Self> {
        folder::make(settings).map_err(|error| Coded {
            code: "store",
            message: format!(
                "the data folder {} cannot be made: {error}",
                settings.data.folder.display()
            ),
        })?;
        let opened = match settings.store {
            StoreSettings::Postgres(_) => {
                waiting::until_it_serves(async || robata_adapters::store(settings, role).await).await
            }
            // A folder of this machine is there and free, or it is not.
            StoreSettings::Sqlite(_) => robata_adapters::store(settings, role).await,
        };
        let store = opened.map_err(|error| Coded {
            code: "store",
            message: match robata_adapters::probe::store_holder(settings) {
                Some(_) => format!("{} (--data-dir FOLDER)", error.full()),
                None => error.full(),
            },
        })?;
        let queue = robata_adapters::queue(settings, store.installation())
            .await
            .map_err(told)
            .context("cannot open the queue")?;
        let logs = robata_adapters::log_store(settings)
            .await
            .map_err(told)
            .context("cannot open the log store ([logs.folder] path)")?;
        let executors = match role {
            Role::Master => BTreeMap::new(),
            Role::Worker | Role::All => robata_adapters::executors(settings, store.installation())
                .await
                .map_err(told)
                .context("cannot open the executors (`robata config` shows where each of their settings came from)")?,
        };
        Ok(Self {
            store,
            queue,
            logs,
            executors,
        })
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// The broker.
    #[must_use]
    pub fn queue(&self) -> Arc<dyn Queue> {
        Arc::clone(&self.queue)
    }

    /// The log store.
    #[must_use]
    pub fn logs(&self) -> Arc<dyn LogStore> {
        Arc::clone(&self.logs)
    }

    /// The executors.
    #[must_use]
    pub fn executors(&self) -> BTreeMap<ExecutorName, Arc<dyn Executor>> {
        self.executors.clone()
    }

    /// A scheduler over these parts.
    #[must_use]
    pub fn scheduler(&self, settings: &Settings) -> Scheduler {
        Scheduler::new(self.store(), self.queue(), self.logs(), scheduler(settings))
    }

    /// A worker over these parts.
    #[must_use]
    pub fn worker(&self, settings: &Settings) -> Worker {
        Worker::new(
            self.store(),
            self.queue(),
            self.logs(),
            self.executors(),
            worker(settings),
        )
    }

    /// The executors whose engine cannot be reached; their jobs wait until it can.
    pub async fn unreached(&self) -> Vec<Unreached> {
        let mut unreached = Vec::new();
        for (name, executor) in &self.executors {
            let message = match tokio::time::timeout(REACHED_WITHIN, executor.realm()).await {
                Ok(Ok(_)) => continue,
                Ok(Err(error)) => error.full(),
                Err(_) => format!("no answer within {} s", REACHED_WITHIN.as_secs()),
            };
            unreached.push(Unreached {
                executor: name.clone(),
                message,
            });
        }
        unreached
    }
}

fn told(error: robata_core::Error) -> Coded {
    Coded {
        code: "open",
        message: error.full(),
    }
}

fn scheduler(settings: &Settings) -> SchedulerConfig {
    let mut config = SchedulerConfig::default();
    config.lost_after = settings
        .executors
        .iter()
        .map(|(name, executor)| (name.clone(), executor.lost_after()))
        .collect();
    config.prune_every = settings.scheduler.prune_every;
    config
}

/// The operator's policies: masters hold applies to them, and workers every start.
pub(crate) fn policies(settings: &Settings) -> BTreeMap<ExecutorName, Policy> {
    settings
        .executors
        .iter()
        .map(|(name, executor)| (name.clone(), executor.policy(name)))
        .collect()
}

fn worker(settings: &Settings) -> WorkerConfig {
    let of = &settings.worker;
    let mut config = WorkerConfig::default();
    config.host.clone_from(&of.host);
    config.queues = if !of.queues_strict.is_empty() {
        Queues::Strict(of.queues_strict.clone())
    } else if !of.queues.is_empty() {
        Queues::Weighted(of.queues.clone())
    } else {
        Queues::All
    };
    config.slots = settings
        .executors
        .iter()
        .map(|(name, executor)| (name.clone(), executor.slots()))
        .collect();
    config.policies = policies(settings);
    config.fence = settings
        .executors
        .iter()
        .filter_map(|(name, executor)| Some((name.clone(), executor.fence()?)))
        .collect();
    config.secrets = robata_adapters::secrets(settings);
    config.orphan_after = of.orphan_after;
    config.logs_patience = of.logs_patience;
    config
}

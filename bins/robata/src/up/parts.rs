//! Opens the parts that settings name, and makes the engines' settings from them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use robata_core::{ExecutorName, executor::Executor, log_store::LogStore, queue::Queue, store::Store};
use robata_scheduler::SchedulerConfig;
use robata_settings::Settings;
use robata_worker::WorkerConfig;
use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::{fault::Coded, output::Output};

/// An engine that answers does so within this time; else it is told as not reached. It is tried again all the time.
const REACHED_WITHIN: Duration = Duration::from_secs(3);

/// The adapters, opened.
#[derive(Debug)]
pub(crate) struct Parts {
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    logs: Arc<dyn LogStore>,
    executors: BTreeMap<ExecutorName, Arc<dyn Executor>>,
}

impl Parts {
    /// Opens all of them; the store first, since its lock says whether another one runs here.
    pub(crate) async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let store = robata_adapters::store(settings).await.map_err(|error| Coded {
            code: "store",
            message: match robata_adapters::probe::store_holder(settings) {
                Some(_) => format!("{} (--data-dir FOLDER)", error.full()),
                None => error.full(),
            },
        })?;
        let queue = robata_adapters::queue(settings)
            .await
            .map_err(told)
            .context("cannot open the queue")?;
        let logs = robata_adapters::log_store(settings)
            .await
            .map_err(told)
            .context("cannot open the log store ([logs.folder] path)")?;
        let executors = robata_adapters::executors(settings, store.installation())
            .await
            .map_err(told)
            .context("cannot open the executors")?;
        Ok(Self {
            store,
            queue,
            logs,
            executors,
        })
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    pub(crate) fn queue(&self) -> Arc<dyn Queue> {
        Arc::clone(&self.queue)
    }

    pub(crate) fn logs(&self) -> Arc<dyn LogStore> {
        Arc::clone(&self.logs)
    }

    pub(crate) fn executors(&self) -> BTreeMap<ExecutorName, Arc<dyn Executor>> {
        self.executors.clone()
    }

    /// A line for each engine that cannot be reached; its jobs wait until it can.
    pub(crate) async fn tell_unreached(&self, out: &Output) -> anyhow::Result<()> {
        for (name, executor) in &self.executors {
            let why = match tokio::time::timeout(REACHED_WITHIN, executor.realm()).await {
                Ok(Ok(_)) => continue,
                Ok(Err(error)) => error.full(),
                Err(_) => format!("no answer within {} s", REACHED_WITHIN.as_secs()),
            };
            let event = json!({"event": "unreached", "executor": name, "message": why});
            out.event(&event, || {
                format!("executor {name} is not reached: {why}; its jobs wait (engine_unreachable) until it is")
            })?;
        }
        Ok(())
    }
}

fn told(error: robata_core::Error) -> Coded {
    Coded {
        code: "open",
        message: error.full(),
    }
}

/// The scheduler's settings.
pub(crate) fn scheduler(settings: &Settings) -> SchedulerConfig {
    let mut config = SchedulerConfig::default();
    config.lost_after = settings
        .executors
        .iter()
        .map(|(name, executor)| (name.clone(), executor.lost_after()))
        .collect();
    config.prune_every = settings.scheduler.prune_every;
    config
}

/// The worker's settings.
pub(crate) fn worker(settings: &Settings) -> WorkerConfig {
    let mut config = WorkerConfig::default();
    config.host.clone_from(&settings.worker.host);
    config.slots = settings
        .executors
        .iter()
        .map(|(name, executor)| (name.clone(), executor.slots()))
        .collect();
    config.orphan_after = settings.worker.orphan_after;
    config.logs_patience = settings.worker.logs_patience;
    config
}

/// Warnings and errors of the parts go to standard error, RUST_LOG asks for more.
pub(crate) fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    // Set already only where a test runs `up` twice in one process.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}

//! The bench's own worker: everything of a real one but its executor, in a process of its own.

use std::{fs::OpenOptions, io::Write as _, path::PathBuf, process::ExitCode, sync::Arc};

use robata_adapters::Role;
use robata_core::executor::Executor;
use robata_daemon::{Given, Signals, load, telemetry};
use robata_worker::{Worker, WorkerConfig};
use tokio_util::sync::CancellationToken;

use super::noop::Noop;

/// Works by these settings until told to stop.
pub(in crate::bench) async fn work(settings: PathBuf, stamps: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let given = Given {
        config: Some(settings),
        ..Given::default()
    };
    let settings = load(given)?.settings;
    // As much as a real worker tells, since telling costs time, too.
    telemetry(&settings, "info")?;
    let mut signals = Signals::new()?;
    let store = robata_adapters::store(&settings, Role::Worker).await?;
    let queue = robata_adapters::queue(&settings, store.installation()).await?;
    let logs = robata_adapters::log_store(&settings).await?;
    let mut config = WorkerConfig::default();
    config.host.clone_from(&settings.worker.host);
    let mut executors = std::collections::BTreeMap::new();
    for (name, executor) in &settings.executors {
        let stamps = match &stamps {
            Some(path) => Some(OpenOptions::new().create(true).append(true).open(path)?),
            None => None,
        };
        config.slots.insert(name.clone(), executor.slots());
        executors.insert(name.clone(), Arc::new(Noop::new(stamps)) as Arc<dyn Executor>);
    }
    let worker = Worker::new(store, queue, logs, executors, config);
    let stop = CancellationToken::new();
    let mut working = tokio::spawn(worker.run(stop.clone()));
    writeln!(std::io::stdout(), "{{\"event\":\"working\"}}")?;
    tokio::select! {
        _ = signals.next() => {}
        ended = &mut working => {
            ended?;
            anyhow::bail!("the worker ended by itself");
        }
    }
    stop.cancel();
    working.await?;
    Ok(ExitCode::SUCCESS)
}

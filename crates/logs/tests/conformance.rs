//! Logs in a folder, and in any other object store, keep the contract of `robata_core::log_store`.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, memory::InMemory, path::Path};
use robata_core::AttemptId;
use robata_logs::{Logs, LogsConfig};
use robata_testkit::log_store::Place;

/// Small enough that the suite's logs become several objects, and readers elsewhere look often.
fn config() -> LogsConfig {
    LogsConfig::default()
        .with_merge_bytes(100_000)
        .with_poll(Duration::from_millis(100))
}

/// Cuts the object that was written last in the middle. Its name ends in the number that says which one that is.
async fn tear(store: Arc<dyn ObjectStore>, attempt: AttemptId) -> Result<()> {
    let job = attempt.job.to_string();
    let prefix = Path::from_iter([&job[job.len() - 2..], &job, &attempt.number.to_string()]);
    let objects: Vec<_> = store.list(Some(&prefix)).try_collect().await?;
    let chunks = objects
        .into_iter()
        .map(|object| object.location)
        .filter(|path| path.as_ref().ends_with(".chunk"));
    let last = chunks
        .max_by_key(|path| path.as_ref().rsplit('-').next().map(str::to_owned))
        .context("no chunk")?;
    let bytes = store.get(&last).await?.bytes().await?;
    store.put(&last, bytes.slice(..bytes.len() / 2).into()).await?;
    Ok(())
}

mod folder {
    use super::*;

    robata_testkit::log_store_suite!(async || {
        let folder = Arc::new(tempfile::tempdir()?);
        let path = folder.path().join("logs");
        let store = {
            std::fs::create_dir_all(&path)?;
            Arc::new(LocalFileSystem::new_with_prefix(&path)?) as Arc<dyn ObjectStore>
        };
        Place::new(
            move || {
                // The folder lives as long as anybody may open it.
                let _keep = &folder;
                Ok(Logs::folder(&path, config())?)
            },
            move |attempt| tear(Arc::clone(&store), attempt),
        )
    });
}

mod object_storage {
    use super::*;

    robata_testkit::log_store_suite!(async || {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let shared = Arc::clone(&store);
        Place::new(
            move || Ok(Logs::new(Arc::clone(&shared), config())),
            move |attempt| tear(Arc::clone(&store), attempt),
        )
    });
}

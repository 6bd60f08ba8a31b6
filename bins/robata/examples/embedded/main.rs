//! Robata inside another program: scheduler, worker and API over a store and a queue of one's choice, and an executor of
//! one's own (`functions.rs`), for which a job is a function of this program.
//!
//! ```console
//! $ cargo run --example embedded
//! slept 20 ms, with a payload of 11 bytes
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what it did")]

mod functions;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::ensure;
use bytes::Bytes;
use functions::{Function, Functions};
use futures::{FutureExt, TryStreamExt};
use robata_api::{Api, ApiConfig, router};
use robata_client::{ApplyOptions, ApplyRequest, Client, EnqueueRequest, LogsRequest};
use robata_core::{JobState, executor::Executor, log_store::LogStore, queue::Queue, store::Store};
use robata_logs::{Logs, LogsConfig};
use robata_queue_memory::{MemoryConfig, MemoryQueue};
use robata_scheduler::{Scheduler, SchedulerConfig};
use robata_store_sqlite::{SqliteConfig, SqliteStore};
use robata_worker::{Worker, WorkerConfig};
use serde_json::{json, value::to_raw_value};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// A job of this program.
fn nap(payload: Bytes) -> functions::Call {
    async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(format!("slept 20 ms, with a payload of {} bytes\n", payload.len()))
    }
    .boxed()
}

// A program whose jobs are processes calls `robata_executor_process::supervise_if_asked()` as the first line of its `main`.
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut config = SqliteConfig::new(folder.path().join("data"));
    config.default_executor = Some("functions".parse()?);
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(config).await?);
    let queue: Arc<dyn Queue> = Arc::new(MemoryQueue::new(MemoryConfig::default()));
    let logs: Arc<dyn LogStore> = Arc::new(Logs::folder(folder.path().join("logs"), LogsConfig::default())?);
    let functions: Arc<dyn Executor> = Arc::new(Functions::new([("nap", nap as Function)]));

    let stop = CancellationToken::new();
    let mut parts = JoinSet::new();
    let scheduler = Scheduler::new(
        Arc::clone(&store),
        Arc::clone(&queue),
        Arc::clone(&logs),
        SchedulerConfig::default(),
    );
    parts.spawn(scheduler.run(stop.clone()));
    let worker = Worker::new(
        Arc::clone(&store),
        queue,
        Arc::clone(&logs),
        BTreeMap::from([("functions".parse()?, functions)]),
        WorkerConfig::default(),
    );
    parts.spawn(worker.run(stop.clone()).map(drop));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = Client::new(&format!("http://{}", listener.local_addr()?), None)?;
    let api = router(Api::new(store, logs, ApiConfig::default()));
    let served = axum::serve(listener, api).with_graceful_shutdown(stop.clone().cancelled_owned());
    parts.spawn(async { served.await.expect("it goes on until it is told to stop") });

    let definitions = ApplyRequest {
        document: json!({"apps": {"shop": {"jobs": {"nap": {"command": ["nap"]}}}}}),
        images: BTreeMap::new(),
    };
    client.apply(&definitions, ApplyOptions::default()).await?;
    let mut request = EnqueueRequest::new("shop", "nap")?;
    request.payload = Some(to_raw_value(&json!({"hours": 8}))?);
    let enqueued = client.enqueue(&request).await?;
    let job = client.wait(enqueued.job.id).await?;
    ensure!(job.state.known() == Some(JobState::Succeeded), "{job:?}");
    let follow = LogsRequest {
        follow: true,
        ..LogsRequest::default()
    };
    let log: Vec<Bytes> = client.logs(job.id, &follow).await?.try_collect().await?;
    print!("{}", String::from_utf8(log.concat())?);

    stop.cancel();
    while let Some(ended) = parts.join_next().await {
        ended?;
    }
    Ok(())
}

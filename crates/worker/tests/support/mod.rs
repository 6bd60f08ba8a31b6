//! A whole platform in one test: real store, queue, logs, scheduler and workers, over the scripted engine.
//!
//! Each worker has a runtime of its own, so that it can be killed: everything it does stops in the middle. What happens
//! to one worker's calls (its [`Faults`]) happens to no other's.

#![expect(dead_code, reason = "each test binary uses a part of it")]

mod logs;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use robata_core::{
    AppName, AttemptId, ExecutorName, IncarnationId, JobId, JobName, JobState, QueueName, Reason, WaitingReason,
    attempt::{AttemptRecord, LogState},
    definition::{CatalogWrite, Definition, QueueSettings},
    executor::Stream,
    job::{Acted, Cancel, Enqueue, JobDetail, Line, NewJob, RetryByHand, When},
    log_store::{Entry, LogStore, Read},
    payload::Payload,
    retry::{Jitter, RetryPolicy},
    store::{AttemptStore, CatalogStore, JobStore, ScheduleStore},
};
use robata_logs::{Logs, LogsConfig};
use robata_queue_memory::{MemoryConfig, MemoryQueue};
use robata_scheduler::{Scheduler, SchedulerConfig};
use robata_store_sqlite::{SqliteConfig, SqliteStore, clock::OffsetClock};
use robata_testkit::{
    case,
    engine::{Faults, Gate, Moment, ScriptedEngine, command},
    faulty_store::FaultyStore,
};
use robata_worker::{Left, Worker, WorkerConfig};
use tokio::{runtime::Runtime, sync::oneshot};
use tokio_util::sync::CancellationToken;

use self::logs::FaultyLogs;

/// No state that a test waits for may take longer.
pub(crate) const STATE: Duration = Duration::from_secs(25);

/// The platform.
pub(crate) struct Rig {
    pub(crate) store: SqliteStore,
    pub(crate) queue: MemoryQueue,
    pub(crate) logs: Logs,
    pub(crate) engine: ScriptedEngine,
    pub(crate) clock: Arc<OffsetClock>,
    scheduler: CancellationToken,
    folder: tempfile::TempDir,
}

/// A worker that runs.
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) faults: Arc<Faults>,
    stop: CancellationToken,
    pub(crate) drain: CancellationToken,
    left: Option<oneshot::Receiver<Left>>,
    runtime: Option<Runtime>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.scheduler.cancel();
    }
}

pub(crate) fn app() -> AppName {
    AppName::new("shop").expect("a good name")
}

pub(crate) fn executor() -> ExecutorName {
    ExecutorName::new("scripted").expect("a good name")
}

pub(crate) fn line() -> Line {
    Line {
        queue: QueueName::from(app()),
        executor: executor(),
    }
}

/// What runs these words of the scripted engine.
pub(crate) fn runs(words: &[&str]) -> Definition {
    Definition {
        command: command(words),
        executor: Some(executor()),
        grace_period: Duration::from_secs(1),
        ..Definition::default()
    }
}

/// A policy of so many attempts, with hardly any time between them.
pub(crate) fn attempts(max_attempts: u32) -> RetryPolicy {
    RetryPolicy {
        max_attempts,
        base: Duration::from_millis(20),
        max: Duration::from_millis(50),
        jitter: Jitter::None,
        ..RetryPolicy::default()
    }
}

impl Rig {
    /// A platform with these definitions, a scheduler, and no worker.
    pub(crate) async fn new(definitions: &[(&str, Definition)]) -> Result<Self> {
        Self::with_queue(definitions, None).await
    }

    /// The same with a `max_running` of the queue.
    pub(crate) async fn with_queue(definitions: &[(&str, Definition)], max_running: Option<u32>) -> Result<Self> {
        // With RUST_LOG a failing test tells what the worker did. A second test of the process finds it set already.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let folder = tempfile::tempdir()?;
        let clock = Arc::new(OffsetClock::default());
        let mut config = SqliteConfig::new(folder.path().join("store"));
        config.clock = Arc::clone(&clock) as _;
        let store = SqliteStore::open(config).await?;
        let logs = Logs::folder(folder.path().join("logs"), LogsConfig::default())?;
        let queue = MemoryQueue::new(MemoryConfig::default());
        let mut writes = vec![CatalogWrite::App(app(), Default::default())];
        if max_running.is_some() {
            writes.push(CatalogWrite::Queue(
                QueueName::from(app()),
                QueueSettings { max_running },
            ));
        }
        for (name, definition) in definitions {
            let options = match serde_json::to_value(definition)? {
                serde_json::Value::Object(options) => options,
                other => anyhow::bail!("a definition is an object, not {other}"),
            };
            let definition = Arc::new(definition.clone());
            writes.push(CatalogWrite::Job(app(), JobName::new(*name)?, options, definition));
        }
        let revision = store.catalog().await?.revision;
        store.change_catalog(revision, writes, "test").await?;
        let stop = CancellationToken::new();
        let scheduler = Scheduler::new(
            Arc::new(store.clone()),
            Arc::new(queue.clone()),
            Arc::new(logs.clone()),
            SchedulerConfig::default(),
        );
        tokio::spawn(scheduler.run(stop.clone()));
        Ok(Self {
            store,
            queue,
            logs,
            engine: ScriptedEngine::new(),
            clock,
            scheduler: stop,
            folder,
        })
    }

    /// Begins a worker with 4 slots.
    pub(crate) fn worker(&self, name: &str) -> Result<Running> {
        self.worker_with(name, |_, _| {})
    }

    /// Begins a worker that neither renews its lease nor learns that it has ended until the gate is opened. By its own
    /// clock it may act for a lease's length, from its registration on.
    pub(crate) fn silent_worker(&self, name: &str) -> Result<(Running, Gate)> {
        let mut silence = None;
        let worker = self.worker_with(name, |_, faults| {
            silence = Some(faults.hold("store.heartbeat", Moment::Begin));
        })?;
        Ok((worker, silence.context("set above")?))
    }

    /// Begins a worker with other settings, or with faults from its first call on.
    pub(crate) fn worker_with(&self, name: &str, set: impl FnOnce(&mut WorkerConfig, &Faults)) -> Result<Running> {
        self.begin(name, false, set)
    }

    /// Begins a worker that hears no hints.
    pub(crate) fn deaf_worker(&self, name: &str) -> Result<Running> {
        self.begin(name, true, |_, _| {})
    }

    fn begin(&self, name: &str, deaf: bool, set: impl FnOnce(&mut WorkerConfig, &Faults)) -> Result<Running> {
        let faults = Arc::new(Faults::default());
        let mut config = WorkerConfig::default();
        config.host = name.to_owned();
        config.default_slots = 4;
        set(&mut config, &faults);
        let executors = BTreeMap::from([(executor(), self.engine.executor_with(Arc::clone(&faults)))]);
        let store = FaultyStore {
            store: Arc::new(self.store.clone()),
            faults: Arc::clone(&faults),
            deaf,
        };
        let logs = FaultyLogs {
            logs: Arc::new(self.logs.clone()),
            faults: Arc::clone(&faults),
        };
        let queue = Arc::new(self.queue.clone());
        let worker = Worker::new(Arc::new(store), queue, Arc::new(logs), executors, config);
        let drain = worker.drain_token();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let stop = CancellationToken::new();
        let (done, left) = oneshot::channel();
        let told = stop.clone();
        runtime.spawn(async move {
            // Nobody may wait for it any more.
            let _ = done.send(worker.run(told).await);
        });
        Ok(Running {
            name: name.to_owned(),
            faults,
            stop,
            drain,
            left: Some(left),
            runtime: Some(runtime),
        })
    }

    /// Enqueues a job.
    pub(crate) async fn enqueue(&self, name: &str) -> Result<JobId> {
        self.enqueue_with(name, |_| {}).await
    }

    /// Enqueues a job with other settings.
    pub(crate) async fn enqueue_with(&self, name: &str, set: impl FnOnce(&mut NewJob)) -> Result<JobId> {
        let name = JobName::new(name)?;
        let catalog = self.store.catalog().await?;
        let entry = catalog.job(&app(), &name).context("no such definition")?;
        let mut job = NewJob {
            id: JobId::new(),
            app: app(),
            job: name,
            line: line(),
            queue_chosen: false,
            payload: Payload::null(),
            labels: BTreeMap::new(),
            env: BTreeMap::new(),
            priority: 0,
            when: When::Now,
            expires_in: None,
            key: None,
            max_attempts: entry.definition.retry.max_attempts,
            definition: None,
            traceparent: None,
        };
        set(&mut job);
        let request = Enqueue {
            jobs: vec![job],
            atomic: false,
        };
        let mut stored = self.store.enqueue(request).await?;
        Ok(stored.remove(0)?.job.id)
    }

    pub(crate) async fn cancel(&self, job: JobId) -> Result<Acted> {
        let by = "test".to_owned();
        Ok(self.store.cancel(Cancel { job, by }).await?)
    }

    pub(crate) async fn retry(&self, job: JobId) -> Result<Acted> {
        let by = "test".to_owned();
        Ok(self.store.retry(RetryByHand { job, by }).await?)
    }

    pub(crate) async fn job(&self, job: JobId) -> Result<JobDetail> {
        Ok(self.store.job(job).await?)
    }

    /// Waits for a state of a job; a failure tells how it stood.
    pub(crate) async fn until(
        &self,
        job: JobId,
        what: &str,
        mut holds: impl FnMut(&JobDetail) -> bool,
    ) -> Result<JobDetail> {
        let deadline = tokio::time::Instant::now() + STATE;
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
            let detail = self.store.job(job).await?;
            if holds(&detail) {
                return Ok(detail);
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "not within {STATE:?}: {what}\n{:?}\n{:#?}",
                detail.job,
                detail.attempts
            );
        }
    }

    /// Waits until a job tells that it waits for this reason.
    pub(crate) async fn waits(&self, job: JobId, reason: WaitingReason) -> Result<JobDetail> {
        self.until(job, &format!("it waits: {reason}"), |detail| {
            let waiting = detail.job.waiting.as_ref();
            waiting.is_some_and(|waiting| waiting.reason == reason)
        })
        .await
    }

    /// Waits until a job has ended.
    pub(crate) async fn ended(&self, job: JobId) -> Result<JobDetail> {
        self.until(job, "it ends", |detail| detail.job.state.is_ended()).await
    }

    /// Waits until a job has ended so, and all of its attempts are finalised.
    pub(crate) async fn finalised(&self, job: JobId) -> Result<JobDetail> {
        self.until(job, "it ends and is finalised", |detail| {
            detail.job.state.is_ended() && detail.attempts.iter().all(|attempt| attempt.finalised)
        })
        .await
    }

    /// Waits until a job's attempt runs in the engine and is recorded so.
    pub(crate) async fn running(&self, job: JobId) -> Result<AttemptId> {
        let detail = self
            .until(job, "its attempt runs", |detail| {
                let last = detail.attempts.last();
                last.is_some_and(|attempt| attempt.started_at.is_some() && attempt.state.is_live())
            })
            .await?;
        Ok(detail.attempts.last().context("an attempt")?.id)
    }

    /// Waits for anything else.
    pub(crate) async fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
        case::until(what, STATE, || {
            let holds = holds();
            async move { Ok(holds.then_some(())) }
        })
        .await
    }

    /// What an attempt printed, as the log store keeps it.
    pub(crate) async fn printed(&self, attempt: AttemptId, stream: Stream) -> Result<String> {
        let read = Read {
            attempt,
            stream: Some(stream),
            offset: 0,
            follow: false,
        };
        let mut entries = self.logs.read(read).await?;
        let mut bytes = Vec::new();
        while let Some(entry) = entries.next().await {
            match entry? {
                Entry::Piece(piece) => bytes.extend_from_slice(&piece.data),
                Entry::Gap { .. } => anyhow::bail!("the log of {attempt} has a gap"),
                Entry::End(_) => break,
            }
        }
        Ok(String::from_utf8(bytes)?)
    }

    /// Another process's way to the logs.
    pub(crate) fn logs_elsewhere(&self) -> Result<Logs> {
        Ok(Logs::folder(self.folder.path().join("logs"), LogsConfig::default())?)
    }

    /// The incarnation under which this worker lives now.
    pub(crate) async fn incarnation(&self, worker: &str) -> Result<IncarnationId> {
        case::until("it is registered", STATE, || async {
            let workers = self.store.workers().await?;
            let mut live = workers
                .iter()
                .filter(|record| record.host == worker && record.ended_at.is_none());
            Ok(live.next().map(|record| record.incarnation))
        })
        .await
    }

    /// Ends a worker's lease in the store, whatever the worker believes: what `judge` does with a lease that expired.
    pub(crate) async fn end_lease(&self, worker: &str) -> Result<()> {
        let workers = self.store.workers().await?;
        let live = workers
            .iter()
            .filter(|record| record.host == worker && record.ended_at.is_none());
        for record in live {
            self.store.release(record.incarnation).await?;
        }
        Ok(())
    }

    /// Waits until this worker lives under another incarnation.
    pub(crate) async fn is_another_than(&self, before: IncarnationId, worker: &str) -> Result<()> {
        case::until("it goes on as a new incarnation", STATE, || async {
            let workers = self.store.workers().await?;
            let mut live = workers
                .iter()
                .filter(|record| record.host == worker && record.ended_at.is_none());
            Ok(live.any(|record| record.incarnation != before).then_some(()))
        })
        .await
    }

    /// Lets so much time pass for the store that every lease that is not renewed expires, while masters keep their marks.
    pub(crate) async fn let_leases_expire(&self) -> Result<()> {
        self.store.judge(robata_testkit::store::mark()).await?;
        for _ in 0..6 {
            self.clock.advance(Duration::from_secs(5));
            self.store.judge(robata_testkit::store::mark()).await?;
        }
        Ok(())
    }

    /// No thing was set going twice, no attempt more than once, and nothing is left in the engine.
    pub(crate) async fn nothing_was_started_twice_or_left(&self) -> Result<()> {
        for (handle, starts) in self.engine.starts_by_thing() {
            ensure!(starts == 1, "{handle} was started {starts} times");
        }
        self.eventually("the engine is empty", || self.engine.things().is_empty())
            .await
            .with_context(|| format!("{:?}", self.engine.things()))
    }
}

impl Running {
    /// Ends it without warning: everything it does stops where it is.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not in the background: a dead worker must not have one more word with the store.
            let dead = std::thread::spawn(move || runtime.shutdown_timeout(STATE)).join();
            assert!(dead.is_ok(), "the worker's runtime ends");
        }
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ends(mut self) -> Result<Left> {
        let left = self.left.take().context("it runs")?;
        Ok(tokio::time::timeout(STATE, left).await.context("it ends in time")??)
    }

    /// Stops it in good order.
    pub(crate) async fn stop(mut self) -> Result<Left> {
        self.stop.cancel();
        let left = self.left.take().context("it runs")?;
        let left = tokio::time::timeout(STATE, left).await.context("it stops in time")??;
        Ok(left)
    }

    /// Tells it to stop.
    pub(crate) fn tell_to_stop(&self) {
        self.stop.cancel();
    }
}

/// The only attempt of a job.
pub(crate) fn only(detail: &JobDetail) -> Result<&AttemptRecord> {
    ensure!(detail.attempts.len() == 1, "{} attempts", detail.attempts.len());
    Ok(&detail.attempts[0])
}

/// A job's attempt of this number.
pub(crate) fn attempt(job: JobId, number: u32) -> AttemptId {
    AttemptId { job, number }
}

/// Fails where the job did not end so.
pub(crate) fn ensure_ended(detail: &JobDetail, state: JobState, reason: Option<Reason>) -> Result<()> {
    let (job, attempts) = (&detail.job, &detail.attempts);
    ensure!(
        (job.state, job.reason) == (state, reason),
        "{} ({:?}), not {state} ({reason:?}): {job:#?}\n{attempts:#?}",
        job.state,
        job.reason
    );
    Ok(())
}

/// Fails where a log is not whole.
pub(crate) fn ensure_whole(attempt: &AttemptRecord) -> Result<()> {
    ensure!(attempt.log.state == LogState::Complete, "{:?}", attempt.log);
    Ok(())
}

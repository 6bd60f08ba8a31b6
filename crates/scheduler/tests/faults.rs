//! The scheduler's loops with a store and a broker that panic, refuse and hang: each loop recovers by itself.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use robata_core::{
    AppName, AttemptState, ClaimId, ErrorKind, ExecutorName, IncarnationId, JobId, JobName, Payload, QueueName,
    attempt::{Claim, Claimed},
    definition::{CatalogWrite, Definition},
    job::{Cancel, Enqueue, Line, NewJob, Reference, When},
    queue::{BrokerKey, Capabilities, Delivery, Depth, Message, Queue, Receive},
    store::{AttemptStore, CatalogStore, JobStore, Register, Store, WorkerExecutor},
};
use robata_logs::{Logs, LogsConfig};
use robata_queue_memory::{MemoryConfig, MemoryQueue};
use robata_scheduler::{Scheduler, SchedulerConfig};
use robata_store_sqlite::{SqliteConfig, SqliteStore, clock::OffsetClock};
use robata_testkit::{
    case,
    engine::{Fault, Faults, Moment},
    faulty_store::FaultyStore,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// No state that a test waits for may take longer.
const STATE: Duration = Duration::from_secs(60);

/// A broker behind faults, named `publish.QUEUE`.
#[derive(Debug)]
struct FaultyQueue {
    queue: MemoryQueue,
    faults: Arc<Faults>,
}

#[async_trait]
impl Queue for FaultyQueue {
    fn capabilities(&self) -> Capabilities {
        self.queue.capabilities()
    }
    async fn publish(&self, line: &Line, messages: Vec<Message>) -> robata_core::Result<()> {
        let call = if line.queue.as_str() == "bank" {
            "publish.bank"
        } else {
            "publish"
        };
        self.faults.around(call, self.queue.publish(line, messages)).await
    }
    async fn receive(&self, request: Receive) -> robata_core::Result<Vec<Delivery>> {
        self.queue.receive(request).await
    }
    async fn acknowledge(&self, deliveries: &[Delivery]) -> robata_core::Result<()> {
        self.queue.acknowledge(deliveries).await
    }
    async fn give_back(&self, deliveries: Vec<Delivery>) -> robata_core::Result<()> {
        self.queue.give_back(deliveries).await
    }
    async fn depth(&self, line: &Line) -> robata_core::Result<Depth> {
        self.faults.around("depth", self.queue.depth(line)).await
    }
    async fn broker_key(&self, line: &Line) -> robata_core::Result<BrokerKey> {
        self.faults.around("broker_key", self.queue.broker_key(line)).await
    }
}

struct Rig {
    store: SqliteStore,
    queue: MemoryQueue,
    clock: Arc<OffsetClock>,
    faults: Arc<Faults>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn line(queue: &str) -> Result<Line> {
    Ok(Line {
        queue: QueueName::new(queue)?,
        executor: ExecutorName::new("process")?,
    })
}

impl Rig {
    /// A scheduler whose calls get these faults from the first one on.
    async fn new(faults: impl FnOnce(&Faults)) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let clock = Arc::new(OffsetClock::default());
        let mut config = SqliteConfig::new(folder.path().join("store"));
        config.clock = Arc::clone(&clock) as _;
        let store = SqliteStore::open(config).await?;
        let logs = Logs::folder(folder.path().join("logs"), LogsConfig::default())?;
        let queue = MemoryQueue::new(MemoryConfig::default());
        let mut writes = Vec::new();
        for app in ["shop", "bank"] {
            let app = AppName::new(app)?;
            let definition = Definition {
                command: Some(vec!["true".into()]),
                executor: Some(ExecutorName::new("process")?),
                ..Definition::default()
            };
            writes.push(CatalogWrite::App(app.clone(), Default::default()));
            writes.push(CatalogWrite::Job(
                app,
                JobName::new("mail")?,
                serde_json::Map::new(),
                Arc::new(definition),
            ));
        }
        store.change_catalog(0, writes, "test").await?;
        let all = Arc::new(Faults::default());
        faults(&all);
        let mut config = SchedulerConfig::default();
        config.patience = Duration::from_millis(300);
        config.prune_every = Duration::from_millis(100);
        config.default_lost_after = Duration::ZERO;
        let faulty = FaultyStore {
            store: Arc::new(store.clone()),
            faults: Arc::clone(&all),
            deaf: false,
        };
        let broker = FaultyQueue {
            queue: queue.clone(),
            faults: Arc::clone(&all),
        };
        let stop = CancellationToken::new();
        let scheduler = Scheduler::new(Arc::new(faulty), Arc::new(broker), Arc::new(logs), config);
        tokio::spawn(scheduler.run(stop.clone()));
        Ok(Self {
            store,
            queue,
            clock,
            faults: all,
            stop,
            _folder: folder,
        })
    }

    async fn enqueue(&self, app: &str, when: When) -> Result<JobId> {
        let job = NewJob {
            id: JobId::new(),
            app: AppName::new(app)?,
            job: JobName::new("mail")?,
            line: line(app)?,
            queue_chosen: false,
            payload: Payload::null(),
            labels: BTreeMap::new(),
            env: BTreeMap::new(),
            priority: 0,
            when,
            expires_in: None,
            key: None,
            max_attempts: 1,
            definition: None,
            traceparent: None,
        };
        let request = Enqueue {
            jobs: vec![job],
            atomic: false,
        };
        Ok(self.store.enqueue(request).await?.remove(0)?.job.id)
    }

    /// Waits until a job's reference is out in its line.
    async fn goes_out(&self, app: &str, job: JobId) -> Result<()> {
        let lines = vec![(line(app)?, 1)];
        case::until("its reference is out", STATE, || async {
            let request = Receive {
                lines: lines.clone(),
                max: 100,
                wait: Duration::from_millis(50),
            };
            let got = self.queue.receive(request).await?;
            let found = got
                .iter()
                .any(|delivery| Reference::decode(&delivery.message.body).is_some_and(|r| r.job == job));
            Ok(found.then_some(()))
        })
        .await
    }

    /// Jobs go out into a line, one after another, for ever; each makes room for the next.
    async fn keep_going_out(&self, app: &str) -> Result<()> {
        loop {
            let job = self.enqueue(app, When::Now).await?;
            self.goes_out(app, job).await?;
            let by = "test".to_owned();
            self.store.cancel(Cancel { job, by }).await?;
        }
    }

    async fn worker(&self) -> Result<IncarnationId> {
        let incarnation = IncarnationId::new();
        let own = WorkerExecutor { realm: None, slots: 4 };
        let request = Register {
            incarnation,
            host: "test".into(),
            pid: 1,
            executors: [(ExecutorName::new("process")?, own)].into(),
            format: robata_core::Format::OWN,
        };
        self.store.register(request).await?;
        Ok(incarnation)
    }
}

/// Every way in which the calls of the way out can fail for a while.
fn way_out(faults: &Faults, fault: Fault) {
    for call in [
        "store.due",
        "store.workers",
        "store.lines",
        "store.references",
        "store.published",
        "broker_key",
        "publish",
    ] {
        faults.fail(call, fault, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_panics_what_is_due_goes_out() -> Result<()> {
    let rig = Rig::new(|faults| way_out(faults, Fault::Panic)).await?;
    let job = rig.enqueue("shop", When::In(Duration::from_millis(100))).await?;
    rig.goes_out("shop", job).await?;
    for call in ["store.due", "store.lines", "store.references", "publish"] {
        ensure!(rig.faults.calls(call) > 2, "{call} was not tried again");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_errors_what_is_due_goes_out() -> Result<()> {
    for kind in [ErrorKind::Unavailable, ErrorKind::Internal] {
        let rig = Rig::new(|faults| way_out(faults, Fault::Refuse(kind))).await?;
        let job = rig.enqueue("shop", When::In(Duration::from_millis(100))).await?;
        rig.goes_out("shop", job).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_never_answered_holds_no_loop() -> Result<()> {
    let mut gates = Vec::new();
    let rig = Rig::new(|faults| {
        for call in [
            "store.due",
            "store.workers",
            "store.lines",
            "store.references",
            "store.published",
            "broker_key",
            "publish",
        ] {
            // The first call of each hangs until the test is over.
            gates.push(faults.hold_first(call, Moment::Begin, 1));
        }
    })
    .await?;
    let job = rig.enqueue("shop", When::In(Duration::from_millis(100))).await?;
    rig.goes_out("shop", job).await?;
    // What is published is received before it is noted.
    case::until("each of them has hung once", STATE, || async {
        Ok(gates.iter().all(|gate| gate.reached() == 1).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_serve_for_a_while_is_asked_with_back_off() -> Result<()> {
    let rig = Rig::new(|faults| {
        for call in ["store.due", "store.workers"] {
            faults.fail(call, Fault::Refuse(ErrorKind::Unavailable), usize::MAX);
        }
    })
    .await?;
    // Hints do not make it come sooner.
    for _ in 0..50 {
        rig.enqueue("shop", When::In(Duration::from_millis(1))).await?;
    }
    case::until("it tries again", STATE, || async {
        Ok((rig.faults.calls("store.due") >= 5 && rig.faults.calls("store.workers") >= 5).then_some(()))
    })
    .await?;
    // 100, 200, 400, 800 ms and more lie between them, a quarter more or less.
    for call in ["store.due", "store.workers"] {
        ensure!(
            rig.faults.calls(call) < 10,
            "{call} was called {} times",
            rig.faults.calls(call)
        );
        rig.faults.heal(call);
    }
    let job = rig.enqueue("shop", When::Now).await?;
    rig.goes_out("shop", job).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lines_fault_is_no_other_lines() -> Result<()> {
    for fault in [Fault::Panic, Fault::Refuse(ErrorKind::Unavailable)] {
        // `bank` comes before `shop`.
        let rig = Rig::new(|faults| faults.fail("publish.bank", fault, usize::MAX)).await?;
        let stuck = rig.enqueue("bank", When::Now).await?;
        for _ in 0..3 {
            let job = rig.enqueue("shop", When::Now).await?;
            rig.goes_out("shop", job).await?;
        }
        ensure!(rig.faults.calls("publish.bank") > 0);
        rig.faults.heal("publish.bank");
        rig.goes_out("bank", stuck).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_hangs_is_tried_ever_more_rarely_while_others_go_out() -> Result<()> {
    let mut gate = None;
    let rig = Rig::new(|faults| gate = Some(faults.hold("publish.bank", Moment::Begin))).await?;
    let gate = gate.context("set above")?;
    let stuck = rig.enqueue("bank", When::Now).await?;
    let tries = async {
        let mut tried = Vec::new();
        for times in 1..=3 {
            let again = case::until("it is tried again", STATE, || async {
                Ok((gate.reached() >= times).then(Instant::now))
            });
            tried.push(again.await?);
        }
        Ok::<_, anyhow::Error>(tried)
    };
    let tried = tokio::select! {
        ended = rig.keep_going_out("shop") => anyhow::bail!("the others do not go out: {ended:?}"),
        tried = tries => tried?,
    };
    // It rested for two seconds after the first try, and for four after the second, a quarter more or less; a sweep comes
    // sooner.
    let rest = tried[2] - tried[1];
    ensure!(rest >= Duration::from_secs(3), "it was tried again after {rest:?}");
    gate.open();
    rig.goes_out("bank", stuck).await
}

/// Expired leases end though the first judgements fail so.
async fn leases_end(faults: impl FnOnce(&Faults)) -> Result<()> {
    let rig = Rig::new(faults).await?;
    rig.worker().await?;
    let mut judged = 0;
    case::until("the lease ends", STATE, || {
        // Time passes for the store as it does while masters write their marks.
        let calls = rig.faults.calls("store.judge");
        if calls > judged {
            judged = calls;
            // With the two real seconds between marks well below half a lease: a gap would begin the judgement anew.
            rig.clock.advance(Duration::from_secs(1));
        }
        async {
            let workers = rig.store.workers().await?;
            Ok(workers.iter().all(|worker| worker.ended_at.is_some()).then_some(()))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_judged_after_a_panic() -> Result<()> {
    leases_end(|faults| faults.fail("store.judge", Fault::Panic, 1)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_judged_after_a_call_that_hung() -> Result<()> {
    let mut gate = None;
    leases_end(|faults| gate = Some(faults.hold_first("store.judge", Moment::Begin, 1))).await?;
    ensure!(gate.context("set above")?.reached() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_came_for_is_lost_after_panics_and_hangs() -> Result<()> {
    let mut gate = None;
    let rig = Rig::new(|faults| {
        faults.fail("store.settle_lost", Fault::Panic, 1);
        gate = Some(faults.hold_first("store.settle_lost", Moment::End, 1));
    })
    .await?;
    let worker = rig.worker().await?;
    let job = rig.enqueue("shop", When::Now).await?;
    let claim = Claim {
        claim: ClaimId::new(),
        incarnation: worker,
        references: vec![(line("shop")?, Reference { job, attempt: 1 })],
    };
    let claimed = rig.store.claim(claim).await?.pop();
    let Some(Claimed::Held(held)) = claimed else {
        anyhow::bail!("{claimed:?}");
    };
    rig.store.release(worker).await?;
    case::until("it is lost", STATE, || async {
        let attempt = rig.store.attempt(held.id).await?;
        Ok((attempt.state == AttemptState::Lost).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_past_its_retention_is_removed_after_panics_and_errors() -> Result<()> {
    let rig = Rig::new(|faults| {
        faults.fail("store.prune", Fault::Panic, 2);
        faults.fail("store.prune", Fault::Refuse(ErrorKind::Unavailable), 2);
    })
    .await?;
    let job = rig.enqueue("shop", When::Now).await?;
    let by = "test".to_owned();
    rig.store.cancel(Cancel { job, by }).await?;
    rig.clock.advance(Duration::from_secs(86_400 * 365));
    case::until("it is removed", STATE, || async {
        let found = rig.store.job(job).await;
        Ok(found
            .is_err_and(|error| error.kind() == ErrorKind::NotFound)
            .then_some(()))
    })
    .await
}

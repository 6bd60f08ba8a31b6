//! Whole jobs in the broker are taken in once the store serves, each once; what cannot be is set aside, and nothing is held
//! while the store is away (PROTOCOL I1).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use robata_core::{
    ErrorKind, Format, JobId, Payload,
    accept::{AcceptStore as _, WholeJob},
    definition::{CatalogWrite, Definition},
    job::{Enqueue, Key, Line, NewJob, Reference, When},
    queue::{Depth, Message, Queue as _, Receive},
    store::{AttemptStore as _, CatalogStore as _, JobStore as _, SetAsideRecord},
};
use robata_logs::{Logs, LogsConfig};
use robata_queue_memory::{MemoryConfig, MemoryQueue};
use robata_scheduler::{Scheduler, SchedulerConfig};
use robata_store_sqlite::{SqliteConfig, SqliteStore};
use robata_testkit::{
    case,
    engine::{Fault, Faults},
    faulty_queue::FaultyQueue,
    faulty_store::FaultyStore,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

struct Rig {
    store: SqliteStore,
    queue: MemoryQueue,
    faults: Arc<Faults>,
    _scheduler: AbortOnDropHandle<()>,
    _folder: tempfile::TempDir,
}

fn line() -> Line {
    Line {
        queue: "shop".parse().unwrap(),
        executor: "process".parse().unwrap(),
    }
}

fn whole(key: Option<(&str, u8)>) -> WholeJob {
    WholeJob {
        job: NewJob {
            id: JobId::new(),
            app: "shop".parse().unwrap(),
            job: "mail".parse().unwrap(),
            line: line(),
            queue_chosen: false,
            payload: Payload::from_stored(Bytes::from_static(b"{\"a\": 1}")),
            labels: BTreeMap::new(),
            env: BTreeMap::new(),
            priority: 0,
            when: When::Now,
            expires_in: None,
            key: key.map(|(key, request)| Key {
                key: key.to_owned(),
                request: [request; 32],
            }),
            max_attempts: 1,
            definition: None,
            traceparent: None,
        },
        definition_version: Some(1),
        by: "test".to_owned(),
    }
}

fn message(body: impl Into<Bytes>) -> Message {
    Message {
        body: body.into(),
        ..Message::default()
    }
}

impl Rig {
    /// A scheduler whose calls get these faults, with these messages in the line `accept` from the beginning.
    async fn new(faults: impl FnOnce(&Faults), messages: Vec<Message>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let store = SqliteStore::open(SqliteConfig::new(folder.path().join("store"))).await?;
        let definition = Definition {
            command: Some(vec!["true".into()]),
            executor: Some("process".parse()?),
            ..Definition::default()
        };
        let writes = vec![
            CatalogWrite::App("shop".parse()?, Default::default()),
            CatalogWrite::Job(
                "shop".parse()?,
                "mail".parse()?,
                Default::default(),
                Arc::new(definition),
            ),
        ];
        store.change_catalog(0, writes, "test").await?;
        let logs = Logs::folder(folder.path().join("logs"), LogsConfig::default())?;
        let queue = MemoryQueue::new(MemoryConfig::default());
        queue.publish(&Line::accept(), messages).await?;
        let all = Arc::new(Faults::default());
        faults(&all);
        let faulty = FaultyStore {
            store: Arc::new(store.clone()),
            faults: Arc::clone(&all),
            deaf: false,
        };
        let broker = FaultyQueue {
            queue: Arc::new(queue.clone()),
            faults: Arc::clone(&all),
            whole_jobs: AtomicBool::new(true),
            takes: AtomicUsize::new(usize::MAX),
        };
        let mut config = SchedulerConfig::default();
        config.patience = Duration::from_millis(500);
        let scheduler = Scheduler::new(Arc::new(faulty), Arc::new(broker), Arc::new(logs), config);
        let running = tokio::spawn(scheduler.run(CancellationToken::new()));
        Ok(Self {
            store,
            queue,
            faults: all,
            _scheduler: AbortOnDropHandle::new(running),
            _folder: folder,
        })
    }

    async fn depth(&self) -> Result<Depth> {
        Ok(self.queue.depth(&Line::accept()).await?)
    }

    /// Waits until nothing is in the line, nor in anybody's hands.
    async fn is_read_to_its_end(&self) -> Result<()> {
        case::until("the line is empty", LONG, || async {
            let depth = self.depth().await?;
            Ok((depth.waiting + depth.unacknowledged == 0).then_some(()))
        })
        .await
    }

    async fn is_there(&self, id: JobId) -> bool {
        self.store.job(id).await.is_ok()
    }

    async fn set_aside(&self) -> Result<Vec<SetAsideRecord>> {
        Ok(self.store.set_aside_list(None, 100).await?)
    }
}

#[tokio::test]
async fn whole_jobs_are_taken_in_and_go_out_like_any_other() -> Result<()> {
    let jobs: Vec<_> = (0..600).map(|_| whole(None)).collect();
    // Each comes twice.
    let messages = jobs
        .iter()
        .chain(&jobs)
        .map(|job| message(job.encode(Format::OWN)))
        .collect();
    let rig = Rig::new(|_| (), messages).await?;
    rig.is_read_to_its_end().await?;
    let counts = rig.store.queue_counts().await?;
    assert_eq!(counts.iter().map(|line| line.queued).sum::<u64>(), 600);
    let detail = rig.store.job(jobs[7].job.id).await?;
    assert_eq!(&detail.payload.bytes()[..], b"{\"a\": 1}");
    let out = case::until("references are out", LONG, || async {
        let request = Receive {
            lines: vec![(line(), 1)],
            max: 10,
            wait: Duration::from_millis(50),
        };
        let got = rig.queue.receive(request).await?;
        Ok((!got.is_empty()).then_some(got))
    })
    .await?;
    let reference = Reference::decode(&out[0].message.body).unwrap();
    assert!(jobs.iter().any(|whole| whole.job.id == reference.job));
    Ok(())
}

#[tokio::test]
async fn while_the_store_is_away_nothing_is_held_and_nothing_lost() -> Result<()> {
    let jobs: Vec<_> = (0..20).map(|_| whole(None)).collect();
    let messages = jobs.iter().map(|job| message(job.encode(Format::OWN))).collect();
    let away = Fault::Refuse(ErrorKind::Unavailable);
    let rig = Rig::new(
        |faults| {
            faults.fail("store.take_in", away, usize::MAX);
            faults.fail("store.check", away, usize::MAX);
        },
        messages,
    )
    .await?;
    case::until("the store was looked for in vain", LONG, || async {
        Ok((rig.faults.calls("store.check") >= 3).then_some(()))
    })
    .await?;
    let depth = rig.depth().await?;
    assert_eq!((depth.waiting, depth.unacknowledged), (20, 0));
    // It is looked for, not tried with jobs.
    assert_eq!(rig.faults.calls("store.take_in"), 1);
    rig.faults.heal("store.take_in");
    rig.faults.heal("store.check");
    rig.is_read_to_its_end().await?;
    for job in jobs {
        assert!(rig.is_there(job.job.id).await);
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_was_lost_makes_no_second_job() -> Result<()> {
    let jobs: Vec<_> = (0..20).map(|_| whole(None)).collect();
    let messages = jobs.iter().map(|job| message(job.encode(Format::OWN))).collect();
    let lose = |faults: &Faults| {
        faults.fail("store.take_in", Fault::LoseAnswer, 1);
        faults.fail("queue.acknowledge", Fault::Refuse(ErrorKind::Unavailable), 1);
    };
    let rig = Rig::new(lose, messages).await?;
    case::until("all are there", LONG, || async {
        let counts = rig.store.queue_counts().await?;
        Ok(
            (counts.iter().map(|line| line.queued).sum::<u64>() == 20 && rig.faults.calls("store.take_in") > 1)
                .then_some(()),
        )
    })
    .await?;
    assert!(rig.set_aside().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_taken_in_is_set_aside_with_its_reason_and_holds_up_nothing() -> Result<()> {
    let (taken, other, good) = (whole(Some(("k", 1))), whole(Some(("k", 2))), whole(None));
    let same = whole(Some(("k", 1)));
    let rig = Rig::new(|_| (), Vec::new()).await?;
    let jobs = vec![taken.job.clone()];
    rig.store.enqueue(Enqueue { jobs, atomic: false }).await?.remove(0)?;
    let messages = [&b"nonsense"[..], b""].map(message);
    let messages = messages
        .into_iter()
        .chain([&other, &same, &good].map(|job| message(job.encode(Format::OWN))));
    rig.queue.publish(&Line::accept(), messages.collect()).await?;
    rig.is_read_to_its_end().await?;
    assert!(rig.is_there(good.job.id).await && !rig.is_there(other.job.id).await);
    assert_eq!(rig.store.job(same.job.id).await?.job.id, taken.job.id);
    let aside = rig.set_aside().await?;
    assert_eq!(aside.len(), 3, "{aside:?}");
    assert!(aside.iter().all(|record| record.message.source == ".accept/.masters"));
    let refused = aside
        .iter()
        .find(|record| record.message.body == other.encode(Format::OWN))
        .unwrap();
    for word in [&other.job.id.to_string(), "shop/mail", "by test", "different request"] {
        assert!(
            refused.message.reason.contains(word),
            "{word} is not in {}",
            refused.message.reason
        );
    }
    Ok(())
}

#[tokio::test]
async fn of_a_group_that_fails_for_one_only_that_one_is_set_aside() -> Result<()> {
    let jobs: Vec<_> = (0..4).map(|_| whole(None)).collect();
    let messages = jobs.iter().map(|job| message(job.encode(Format::OWN))).collect();
    // The four, the first two, the first one.
    let bad = |faults: &Faults| faults.fail("store.take_in", Fault::Refuse(ErrorKind::Internal), 3);
    let rig = Rig::new(bad, messages).await?;
    rig.is_read_to_its_end().await?;
    assert!(!rig.is_there(jobs[0].job.id).await);
    for job in &jobs[1..] {
        assert!(rig.is_there(job.job.id).await);
    }
    let aside = rig.set_aside().await?;
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(aside[0].message.body, jobs[0].encode(Format::OWN));
    Ok(())
}

#[tokio::test]
async fn an_outage_is_over_once_the_line_was_read_to_its_end_and_not_before() -> Result<()> {
    let job = whole(None);
    let mut later = job.encode(Format::OWN).to_vec();
    later[0] = 2;
    // A later release's, which this one leaves alone.
    let rig = Rig::new(|_| (), vec![message(later.clone()), message(job.encode(Format::OWN))]).await?;
    case::until("the job is there", LONG, || async {
        Ok(rig.is_there(job.job.id).await.then_some(()))
    })
    .await?;
    assert!(rig.set_aside().await?.is_empty());
    let beside = job.job.id;
    assert!(rig.store.may_come(beside).await?);
    // Its release's master takes it.
    case::until("it is left for others", LONG, || async {
        let request = Receive {
            lines: vec![(Line::accept(), 1)],
            max: 1,
            wait: Duration::from_millis(100),
        };
        let got = rig.queue.receive(request).await?;
        rig.queue.acknowledge(&got).await?;
        Ok(got.iter().any(|got| got.message.body == later).then_some(()))
    })
    .await?;
    case::until("the outage is over", LONG, || async {
        Ok(rig.store.outages().await?.is_empty().then_some(()))
    })
    .await
}

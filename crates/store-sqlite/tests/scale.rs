//! Flat with size: no statement that the store runs walks over jobs or attempts that it does not want. Asked of SQLite
//! itself, for every statement that really ran, not of a clock: a busy machine fails no test.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use robata_core::{
    ClaimId, IncarnationId, JobId, JobState, Payload, Reason,
    attempt::{AttemptChange, AttemptWrite, Claim, Claimed, HeldAttempt, LogSummary},
    definition::Document,
    executor::RealmId,
    finish::{End, Outcome},
    job::{Cancel, Enqueue, JobRecord, Key, Line, NewJob, Reference, RetryByHand, When},
    queue::BrokerKey,
    store::{
        Adopt, AttemptStore as _, CatalogStore as _, JobStore as _, ListJobs, Published, Register, ScheduleStore as _,
        Void, Window, WorkerExecutor,
    },
};
use robata_store_sqlite::{SqliteConfig, SqliteStore};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _, sqlite::SqliteConnectOptions};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Hears every statement that runs.
#[derive(Clone, Debug, Default)]
struct Statements(Arc<Mutex<BTreeSet<String>>>);

#[derive(Default)]
struct Text {
    summary: String,
    whole: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => self.summary = value.to_owned(),
            "db.statement" => self.whole = value.trim().to_owned(),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

impl Subscriber for Statements {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        // Short ones are their own summary.
        let statement = if text.whole.is_empty() {
            text.summary
        } else {
            text.whole
        };
        self.0
            .lock()
            .expect("no test panics while it holds this")
            .insert(statement);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn line() -> Result<Line> {
    Ok(Line {
        queue: "shop".parse()?,
        executor: "process".parse()?,
    })
}

fn job(key: Option<&str>) -> Result<NewJob> {
    Ok(NewJob {
        id: JobId::new(),
        app: "shop".parse()?,
        job: "mail".parse()?,
        line: line()?,
        queue_chosen: false,
        payload: Payload::null(),
        labels: [("tenant".to_owned(), "a".to_owned())].into(),
        env: Default::default(),
        priority: 0,
        when: When::Now,
        expires_in: Some(Duration::from_secs(3_600)),
        key: key.map(|key| Key {
            key: key.to_owned(),
            request: [0; 32],
        }),
        max_attempts: 1,
        definition: None,
        traceparent: None,
    })
}

async fn enqueue(store: &SqliteStore, jobs: Vec<NewJob>) -> Result<Vec<JobRecord>> {
    let answers = store.enqueue(Enqueue { jobs, atomic: false }).await?;
    answers.into_iter().map(|answer| Ok(answer?.job)).collect()
}

async fn apply(store: &SqliteStore, document: serde_json::Value) -> Result<()> {
    let document = Document::read(&document).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    let catalog = store.catalog().await?;
    let plan = catalog
        .plan(&document, false, &[])
        .map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    store.change_catalog(catalog.revision, plan.writes, "test").await?;
    Ok(())
}

async fn worker(store: &SqliteStore) -> Result<IncarnationId> {
    let incarnation = IncarnationId::new();
    let own = WorkerExecutor {
        realm: Some(RealmId("here".into())),
        slots: 8,
    };
    let request = Register {
        incarnation,
        host: "h".into(),
        pid: 1,
        executors: [("process".parse()?, own)].into(),
        format: robata_core::Format::OWN,
    };
    store.register(request).await?;
    Ok(incarnation)
}

async fn claim(store: &SqliteStore, incarnation: IncarnationId, next: Vec<Reference>) -> Result<Vec<HeldAttempt>> {
    let claim = Claim {
        claim: ClaimId::new(),
        incarnation,
        references: next
            .into_iter()
            .map(|next| Ok((line()?, next)))
            .collect::<Result<_>>()?,
    };
    let number = claim.claim;
    let claimed = store.claim(claim).await?;
    store.claimed(incarnation, number).await?;
    let held = claimed.into_iter().filter_map(|claimed| match claimed {
        Claimed::Held(held) => Some(*held),
        _ => None,
    });
    Ok(held.collect())
}

async fn write(store: &SqliteStore, by: IncarnationId, held: &HeldAttempt, change: AttemptChange) -> Result<()> {
    let write = AttemptWrite {
        attempt: held.id,
        epoch: held.epoch,
        incarnation: by,
        change,
    };
    store.record(vec![write]).await?.pop().context("no answer")??;
    Ok(())
}

/// Everything that is done often, and every kind of list.
async fn everything(store: &SqliteStore) -> Result<()> {
    apply(
        store,
        serde_json::json!({"queues": {"shop": {"max_running": 50}},
            "apps": {"shop": {"command": ["true"], "executor": "process", "max_running": 60, "jobs": {"mail": {"max_running": 70}}}}}),
    )
    .await?;
    let gone = worker(store).await?;
    let keyed = (0..20)
        .map(|n| job(Some(&format!("key {n}"))))
        .collect::<Result<Vec<_>>>()?;
    let jobs = enqueue(store, keyed.clone()).await?;
    enqueue(store, keyed).await?;
    let by = || "test".to_owned();
    let window = || {
        Ok::<_, anyhow::Error>(Window {
            line: line()?,
            size: 10,
        })
    };
    let next = store.references(window()?).await?;
    ensure!(next.len() == 10, "{next:?}");
    let published = Published {
        line: line()?,
        broker_key: BrokerKey("b".into()),
        references: next.clone(),
        format: robata_core::Format::PREVIOUS,
    };
    store.published(published).await?;
    store.void(&line()?, Void::OtherKey(BrokerKey("c".into()))).await?;
    let (age, max) = (Duration::from_secs(60), 10);
    store.void(&line()?, Void::OlderThan { age, max }).await?;
    let held = claim(store, gone, next).await?;
    ensure!(held.len() == 10, "{held:?}");
    write(
        store,
        gone,
        &held[0],
        AttemptChange::Ended(Outcome::new(End::Exited(1))),
    )
    .await?;
    write(store, gone, &held[0], AttemptChange::Finalised(LogSummary::default())).await?;
    store
        .cancel(Cancel {
            job: held[1].id.job,
            by: by(),
        })
        .await?;
    store
        .cancel(Cancel {
            job: jobs[15].id,
            by: by(),
        })
        .await?;
    store
        .retry(RetryByHand {
            job: held[0].id.job,
            by: by(),
        })
        .await?;
    store.follow(held[2].id, age).await?;
    store.heartbeat(gone).await?;
    store.held(gone).await?;
    store.known(&[held[0].id]).await?;
    store.job(jobs[0].id).await?;
    store.pause(&"shop".parse()?, Some("test"), "test").await?;
    store.pause(&"shop".parse()?, None, "test").await?;
    store.release(gone).await?;
    let heir = worker(store).await?;
    for only in [None, Some(vec![held[3].id])] {
        let adopt = Adopt {
            incarnation: heir,
            realms: [("process".parse()?, RealmId("here".into()))].into(),
            only,
            max: 5,
            format: robata_core::Format::OWN,
        };
        store.adopt(adopt).await?;
    }
    store.judge(robata_testkit::store::mark()).await?;
    store.settle_lost(&Default::default(), Duration::ZERO).await?;
    store.lose(&RealmId("gone".into()), "test").await?;
    store.due(10).await?;
    store.lines().await?;
    store.workers().await?;
    store.queue_counts().await?;
    store.prune(10).await?;
    lists(store, &jobs).await
}

/// Every pair of filters that the API lets people name, but a label.
async fn lists(store: &SqliteStore, jobs: &[JobRecord]) -> Result<()> {
    for bits in 0..64_u32 {
        let mut list = ListJobs::default();
        list.limit = 50;
        list.app = (bits & 1 != 0).then(|| "shop".parse()).transpose()?;
        list.job = (bits & 2 != 0).then(|| "mail".parse()).transpose()?;
        list.queue = (bits & 4 != 0).then(|| "shop".parse()).transpose()?;
        list.reason = (bits & 8 != 0).then_some(Reason::ExitCode);
        list.states = if bits & 16 != 0 {
            vec![JobState::Failed]
        } else {
            Vec::new()
        };
        if bits & 32 != 0 {
            list.since = Some(jobs[3].created_at);
            list.until = Some(jobs[9].created_at);
            list.after = Some(jobs[9].id);
        }
        store.jobs(list).await?;
    }
    let mut list = ListJobs::default();
    list.limit = 50;
    list.labels = vec![("tenant".into(), "a".into()), ("tenant".into(), "b".into())];
    store.jobs(list).await?;
    Ok(())
}

/// Walks over a whole index that is as short as what is out, open or paused, never as long as what waits or has ended.
const SHORT: [&str; 4] = ["jobs_out", "attempts_open", "attempts_in_realm", "workers_live"];

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_walks_over_what_it_does_not_want() -> Result<()> {
    let statements = Statements::default();
    tracing::subscriber::set_global_default(statements.clone())?;
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(SqliteConfig::new(folder.path())).await?;
    // What opening does once is another matter.
    statements.0.lock().unwrap().clear();
    everything(&store).await?;
    let ran = std::mem::take(&mut *statements.0.lock().unwrap());
    let mut shell = SqliteConnectOptions::new()
        .filename(folder.path().join("robata.db"))
        .connect()
        .await?;
    let (mut asked, mut walks) = (0, Vec::new());
    for statement in &ran {
        let word = statement.split_whitespace().next().unwrap_or_default();
        if !["SELECT", "INSERT", "UPDATE", "DELETE"].contains(&word) {
            continue;
        }
        asked += 1;
        let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")))
            .fetch_all(&mut shell)
            .await
            .with_context(|| statement.clone())?;
        for step in plan {
            let step: String = step.try_get("detail")?;
            let large = [
                "jobs", "attempts", "labels", "keys", "job_data", "j", "a", "d", "l", "m", "k",
            ];
            let mut words = step.split_whitespace();
            let walks_over = words.next() == Some("SCAN") && words.next().is_some_and(|table| large.contains(&table));
            if walks_over && !SHORT.iter().any(|index| step.contains(index)) {
                walks.push(format!("{step}: {statement}"));
            }
        }
    }
    println!("{asked} statements");
    ensure!(asked > 60, "only {asked} statements were heard");
    ensure!(walks.is_empty(), "{}", walks.join("\n\n"));
    store.close().await;
    Ok(())
}

//! Several stores on one database: what each sees of the others; a store restored from a backup; no statement of the hot path
//! that reads a whole table.

#[path = "support/jobs.rs"]
mod jobs;
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use jobs::{claim, define, ended, enqueue, finalised, job, line, one, worker};
use robata_core::{
    ErrorKind, JobState,
    attempt::{Claimed, HeldAttempt, Knowledge},
    executor::RealmId,
    job::{Cancel, NewJob, When},
    queue::BrokerKey,
    store::{
        Adopt, AttemptStore as _, CatalogStore as _, Hint, JobStore as _, LEASE, ListJobs, MARK, Published,
        ScheduleStore as _, Window,
    },
};
use robata_store_postgres::{Listen, PostgresConfig, PostgresStore};
use robata_testkit::case::until;
use sqlx::Row as _;
use support::{Database, config, connect, run};

async fn open(database: &Database, listen: Listen) -> Result<PostgresStore> {
    let mut config = PostgresConfig::new(database.url.clone());
    config.connections = 4;
    config.listen = listen;
    Ok(PostgresStore::connect(config).await?)
}

async fn held(store: &PostgresStore, request: robata_core::attempt::Claim) -> Result<Vec<HeldAttempt>> {
    Ok(store
        .claim(request)
        .await?
        .into_iter()
        .filter_map(|claimed| match claimed {
            Claimed::Held(held) => Some(*held),
            _ => None,
        })
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_and_the_catalog_reach_the_other_store() -> Result<()> {
    let database = Database::migrated().await?;
    let (here, there) = (
        open(&database, Listen::Same).await?,
        open(&database, Listen::Same).await?,
    );
    let mut hints = robata_core::store::Store::hints(&there);
    define(&here).await?;
    ensure!(there.catalog().await?.revision == 1, "the other store's catalog is old");
    let seen = async {
        // Sent until the other listens: hints before that are lost, as they may be.
        loop {
            one(&here, job()?).await?;
            let heard = tokio::time::timeout(Duration::from_millis(200), async {
                while let Some(hint) = hints.next().await {
                    if matches!(hint, Hint::Line(_)) {
                        return true;
                    }
                }
                false
            });
            if heard.await == Ok(true) {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), seen)
        .await
        .context("no hint came over")??;
    // What is told while nobody listens is lost: then that is told.
    let mut conn = connect(&database.url).await?;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    run(&mut conn, cut.to_owned()).await?;
    let gap = hints.any(|hint| async move { hint == Hint::Gap });
    let told = tokio::time::timeout(Duration::from_secs(20), gap).await;
    ensure!(told.context("no gap was told")?, "the hints ended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_masters_send_each_reference_out_once() -> Result<()> {
    let database = Database::migrated().await?;
    let (one, two) = (open(&database, Listen::Off).await?, open(&database, Listen::Off).await?);
    define(&one).await?;
    enqueue(&one, jobs::jobs(400)?).await?;
    let window = || {
        Ok::<_, anyhow::Error>(Window {
            line: line()?,
            size: 50,
        })
    };
    let mut all = Vec::new();
    for _ in 0..4 {
        let (first, second) = tokio::join!(one.references(window()?), two.references(window()?));
        for (store, references) in [(&one, first?), (&two, second?)] {
            all.extend(references.iter().map(|reference| reference.job));
            let published = Published {
                line: line()?,
                broker_key: BrokerKey("b".into()),
                references,
                format: robata_core::Format::PREVIOUS,
            };
            store.published(published).await?;
            // Claimed at once elsewhere, so that the window is free again.
        }
        let worker = worker(&one).await?;
        let mut page = ListJobs::default();
        page.limit = 500;
        let out: Vec<_> = one
            .jobs(page)
            .await?
            .into_iter()
            .filter(|job| all.contains(&job.id) && job.state == JobState::Queued)
            .collect();
        held(&two, claim(worker, &out)).await?;
    }
    let once: BTreeSet<_> = all.iter().collect();
    ensure!(once.len() == all.len(), "{} went out {} times", once.len(), all.len());
    ensure!(all.len() >= 200, "only {} went out", all.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_side_by_side_keep_the_counts() -> Result<()> {
    let database = Database::migrated().await?;
    let stores = [open(&database, Listen::Off).await?, open(&database, Listen::Off).await?];
    define(&stores[0]).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let store = stores[n % 2].clone();
        tasks.spawn(async move {
            let incarnation = worker(&store).await?;
            for _ in 0..15 {
                let stored: Vec<_> = enqueue(&store, jobs::jobs(6)?)
                    .await?
                    .into_iter()
                    .map(|new| new.job)
                    .collect();
                store
                    .cancel(Cancel {
                        job: stored[0].id,
                        by: "test".into(),
                    })
                    .await?;
                let held = held(&store, claim(incarnation, &stored[..4])).await?;
                ensure!(held.len() == 3, "{} held", held.len());
                for answer in store.record(vec![ended(incarnation, &held[0])]).await? {
                    answer?;
                }
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    for store in &stores {
        let counts = store.queue_counts().await?;
        ensure!(
            counts.len() == 1 && (counts[0].queued, counts[0].running) == (240, 240),
            "{counts:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_restored_from_an_hour_ago_kills_and_adopts_nothing_that_it_does_not_know() -> Result<()> {
    let database = Database::migrated().await?;
    let clock = Arc::new(AtomicI64::new(0));
    let store = PostgresStore::connect(config(&database.url, &clock)).await?;
    define(&store).await?;
    let old = worker(&store).await?;
    let stored: Vec<_> = enqueue(&store, jobs::jobs(2)?)
        .await?
        .into_iter()
        .map(|new| new.job)
        .collect();
    let before = held(&store, claim(old, &stored)).await?;
    ensure!(before.len() == 2);
    store.close().await;
    let backup = database.copied().await?;

    // The hour that the backup does not know: one attempt ended, another began, another worker came.
    let store = PostgresStore::connect(config(&database.url, &clock)).await?;
    for change in [ended, finalised] {
        for answer in store.record(vec![change(old, &before[0])]).await? {
            answer?;
        }
    }
    let young = worker(&store).await?;
    let later = one(&store, job()?).await?.job;
    let unknown = held(&store, claim(young, &[later])).await?;
    ensure!(unknown.len() == 1);
    store.close().await;

    clock.fetch_add(3_600_000, Ordering::SeqCst);
    let store = PostgresStore::connect(config(&backup.url, &clock)).await?;
    // The first thing that masters do: nobody's lease is judged by marks of an hour ago.
    ensure!(
        store.judge(robata_testkit::store::mark()).await?.ended == 0,
        "a lease was ended by an old mark"
    );
    ensure!(
        store
            .settle_lost(&BTreeMap::new(), Duration::from_secs(600))
            .await?
            .is_empty()
    );
    // Who was there before goes on; who came later becomes a new incarnation.
    ensure!(store.heartbeat(old).await?.held == 2);
    let fenced = store.heartbeat(young).await;
    ensure!(
        fenced.as_ref().is_err_and(|error| error.kind() == ErrorKind::Fenced),
        "{fenced:?}"
    );
    let heir = worker(&store).await?;
    let executor: robata_core::ExecutorName = "process".parse()?;
    let adopt = || Adopt {
        incarnation: heir,
        realms: [(executor.clone(), RealmId("here".into()))].into(),
        only: None,
        max: 10,
        format: robata_core::Format::OWN,
    };
    ensure!(
        store.adopt(adopt()).await?.is_empty(),
        "a live worker's attempts were adopted"
    );
    // What only the lost hour knows is unknown, not finalised: it is not removed (PROTOCOL C1).
    ensure!(store.known(&[unknown[0].id, before[0].id]).await? == [Knowledge::Unknown, Knowledge::Open]);
    ensure!(store.prune(100).await?.jobs == 0);
    // Masters go on; the old worker renews: nothing ends.
    for _ in 0..10 {
        clock.fetch_add(i64::try_from(MARK.as_millis())?, Ordering::SeqCst);
        store.heartbeat(old).await?;
        store.heartbeat(heir).await?;
        ensure!(store.judge(robata_testkit::store::mark()).await?.ended == 0);
        ensure!(store.settle_lost(&BTreeMap::new(), LEASE).await?.is_empty());
    }
    for id in [before[0].id, before[1].id] {
        ensure!(store.job(id.job).await?.job.state == JobState::Running);
    }
    Ok(())
}

/// Rows read by scans of whole tables, by table.
async fn scanned(database: &Database) -> Result<BTreeMap<String, i64>> {
    let mut conn = connect(&database.url).await?;
    let rows = sqlx::query("SELECT relname::text, seq_tup_read FROM pg_stat_user_tables WHERE schemaname = 'robata'")
        .fetch_all(&mut conn)
        .await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get::<Option<i64>, _>(1)?.unwrap_or(0))))
        .collect()
}

/// Entries of the outbox's indexes that were read.
async fn walked(database: &Database) -> Result<i64> {
    let mut conn = connect(&database.url).await?;
    let row = sqlx::query(
        "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE schemaname = 'robata' AND relname = 'queued'",
    )
    .fetch_one(&mut conn)
    .await?;
    Ok(row.try_get(0)?)
}

/// Statistics come when a session ends, or a second later.
async fn settled(database: &Database, inserted: i64) -> Result<()> {
    until("the statistics are there", Duration::from_secs(20), async || {
        let mut conn = connect(&database.url).await?;
        let row =
            sqlx::query("SELECT n_tup_ins FROM pg_stat_user_tables WHERE schemaname = 'robata' AND relname = 'jobs'")
                .fetch_one(&mut conn)
                .await?;
        let sessions = sqlx::query(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
             AND backend_type = 'client backend'",
        )
        .fetch_one(&mut conn)
        .await?;
        Ok((row.try_get::<i64, _>(0)? >= inserted && sessions.try_get::<i64, _>(0)? == 0).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_on_the_hot_path_reads_a_whole_table() -> Result<()> {
    const MANY: usize = 20_000;
    let database = Database::migrated().await?;
    let store = open(&database, Listen::Off).await?;
    define(&store).await?;
    let incarnation = worker(&store).await?;
    for part in 0..MANY / 2_000 {
        let mut new = jobs::jobs(2_000)?;
        for (n, job) in new.iter_mut().enumerate() {
            job.labels.insert("n".into(), n.to_string());
            if n % 2 == 0 {
                job.when = When::In(Duration::from_secs(3_600));
                job.expires_in = Some(Duration::from_secs(3_600));
            }
            job.key = Some(robata_core::job::Key {
                key: format!("{part} {n}"),
                request: [1; 32],
            });
        }
        let stored: Vec<_> = enqueue(&store, new).await?.into_iter().map(|new| new.job).collect();
        let some: Vec<_> = stored
            .into_iter()
            .filter(|job| job.state == JobState::Queued)
            .take(500)
            .collect();
        let held = held(&store, claim(incarnation, &some)).await?;
        for change in [ended, finalised] {
            store
                .record(held[100..].iter().map(|held| change(incarnation, held)).collect())
                .await?;
        }
    }
    store.close().await;
    let mut conn = connect(&database.url).await?;
    run(&mut conn, "ANALYZE".into()).await?;
    drop(conn);
    settled(&database, MANY as i64).await?;
    let (before, walked_before) = (scanned(&database).await?, walked(&database).await?);

    let store = open(&database, Listen::Off).await?;
    for round in 1..=5 {
        let new = (0..50)
            .map(|n| {
                Ok(NewJob {
                    labels: [("n".to_owned(), n.to_string())].into(),
                    ..job()?
                })
            })
            .collect::<Result<_>>()?;
        let stored: Vec<_> = enqueue(&store, new).await?.into_iter().map(|new| new.job).collect();
        let window = Window {
            line: line()?,
            size: 40 * round,
        };
        let references = store.references(window).await?;
        ensure!(!references.is_empty());
        let published = Published {
            line: line()?,
            broker_key: BrokerKey("b".into()),
            references,
            format: robata_core::Format::PREVIOUS,
        };
        store.published(published).await?;
        let held = held(&store, claim(incarnation, &stored)).await?;
        ensure!(held.len() == 50);
        for change in [ended, finalised] {
            for answer in store
                .record(held.iter().map(|held| change(incarnation, held)).collect())
                .await?
            {
                answer?;
            }
        }
        store.heartbeat(incarnation).await?;
        store.held(incarnation).await?;
        store.due(100).await?;
        store.judge(robata_testkit::store::mark()).await?;
        store.prune(100).await?;
        store.job(stored[0].id).await?;
        store.settle_lost(&BTreeMap::new(), Duration::from_secs(600)).await?;
        store
            .void(
                &line()?,
                robata_core::store::Void::OlderThan {
                    age: Duration::from_secs(60),
                    max: 100,
                },
            )
            .await?;
        let mut page = ListJobs::default();
        page.limit = 50;
        store.jobs(page.clone()).await?;
        page.app = Some("shop".parse()?);
        page.states = vec![JobState::Running];
        page.after = Some(stored[0].id);
        store.jobs(page.clone()).await?;
        page.labels = vec![("n".into(), "7".into())];
        store.jobs(page).await?;
    }
    store.close().await;
    settled(&database, MANY as i64 + 250).await?;
    let after = scanned(&database).await?;
    for table in [
        "jobs",
        "job_data",
        "queued",
        "attempts",
        "start_requests",
        "labels",
        "keys",
    ] {
        let read = after[table] - before[table];
        ensure!(read == 0, "{table}: {read} rows were read by scans of the whole table");
    }
    // Thousands wait in it; what is asked of it here touches hundreds.
    let walked = walked(&database).await? - walked_before;
    ensure!(walked < 8_000, "{walked} entries of the outbox's indexes were read");
    Ok(())
}

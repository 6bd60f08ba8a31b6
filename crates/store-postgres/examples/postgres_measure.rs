//! Measures a store on a database of its own: the raw limit beside what the store does with the same tables.
//!
//! `cargo run --release -p robata-store-postgres --example postgres_measure -- postgres://USER:PASSWORD@HOST:PORT/EMPTY_DATABASE`

#![expect(clippy::print_stdout, reason = "it prints figures")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use robata_core::{
    ClaimId, IncarnationId, JobId, Payload,
    attempt::{AttemptChange, AttemptWrite, Claim, Claimed, LogSummary},
    definition::Document,
    finish::{End, Outcome},
    job::{Enqueue, Line, NewJob, When},
    queue::BrokerKey,
    store::{
        AttemptStore as _, CatalogStore as _, JobStore as _, Published, Register, ScheduleStore as _, Window,
        WorkerExecutor,
    },
};
use robata_store_postgres::{PostgresConfig, PostgresStore};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::task::JoinSet;

const BATCH: usize = 500;
const PAYLOAD: &str = r#"{"order":1234567,"to":"somebody@example.com"}"#;

fn line() -> Result<Line> {
    Ok(Line {
        queue: "shop".parse()?,
        executor: "process".parse()?,
    })
}

fn jobs(n: usize) -> Result<Vec<NewJob>> {
    (0..n)
        .map(|_| {
            Ok(NewJob {
                id: JobId::new(),
                app: "shop".parse()?,
                job: "mail".parse()?,
                line: line()?,
                queue_chosen: false,
                payload: Payload::from_stored(PAYLOAD.into()),
                labels: Default::default(),
                env: Default::default(),
                priority: 0,
                when: When::Now,
                expires_in: None,
                key: None,
                max_attempts: 1,
                definition: None,
                traceparent: None,
            })
        })
        .collect()
}

fn told(what: &str, n: usize, since: Instant) -> f64 {
    let rate = n as f64 / since.elapsed().as_secs_f64();
    println!("{what:<60} {rate:>9.0} a second");
    rate
}

/// The same rows into the same tables, by hand, in batches from as many connections as the store has.
async fn raw(pool: &PgPool, rounds: usize, tasks: usize) -> Result<()> {
    let mut set = JoinSet::new();
    for _ in 0..tasks {
        let pool = pool.clone();
        set.spawn(async move {
            for _ in 0..rounds {
                let ids: Vec<_> = (0..BATCH).map(|_| JobId::new().uuid()).collect();
                sqlx::query(
                    "WITH v AS MATERIALIZED (SELECT nextval('robata.job_seq') AS seq, id FROM unnest($1::uuid[]) AS v (id)),
                     j AS (INSERT INTO robata.jobs (seq, id, app, job, queue, executor, queue_chosen, one_off, state, rank,
                               max_attempts, created_at, run_at, moved_at)
                           SELECT seq, id, 'raw', 'mail', 'raw', 'process', false, false, 1, 0, 1, 0, 0, 0 FROM v),
                     q AS (INSERT INTO robata.queued (id, seq, queue, executor, rank, app, job, attempt)
                           SELECT id, seq, 'raw', 'process', 0, 'raw', 'mail', 1 FROM v)
                     INSERT INTO robata.job_data (seq, payload) SELECT seq, $2 FROM v",
                )
                .bind(ids)
                .bind(PAYLOAD.as_bytes())
                .execute(&pool)
                .await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = set.join_next().await {
        done??;
    }
    Ok(())
}

async fn batches(store: &PostgresStore, rounds: usize, tasks: usize, batch: usize) -> Result<Vec<Duration>> {
    let mut set = JoinSet::new();
    for _ in 0..tasks {
        let store = store.clone();
        set.spawn(async move {
            let mut times = Vec::with_capacity(rounds);
            for _ in 0..rounds {
                let jobs = jobs(batch)?;
                let begin = Instant::now();
                for answer in store.enqueue(Enqueue { jobs, atomic: false }).await? {
                    answer?;
                }
                times.push(begin.elapsed());
            }
            anyhow::Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = set.join_next().await {
        all.extend(done??);
    }
    all.sort_unstable();
    Ok(all)
}

/// References, published, claimed, ended, finalised: all that is kept of an attempt.
async fn attempts(store: &PostgresStore, workers: usize, each: usize, batch: usize) -> Result<usize> {
    let mut set = JoinSet::new();
    for _ in 0..workers {
        let store = store.clone();
        set.spawn(async move {
            let incarnation = IncarnationId::new();
            let own = WorkerExecutor {
                realm: None,
                slots: 500,
            };
            let register = Register {
                incarnation,
                host: "measure".into(),
                pid: 1,
                executors: [("process".parse()?, own)].into(),
                format: robata_core::Format::OWN,
            };
            store.register(register).await?;
            let mut done = 0;
            while done < each {
                let references = store
                    .references(Window {
                        line: line()?,
                        size: 4 * batch * 4,
                    })
                    .await?;
                if references.is_empty() {
                    break;
                }
                for some in references.chunks(batch) {
                    let published = Published {
                        line: line()?,
                        broker_key: BrokerKey("measure".into()),
                        references: some.to_vec(),
                        format: robata_core::Format::PREVIOUS,
                    };
                    store.published(published).await?;
                    let claim = Claim {
                        claim: ClaimId::new(),
                        incarnation,
                        references: some.iter().map(|one| Ok((line()?, *one))).collect::<Result<_>>()?,
                    };
                    let held: Vec<_> = store
                        .claim(claim)
                        .await?
                        .into_iter()
                        .filter_map(|claimed| match claimed {
                            Claimed::Held(held) => Some(held),
                            _ => None,
                        })
                        .collect();
                    for change in [
                        AttemptChange::Ended(Outcome::new(End::Exited(0))),
                        AttemptChange::Finalised(LogSummary::default()),
                    ] {
                        let writes = held
                            .iter()
                            .map(|held| AttemptWrite {
                                attempt: held.id,
                                epoch: held.epoch,
                                incarnation,
                                change: change.clone(),
                            })
                            .collect();
                        for answer in store.record(writes).await? {
                            answer?;
                        }
                    }
                    done += held.len();
                }
            }
            anyhow::Ok(done)
        });
    }
    let mut all = 0;
    while let Some(done) = set.join_next().await {
        all += done??;
    }
    Ok(all)
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args()
        .nth(1)
        .context("say which database: postgres://USER:PASSWORD@HOST:PORT/DATABASE")?;
    let store = PostgresStore::connect(PostgresConfig::new(url.as_str())).await?;
    let document =
        serde_json::json!({"apps": {"shop": {"command": ["true"], "executor": "process", "jobs": {"mail": {}}}}});
    let document = Document::read(&document).map_err(|problems| anyhow!("{problems:?}"))?;
    let catalog = store.catalog().await?;
    let plan = catalog
        .plan(&document, false, &[])
        .map_err(|problems| anyhow!("{problems:?}"))?;
    store.change_catalog(catalog.revision, plan.writes, "measure").await?;
    let pool = PgPoolOptions::new().max_connections(8).connect(&url).await?;

    raw(&pool, 4, 2).await?;
    batches(&store, 4, 2, BATCH).await?;
    let begin = Instant::now();
    raw(&pool, 30, 4).await?;
    let limit = told("raw: batches of 500 by hand, 4 connections", 30 * 4 * BATCH, begin);
    let begin = Instant::now();
    batches(&store, 30, 4, BATCH).await?;
    let own = told("store: enqueue in batches of 500, 4 tasks", 30 * 4 * BATCH, begin);
    println!("{:<60} {:>8.0} %", "of the raw limit", own / limit * 100.0);
    let begin = Instant::now();
    let times = batches(&store, 300, 64, 1).await?;
    told("store: enqueue singly, 64 tasks", times.len(), begin);
    println!(
        "{:<60} {:>6.1} ms p50, {:.1} ms p99",
        "",
        times[times.len() / 2].as_secs_f64() * 1e3,
        times[times.len() * 99 / 100].as_secs_f64() * 1e3
    );
    for (workers, batch) in [(1, 50), (4, 50), (4, 10)] {
        let begin = Instant::now();
        let n = attempts(&store, workers, 8_000 / workers, batch).await?;
        told(
            &format!("store: published, claimed, ended, finalised; {workers} workers, {batch} at once"),
            n,
            begin,
        );
    }
    pool.close().await;
    store.close().await;
    Ok(())
}

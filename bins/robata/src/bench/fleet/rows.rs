//! The raw limit of a durable enqueue: the same rows into the same tables, by hand.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::bench::{enqueue::PAYLOAD, load, site::Raw};

/// Connections that send them.
pub(super) const CONNECTIONS: u32 = 32;
/// Of these, those that send batches: as many as a master sends over HTTP at once.
const OF_BATCHES: usize = crate::bench::enqueue::BATCHES;

/// The line that nobody receives from.
pub(super) const LINE: &str = "raw";

/// A job, its outbox row and its payload, for each id.
pub(super) const INSERT: &str = "
    WITH v AS MATERIALIZED (SELECT nextval('robata.job_seq') AS seq, id FROM unnest($1::uuid[]) AS v (id)),
         j AS (INSERT INTO robata.jobs (seq, id, app, job, queue, executor, queue_chosen, one_off, state, rank, max_attempts,
                   created_at, run_at, moved_at)
               SELECT seq, id, $3, 'true', $3, $3, false, false, 1, 0, 1, $4, $4, $4 FROM v),
         q AS (INSERT INTO robata.queued (id, seq, queue, executor, rank, app, job, attempt)
               SELECT id, seq, $3, $3, 0, $3, 'true', 1 FROM v)
    INSERT INTO robata.job_data (seq, payload) SELECT seq, $2 FROM v";

/// Inserts jobs in one commit; answers their ids.
pub(super) async fn insert(pool: &PgPool, count: usize) -> sqlx::Result<Vec<Uuid>> {
    let ids: Vec<_> = std::iter::repeat_with(Uuid::now_v7).take(count).collect();
    sqlx::query(INSERT)
        .bind(&ids)
        .bind(PAYLOAD.as_bytes())
        .bind(LINE)
        .bind(0_i64)
        .execute(pool)
        .await?;
    Ok(ids)
}

/// Rows a second, so many in each commit.
pub(super) async fn per_second(pool: &PgPool, rows: usize, lasting: Duration) -> anyhow::Result<Raw> {
    let connections = if rows == 1 { CONNECTIONS as usize } else { OF_BATCHES };
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let pool = pool.clone();
        tasks.spawn(async move {
            let mut done = 0_u64;
            while begin.elapsed() < lasting {
                done += insert(&pool, rows).await?.len() as u64;
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0;
    while let Some(ended) = tasks.join_next().await {
        done += ended??;
    }
    Ok(Raw {
        per_second: load::per_second(done, begin.elapsed()),
        words: format!("PostgreSQL, {rows} a commit over {connections} connections, same tables"),
    })
}

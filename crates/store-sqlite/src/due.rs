//! The due loop: what is due becomes `queued`, what has expired while it waited ends.

use std::{collections::BTreeSet, sync::Arc};

use robata_core::{Reason, Timestamp, row::number, state::JobEvent, store::Due};
use sqlx::sqlite::SqliteRow;

use crate::{
    error::Result,
    job_row::{self, job_attempt, job_columns},
    save,
    sql::{Read as _, numbers},
    tx::Tx,
};

pub(crate) async fn run(tx: &mut Tx, max: &usize) -> Result<Due> {
    let limit = i64::try_from(*max).unwrap_or(i64::MAX);
    let now = tx.now;
    let expired = sqlx::query(concat!(
        "SELECT ",
        job_columns!(),
        " FROM jobs j INDEXED BY jobs_expiring",
        job_attempt!(),
        "WHERE j.state < 2 AND j.expires_at IS NOT NULL AND j.started_at IS NULL AND j.expires_at <= ? ORDER BY j.expires_at LIMIT ?"
    ))
    .bind(now.as_millis())
    .bind(limit)
    .fetch_all(&mut tx.conn)
    .await?;
    let shared = Arc::clone(&tx.shared);
    // Left out where they cannot be read, and not waited for.
    let mut unreadable = Vec::new();
    let mut ended = 0;
    for row in &expired {
        match shared.readable(row, expire(tx, row).await)? {
            Some(()) => ended += 1,
            None => unreadable.push(row.col("seq")?),
        }
    }
    let due = sqlx::query(concat!(
        "SELECT ",
        job_columns!(),
        " FROM jobs j INDEXED BY jobs_due",
        job_attempt!(),
        "WHERE j.state = 0 AND j.run_at <= ? ORDER BY j.run_at LIMIT ?"
    ))
    .bind(now.as_millis())
    .bind(limit)
    .fetch_all(&mut tx.conn)
    .await?;
    let mut lines = BTreeSet::new();
    let mut moved = Vec::new();
    for row in &due {
        let Some(mut job) = shared.readable(row, job_row::read(row))? else {
            unreadable.push(row.col("seq")?);
            continue;
        };
        if job.due(tx) {
            tx.tally.count_move(&job);
            moved.push(job.seq);
            lines.insert(job.line);
        }
    }
    if !moved.is_empty() {
        sqlx::query(
            "UPDATE jobs SET state = ?, moved_at = max(moved_at, ?), published_at = NULL, broker_key = NULL, publications = 0, used_up = 0
             WHERE seq IN (SELECT value FROM json_each(?))",
        )
        .bind(number::QUEUED)
        .bind(now.as_millis())
        .bind(numbers(moved.iter().copied()))
        .execute(&mut tx.conn)
        .await?;
    }
    Ok(Due {
        moved: moved.len(),
        expired: ended,
        lines: lines.into_iter().collect(),
        next: next(tx, unreadable).await?,
    })
}

async fn expire(tx: &mut Tx, row: &SqliteRow) -> Result<()> {
    let mut job = job_row::read(row)?;
    let words = "it expired while it waited".to_owned();
    job.end_waiting(tx, JobEvent::Unrunnable, Reason::Expired, Some(words))?;
    save::job(tx, &job).await
}

/// The time to the next job that is due or expires.
async fn next(tx: &mut Tx, unreadable: Vec<i64>) -> Result<Option<std::time::Duration>> {
    let row = sqlx::query(
        "SELECT (SELECT run_at FROM jobs INDEXED BY jobs_due
                 WHERE state = 0 AND run_at > ?2 AND seq NOT IN (SELECT value FROM json_each(?1))
                 ORDER BY run_at LIMIT 1) AS due,
                (SELECT expires_at FROM jobs INDEXED BY jobs_expiring
                 WHERE state < 2 AND expires_at IS NOT NULL AND started_at IS NULL
                   AND seq NOT IN (SELECT value FROM json_each(?1)) ORDER BY expires_at LIMIT 1) AS expires",
    )
    .bind(numbers(unreadable))
    // From the index's beginning; said so that it is seen to be no walk.
    .bind(i64::MIN)
    .fetch_one(&mut tx.conn)
    .await?;
    let times: [Option<Timestamp>; 2] = [row.time_or_none("due")?, row.time_or_none("expires")?];
    Ok(times.into_iter().flatten().min().map(|at| at.since(tx.now)))
}

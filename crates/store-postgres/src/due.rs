//! The due loop: what is due becomes `queued`, what has expired while it waited ends. Masters side by side skip what another
//! has locked.

use std::collections::BTreeSet;

use robata_core::{Reason, Timestamp, state::JobEvent, store::Due};

use crate::{
    error::Result,
    job_row::{self, job_columns, job_joins},
    save,
    sql::{Read as _, limit, q},
    tx::Tx,
};

pub(crate) async fn run(tx: &mut Tx, max: &usize) -> Result<Due> {
    let now = tx.now;
    let expired = q(concat!(
        "SELECT ",
        job_columns!(),
        " FROM robata.jobs j",
        job_joins!(),
        "WHERE j.state < 2 AND j.expires_at IS NOT NULL AND j.started_at IS NULL AND j.expires_at <= $1
         ORDER BY j.expires_at LIMIT $2 FOR UPDATE OF j SKIP LOCKED"
    ))
    .bind(now.as_millis())
    .bind(limit(*max))
    .fetch_all(tx.conn())
    .await?;
    let mut rows = Vec::with_capacity(expired.len());
    // Left out where they cannot be read, and not waited for.
    let mut unreadable: Vec<i64> = Vec::new();
    for row in &expired {
        let Some(mut job) = tx.shared.readable(row, job_row::read(row))? else {
            unreadable.push(row.col("seq")?);
            continue;
        };
        let words = "it expired while it waited".to_owned();
        job.end_waiting(tx, JobEvent::Unrunnable, Reason::Expired, Some(words))?;
        rows.push(job);
    }
    let expired = rows.len();
    let ended: BTreeSet<_> = rows.iter().map(|row| row.id).collect();
    let due = q(concat!(
        "SELECT ",
        job_columns!(),
        " FROM robata.jobs j",
        job_joins!(),
        "WHERE j.state = 0 AND j.run_at <= $1 ORDER BY j.run_at LIMIT $2 FOR UPDATE OF j SKIP LOCKED"
    ))
    .bind(now.as_millis())
    .bind(limit(*max))
    .fetch_all(tx.conn())
    .await?;
    let mut lines = BTreeSet::new();
    let mut moved = 0;
    for row in &due {
        let Some(mut job) = tx.shared.readable(row, job_row::read(row))? else {
            unreadable.push(row.col("seq")?);
            continue;
        };
        if !ended.contains(&job.id) && job.due(tx) {
            lines.insert(job.line.clone());
            rows.push(job);
            moved += 1;
        }
    }
    save::jobs(tx, &rows).await?;
    Ok(Due {
        moved,
        expired,
        lines: lines.into_iter().collect(),
        next: next(tx, unreadable).await?,
    })
}

/// The time to the next job that is due or expires.
async fn next(tx: &mut Tx, unreadable: Vec<i64>) -> Result<Option<std::time::Duration>> {
    let row = q(
        "SELECT (SELECT run_at FROM robata.jobs WHERE state = 0 AND seq <> ALL ($1) ORDER BY run_at LIMIT 1) AS due,
                        (SELECT expires_at FROM robata.jobs
                         WHERE state < 2 AND expires_at IS NOT NULL AND started_at IS NULL AND seq <> ALL ($1)
                         ORDER BY expires_at LIMIT 1) AS expires",
    )
    .bind(unreadable)
    .fetch_one(tx.conn())
    .await?;
    let times: [Option<Timestamp>; 2] = [row.time_or_none("due")?, row.time_or_none("expires")?];
    Ok(times.into_iter().flatten().min().map(|at| at.since(tx.now)))
}

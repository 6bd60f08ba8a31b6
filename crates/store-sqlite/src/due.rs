//! The due loop: what is due becomes `queued`, what has expired while it waited ends.

use std::collections::BTreeSet;

use robata_core::{
    JobState, Reason, Timestamp,
    state::JobEvent,
    store::{Due, Hint},
};

use crate::{
    ending::end_waiting,
    error::Result,
    job_row::{JobRow, job_attempt, job_columns},
    sql::{Read as _, numbers},
    tx::Tx,
    word::job_state,
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
    for row in &expired {
        let row = JobRow::read(row)?;
        end_waiting(
            tx,
            &row,
            JobEvent::Unrunnable,
            Reason::Expired,
            Some("it expired while it waited"),
        )
        .await?;
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
    let due: Vec<_> = due.iter().map(JobRow::read).collect::<Result<_>>()?;
    let mut lines = BTreeSet::new();
    let mut moved = Vec::new();
    for row in &due {
        if let Some(to) = row.state.after(JobEvent::Due) {
            moved.push(row.seq);
            tx.count(&row.line, Some(row.state), Some(to));
            tx.hint_job(row.id);
            lines.insert(row.line.clone());
        }
    }
    if !moved.is_empty() {
        sqlx::query(
            "UPDATE jobs SET state = ?, moved_at = max(moved_at, ?), published_at = NULL, broker_key = NULL, publications = 0
             WHERE seq IN (SELECT value FROM json_each(?))",
        )
        .bind(job_state(JobState::Queued))
        .bind(now.as_millis())
        .bind(numbers(moved.iter().copied()))
        .execute(&mut tx.conn)
        .await?;
    }
    for line in &lines {
        tx.hint(Hint::Line(line.clone()));
    }
    Ok(Due {
        moved: moved.len(),
        lines: lines.into_iter().collect(),
        next: next(tx).await?,
    })
}

/// The time to the next job that is due or expires.
async fn next(tx: &mut Tx) -> Result<Option<std::time::Duration>> {
    let row = sqlx::query(
        "SELECT (SELECT min(run_at) FROM jobs INDEXED BY jobs_due WHERE state = 0) AS due,
                (SELECT min(expires_at) FROM jobs INDEXED BY jobs_expiring
                 WHERE state < 2 AND expires_at IS NOT NULL AND started_at IS NULL) AS expires",
    )
    .fetch_one(&mut tx.conn)
    .await?;
    let times: [Option<Timestamp>; 2] = [row.time_or_none("due")?, row.time_or_none("expires")?];
    Ok(times.into_iter().flatten().min().map(|at| at.since(tx.now)))
}

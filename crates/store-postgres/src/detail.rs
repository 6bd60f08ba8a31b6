//! Single jobs and attempts, and the counts of lines.

use robata_core::{AttemptId, ErrorKind, JobId, attempt::AttemptRecord, job::JobDetail, store::QueueCounts};
use sqlx::postgres::PgRow;

use crate::{
    accept, attempt_row,
    claim::payload,
    error::{Result, refused},
    job_row::{self, job_columns, job_joins},
    sql::{Read as _, q},
    tx::Tx,
    waiting,
};

/// A job; of an alias its first one.
pub(crate) async fn job(tx: &mut Tx, id: &JobId) -> Result<JobDetail> {
    let found = match own(tx, id).await? {
        Some(job) => Some(job),
        None => match accept::first_of(tx, *id).await? {
            Some(first) => own(tx, &first).await?,
            None => None,
        },
    };
    found.ok_or_else(|| refused(ErrorKind::NotFound, "store.job", format!("there is no job {id}")))
}

async fn own(tx: &mut Tx, id: &JobId) -> Result<Option<JobDetail>> {
    let row = q(concat!(
        "SELECT ",
        job_columns!(),
        ", d.payload FROM robata.jobs j JOIN robata.job_data d ON d.seq = j.seq",
        job_joins!(),
        "WHERE j.id = $1"
    ))
    .bind(id.uuid())
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let payload = payload(&row)?;
    let attempts = q("SELECT * FROM robata.attempts WHERE job_id = $1 ORDER BY number")
        .bind(id.uuid())
        .fetch_all(tx.conn())
        .await?;
    let attempts = attempts.iter().map(attempt_row::record).collect::<Result<_>>()?;
    let job = waiting::tell(tx, job_row::read(&row)?).await?;
    Ok(Some(JobDetail { job, payload, attempts }))
}

pub(crate) async fn attempt(tx: &mut Tx, id: &AttemptId) -> Result<AttemptRecord> {
    let row = q("SELECT * FROM robata.attempts WHERE job_id = $1 AND number = $2")
        .bind(id.job.uuid())
        .bind(i32::try_from(id.number).unwrap_or(i32::MAX))
        .fetch_optional(tx.conn())
        .await?
        .ok_or_else(|| {
            refused(
                ErrorKind::NotFound,
                "store.attempt",
                format!("there is no attempt {id}"),
            )
        })?;
    attempt_row::record(&row)
}

pub(crate) async fn queue_counts(tx: &mut Tx, (): &()) -> Result<Vec<QueueCounts>> {
    let rows = q(
        "SELECT queue, executor, sum(scheduled)::bigint AS scheduled, sum(queued)::bigint AS queued,
                      sum(running)::bigint AS running
                  FROM robata.counters GROUP BY queue, executor ORDER BY queue, executor",
    )
    .fetch_all(tx.conn())
    .await?;
    let count =
        |row: &PgRow, name| Ok::<_, crate::error::Fault>(u64::try_from(row.col::<i64>(name)?).unwrap_or_default());
    rows.iter()
        .map(|row| {
            Ok(QueueCounts {
                line: row.line()?,
                scheduled: count(row, "scheduled")?,
                queued: count(row, "queued")?,
                running: count(row, "running")?,
            })
        })
        .collect()
}

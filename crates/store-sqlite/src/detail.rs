//! Single jobs and attempts, and the counts of lines.

use robata_core::{AttemptId, ErrorKind, JobId, attempt::AttemptRecord, job::JobDetail, store::QueueCounts};
use sqlx::SqliteConnection;

use crate::{
    accept, attempt_row,
    claim::payload,
    error::{Result, refused},
    job_row::{self, job_attempt, job_columns},
    shared::Shared,
    sql::Read as _,
    waiting,
};

/// A job; of an alias its first one.
pub(crate) async fn job(conn: &mut SqliteConnection, shared: &Shared, id: JobId) -> Result<JobDetail> {
    let found = match own(conn, shared, id).await? {
        Some(job) => Some(job),
        None => match accept::first_of(conn, id).await? {
            Some(first) => own(conn, shared, first).await?,
            None => None,
        },
    };
    found.ok_or_else(|| refused(ErrorKind::NotFound, "store.job", format!("there is no job {id}")))
}

async fn own(conn: &mut SqliteConnection, shared: &Shared, id: JobId) -> Result<Option<JobDetail>> {
    let row = sqlx::query(concat!(
        "SELECT ",
        job_columns!(),
        ", d.payload FROM jobs j CROSS JOIN job_data d ON d.seq = j.seq",
        job_attempt!(),
        "WHERE j.id = ?"
    ))
    .bind(&id.as_bytes()[..])
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let payload = payload(&row)?;
    let attempts = sqlx::query("SELECT * FROM attempts WHERE job_id = ? ORDER BY number")
        .bind(&id.as_bytes()[..])
        .fetch_all(&mut *conn)
        .await?;
    let attempts = attempts.iter().map(attempt_row::record).collect::<Result<_>>()?;
    let job = waiting::tell(conn, shared, job_row::read(&row)?).await?;
    Ok(Some(JobDetail { job, payload, attempts }))
}

pub(crate) async fn attempt(conn: &mut SqliteConnection, id: AttemptId) -> Result<AttemptRecord> {
    let row = sqlx::query("SELECT * FROM attempts WHERE job_id = ? AND number = ?")
        .bind(&id.job.as_bytes()[..])
        .bind(i64::from(id.number))
        .fetch_optional(conn)
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

pub(crate) async fn queue_counts(conn: &mut SqliteConnection) -> Result<Vec<QueueCounts>> {
    let rows = sqlx::query("SELECT * FROM counters ORDER BY queue, executor")
        .fetch_all(conn)
        .await?;
    let count = |row: &sqlx::sqlite::SqliteRow, name| {
        Ok::<_, crate::error::Fault>(u64::try_from(row.col::<i64>(name)?).unwrap_or_default())
    };
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

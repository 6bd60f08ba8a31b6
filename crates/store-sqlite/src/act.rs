//! What people do to jobs: cancel, retry by hand, follow a log.

use std::time::Duration;

use robata_core::{
    AttemptId, ErrorKind, JobId,
    job::{Acted, Cancel, RetryByHand},
    row::{Deed, JobRow},
    store::Hint,
};

use crate::{
    accept,
    error::{Result, refused},
    job_row::{self, job_attempt, job_columns},
    save,
    sql::Read as _,
    tx::Tx,
    waiting,
};

pub(crate) async fn cancel(tx: &mut Tx, request: &Cancel) -> Result<Acted> {
    let mut row = find(tx, request.job, "store.cancel").await?;
    let changed = row.cancel(tx)?;
    acted(tx, row, changed, Deed::cancel, &request.by).await
}

pub(crate) async fn retry(tx: &mut Tx, request: &RetryByHand) -> Result<Acted> {
    let mut row = find(tx, request.job, "store.retry").await?;
    let one_off = sqlx::query("SELECT definition IS NOT NULL AS one_off FROM job_data WHERE seq = ?")
        .bind(row.seq)
        .fetch_one(&mut tx.conn)
        .await?
        .col("one_off")?;
    let changed = row.retry_by_hand(tx, one_off)?;
    acted(tx, row, changed, Deed::retry, &request.by).await
}

pub(crate) async fn follow(tx: &mut Tx, request: &(AttemptId, Duration)) -> Result<()> {
    let (attempt, lasting) = request;
    let done = sqlx::query(
        "UPDATE attempts SET followed_until = max(coalesce(followed_until, 0), ?) WHERE job_id = ? AND number = ?",
    )
    .bind(tx.now.plus(*lasting).as_millis())
    .bind(&attempt.job.as_bytes()[..])
    .bind(i64::from(attempt.number))
    .execute(&mut tx.conn)
    .await?;
    if done.rows_affected() == 0 {
        return Err(refused(
            ErrorKind::NotFound,
            "store.follow",
            format!("there is no attempt {attempt}"),
        ));
    }
    tx.tally.hint(Hint::Attempt(*attempt));
    Ok(())
}

async fn acted(tx: &mut Tx, mut row: JobRow, changed: bool, deed: fn(&JobRow) -> Deed, by: &str) -> Result<Acted> {
    if changed {
        save::job(tx, &row).await?;
        tx.audit(by, &deed(&row)).await?;
        row = find(tx, row.id, "store.act").await?;
    }
    let job = waiting::tell(&mut tx.conn, &tx.shared, row).await?;
    Ok(Acted { job, changed })
}

/// The job; of an alias its first one.
async fn find(tx: &mut Tx, id: JobId, operation: &'static str) -> Result<JobRow> {
    let found = match read(tx, id).await? {
        Some(row) => Some(row),
        None => match accept::first_of(&mut tx.conn, id).await? {
            Some(first) => read(tx, first).await?,
            None => None,
        },
    };
    found.ok_or_else(|| refused(ErrorKind::NotFound, operation, format!("there is no job {id}")))
}

async fn read(tx: &mut Tx, id: JobId) -> Result<Option<JobRow>> {
    let row = sqlx::query(concat!(
        "SELECT ",
        job_columns!(),
        " FROM jobs j",
        job_attempt!(),
        "WHERE j.id = ?"
    ))
    .bind(&id.as_bytes()[..])
    .fetch_optional(&mut tx.conn)
    .await?;
    row.as_ref().map(job_row::read).transpose()
}

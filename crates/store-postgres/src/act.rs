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
    job_row::{self, job_columns, job_joins},
    save,
    sql::{Read as _, q},
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
    let one_off = q("SELECT one_off FROM robata.jobs WHERE seq = $1")
        .bind(row.seq)
        .fetch_one(tx.conn())
        .await?
        .col("one_off")?;
    let changed = row.retry_by_hand(tx, one_off)?;
    acted(tx, row, changed, Deed::retry, &request.by).await
}

pub(crate) async fn follow(tx: &mut Tx, (attempt, lasting): &(AttemptId, Duration)) -> Result<()> {
    let done = q(
        "UPDATE robata.attempts SET followed_until = greatest(coalesce(followed_until, 0), $1)
                  WHERE job_id = $2 AND number = $3",
    )
    .bind(tx.now.plus(*lasting).as_millis())
    .bind(attempt.job.uuid())
    .bind(i32::try_from(attempt.number).unwrap_or(i32::MAX))
    .execute(tx.conn())
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
        save::jobs(tx, std::slice::from_ref(&row)).await?;
        tx.audit(by, &deed(&row)).await?;
        row = find(tx, row.id, "store.act").await?;
    }
    let job = waiting::tell(tx, row).await?;
    Ok(Acted { job, changed })
}

/// The job, locked; of an alias its first one.
async fn find(tx: &mut Tx, id: JobId, operation: &'static str) -> Result<JobRow> {
    let found = match read(tx, id).await? {
        Some(row) => Some(row),
        None => match accept::first_of(tx, id).await? {
            Some(first) => read(tx, first).await?,
            None => None,
        },
    };
    found.ok_or_else(|| refused(ErrorKind::NotFound, operation, format!("there is no job {id}")))
}

async fn read(tx: &mut Tx, id: JobId) -> Result<Option<JobRow>> {
    let row = q(concat!(
        "SELECT ",
        job_columns!(),
        " FROM robata.jobs j",
        job_joins!(),
        "WHERE j.id = $1 FOR UPDATE OF j"
    ))
    .bind(id.uuid())
    .fetch_optional(tx.conn())
    .await?;
    row.as_ref().map(job_row::read).transpose()
}

//! What people do to jobs: cancel, retry by hand, follow a log.

use std::time::Duration;

use robata_core::{
    AttemptId, ErrorKind, JobId, JobState, Reason,
    job::{Acted, Cancel, RetryByHand},
    state::JobEvent,
    store::Hint,
};

use crate::{
    ending::{end_waiting, resolve},
    error::{Result, refused},
    job_row::{JobRow, job_columns, job_joins},
    save,
    sql::{q, text},
    tx::Tx,
    waiting,
};

pub(crate) async fn cancel(tx: &mut Tx, request: &Cancel) -> Result<Acted> {
    let mut row = find(tx, request.job, "store.cancel").await?;
    let changed = match row.state {
        JobState::Cancelled => false,
        JobState::Scheduled | JobState::Queued => {
            row = end_waiting(tx, row, JobEvent::CancelledWaiting, Reason::Cancelled, None)?;
            true
        }
        JobState::Running if row.cancel_requested_at.is_some() => false,
        JobState::Running => {
            row.cancel_requested_at = Some(tx.stamp(row.moved_at));
            tx.hint_attempt(AttemptId {
                job: row.id,
                number: row.attempt,
            });
            tx.hint_job(row.id);
            true
        }
        state => {
            let message = format!(
                "the job {} is {state}; only a job that waits or runs can be cancelled",
                row.id
            );
            return Err(refused(ErrorKind::Conflict, "store.cancel", message));
        }
    };
    acted(tx, row, changed, "cancel", &request.by).await
}

pub(crate) async fn retry(tx: &mut Tx, request: &RetryByHand) -> Result<Acted> {
    let mut row = find(tx, request.job, "store.retry").await?;
    if matches!(row.state, JobState::Scheduled | JobState::Queued | JobState::Running) {
        return acted(tx, row, false, "retry", &request.by).await;
    }
    let Some(to) = row.state.after(JobEvent::RetriedByHand) else {
        let message = format!("the job {} is {}; only a failed job can be retried", row.id, row.state);
        return Err(refused(ErrorKind::Conflict, "store.retry", message));
    };
    if !row.one_off {
        row.line = resolve(tx, &row.app, &row.job, &row.line, row.queue_chosen);
    }
    let now = tx.stamp(row.moved_at);
    // One attempt more; the platform's budgets, the time to start and the expiry begin anew: a person wants it to run.
    row.state = to;
    row.max_attempts = row.counted + 1;
    row.by_hand = true;
    row.platform = 0;
    row.never_set_going = 0;
    row.run_at = now;
    row.moved_at = now;
    row.expires_at = None;
    row.first_claimed_at = None;
    row.finished_at = None;
    row.cancel_requested_at = None;
    tx.hint(Hint::Line(row.line.clone()));
    tx.hint_job(row.id);
    acted(tx, row, true, "retry", &request.by).await
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
    tx.hint_attempt(*attempt);
    Ok(())
}

async fn acted(tx: &mut Tx, mut row: JobRow, changed: bool, action: &str, by: &str) -> Result<Acted> {
    if changed {
        save::jobs(tx, std::slice::from_ref(&row)).await?;
        q("INSERT INTO robata.audit (at, by, action, app, name, job_id) VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(tx.now.as_millis())
            .bind(text(by))
            .bind(action)
            .bind(row.app.as_str())
            .bind(row.job.as_str())
            .bind(row.id.uuid())
            .execute(tx.conn())
            .await?;
        row = find(tx, row.id, "store.act").await?;
    }
    let job = waiting::tell(tx, row).await?;
    Ok(Acted { job, changed })
}

/// The job, locked.
async fn find(tx: &mut Tx, id: JobId, operation: &'static str) -> Result<JobRow> {
    let row = q(concat!(
        "SELECT ",
        job_columns!(),
        " FROM robata.jobs j",
        job_joins!(),
        "WHERE j.id = $1 FOR UPDATE OF j"
    ))
    .bind(id.uuid())
    .fetch_optional(tx.conn())
    .await?
    .ok_or_else(|| refused(ErrorKind::NotFound, operation, format!("there is no job {id}")))?;
    JobRow::read(&row)
}

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
    job_row::{JobRow, job_attempt, job_columns},
    sql::Read as _,
    tx::Tx,
    waiting,
    word::job_state,
};

pub(crate) async fn cancel(tx: &mut Tx, request: &Cancel) -> Result<Acted> {
    let row = find(tx, request.job, "store.cancel").await?;
    let changed = match row.state {
        JobState::Cancelled => false,
        JobState::Scheduled | JobState::Queued => {
            end_waiting(tx, &row, JobEvent::CancelledWaiting, Reason::Cancelled, None).await?;
            true
        }
        JobState::Running if row.cancel_requested_at.is_some() => false,
        JobState::Running => {
            sqlx::query("UPDATE jobs SET cancel_requested_at = ? WHERE seq = ?")
                .bind(tx.stamp(row.moved_at).as_millis())
                .bind(row.seq)
                .execute(&mut tx.conn)
                .await?;
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
    let row = find(tx, request.job, "store.retry").await?;
    if matches!(row.state, JobState::Scheduled | JobState::Queued | JobState::Running) {
        return acted(tx, row, false, "retry", &request.by).await;
    }
    let Some(to) = row.state.after(JobEvent::RetriedByHand) else {
        let message = format!("the job {} is {}; only a failed job can be retried", row.id, row.state);
        return Err(refused(ErrorKind::Conflict, "store.retry", message));
    };
    let one_off = sqlx::query("SELECT definition IS NOT NULL AS one_off FROM job_data WHERE seq = ?")
        .bind(row.seq)
        .fetch_one(&mut tx.conn)
        .await?
        .col::<bool>("one_off")?;
    let line = if one_off {
        row.line.clone()
    } else {
        resolve(tx, &row.app, &row.job, &row.line, row.queue_chosen)
    };
    let now = tx.stamp(row.moved_at).as_millis();
    // One attempt more; the platform's budgets, the time to start and the expiry begin anew: a person wants it to run.
    sqlx::query(
        "UPDATE jobs SET state = ?, queue = ?, executor = ?, max_attempts = counted + 1, by_hand = 1, platform = 0,
             never_set_going = 0, run_at = ?, moved_at = ?, expires_at = NULL, first_claimed_at = NULL, finished_at = NULL,
             cancel_requested_at = NULL, published_at = NULL, broker_key = NULL, publications = 0 WHERE seq = ?",
    )
    .bind(job_state(to))
    .bind(line.queue.as_str())
    .bind(line.executor.as_str())
    .bind(now)
    .bind(now)
    .bind(row.seq)
    .execute(&mut tx.conn)
    .await?;
    tx.count(&row.line, Some(row.state), None);
    tx.count(&line, None, Some(to));
    tx.hint(Hint::Line(line));
    tx.hint_job(row.id);
    acted(tx, row, true, "retry", &request.by).await
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
    tx.hint_attempt(*attempt);
    Ok(())
}

async fn acted(tx: &mut Tx, before: JobRow, changed: bool, action: &str, by: &str) -> Result<Acted> {
    let row = if changed {
        sqlx::query("INSERT INTO audit (at, by, action, app, name, job_id) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(tx.now.as_millis())
            .bind(by)
            .bind(action)
            .bind(before.app.as_str())
            .bind(before.job.as_str())
            .bind(&before.id.as_bytes()[..])
            .execute(&mut tx.conn)
            .await?;
        find(tx, before.id, "store.act").await?
    } else {
        before
    };
    let job = waiting::tell(&mut tx.conn, &tx.shared, row).await?;
    Ok(Acted { job, changed })
}

async fn find(tx: &mut Tx, id: JobId, operation: &'static str) -> Result<JobRow> {
    let row = sqlx::query(concat!(
        "SELECT ",
        job_columns!(),
        " FROM jobs j",
        job_attempt!(),
        "WHERE j.id = ?"
    ))
    .bind(&id.as_bytes()[..])
    .fetch_optional(&mut tx.conn)
    .await?
    .ok_or_else(|| refused(ErrorKind::NotFound, operation, format!("there is no job {id}")))?;
    JobRow::read(&row)
}

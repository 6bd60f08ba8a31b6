//! How jobs end or go round again: of a waiting one, and what follows from an attempt's end (PROTOCOL X6).

use robata_core::{
    AppName, ErrorKind, JobName, JobState, Reason, Timestamp,
    definition::Catalog,
    finish::{Budget, End, Facts, Outcome, decide},
    job::Line,
    request::StartRequest,
    state::{AfterAttempt, AttemptEvent, JobEvent},
    store::Hint,
};

use crate::{
    attempt_row::AttemptRow,
    error::{Fault, Result, refused},
    job_row::JobRow,
    limit::limits,
    sql::Read as _,
    tx::Tx,
    word::{attempt_state, job_state},
};

/// Ends a job that waits.
pub(crate) async fn end_waiting(
    tx: &mut Tx,
    row: &JobRow,
    event: JobEvent,
    reason: Reason,
    message: Option<&str>,
) -> Result<JobState> {
    let to = row.state.after(event).ok_or_else(|| {
        refused(
            ErrorKind::Conflict,
            "store.end",
            format!("the job {} is {}", row.id, row.state),
        )
    })?;
    sqlx::query(
        "UPDATE jobs SET state = ?, reason = ?, message = ?, moved_at = ?, finished_at = ?,
             published_at = NULL, broker_key = NULL, publications = 0 WHERE seq = ?",
    )
    .bind(job_state(to))
    .bind(reason.as_str())
    .bind(message)
    .bind(tx.stamp(row.moved_at).as_millis())
    .bind(tx.stamp(row.moved_at).as_millis())
    .bind(row.seq)
    .execute(&mut tx.conn)
    .await?;
    tx.count(&row.line, Some(row.state), Some(to));
    tx.count_out(&row.line, -i64::from(row.published_at.is_some()));
    tx.hint_job(row.id);
    Ok(to)
}

/// Ends a live attempt, and does what follows for its job; answers where both stand.
pub(crate) async fn end_attempt(
    tx: &mut Tx,
    attempt: &AttemptRow,
    job: &JobRow,
    outcome: &Outcome,
) -> Result<(robata_core::AttemptState, JobState)> {
    let request = sqlx::query("SELECT request FROM start_requests WHERE attempt = ?")
        .bind(attempt.seq)
        .fetch_optional(&mut tx.conn)
        .await?
        .ok_or_else(|| Fault::BadRow(format!("the attempt {} has no start request", attempt.id)))?;
    let request: StartRequest = request.json("request")?;
    let verdict = decide(
        outcome,
        &Facts {
            stop_cause: attempt.stop_cause,
            cancel_requested: job.cancel_requested_at.is_some(),
            policy: &request.definition.retry,
            max_attempts: job.max_attempts,
            timeout: request.definition.timeout,
            counted: job.counted,
            platform: job.platform,
            never_set_going: job.never_set_going,
            chance: chance()?,
        },
    );
    let conflict = |what: String| refused(ErrorKind::Conflict, "store.record", what);
    let ended = attempt
        .state
        .after(AttemptEvent::Ended(verdict.attempt))
        .ok_or_else(|| {
            conflict(format!(
                "the attempt {} is {} and cannot become {}",
                attempt.id, attempt.state, verdict.attempt
            ))
        })?;
    let to = job
        .state
        .after(JobEvent::AttemptEnded(verdict.job))
        .filter(|_| job.attempt == attempt.id.number)
        .ok_or_else(|| conflict(format!("the job {} is {}", job.id, job.state)))?;

    let now = tx.stamp(attempt.moved_at);
    let started = attempt.started_at.or(outcome.started_at);
    let finished = outcome.finished_at.unwrap_or(now).max(started.unwrap_or_default());
    let (exit_code, signal) = match outcome.end {
        End::Exited(code) => (Some(code), None),
        End::Signalled(signal) => (None, Some(signal)),
        End::OutOfMemory(code) => (code, None),
        _ => (None, None),
    };
    sqlx::query(
        "UPDATE attempts SET state = ?, reason = ?, detail = ?, message = ?, exit_code = ?, signal = ?, counted = ?,
             started_at = ?, finished_at = ?, moved_at = ?, waiting_reason = NULL, waiting_message = NULL, waiting_since = NULL
         WHERE seq = ?",
    )
    .bind(attempt_state(ended))
    .bind(verdict.reason.map(Reason::as_str))
    .bind(outcome.detail.as_deref())
    .bind(outcome.message.as_deref())
    .bind(exit_code)
    .bind(signal)
    .bind(verdict.budget == Budget::Own)
    .bind(started.map(Timestamp::as_millis))
    .bind(finished.as_millis())
    .bind(now.as_millis())
    .bind(attempt.seq)
    .execute(&mut tx.conn)
    .await?;

    let now = tx.stamp(job.moved_at);
    let again = matches!(verdict.job, AfterAttempt::RetryLater | AfterAttempt::RetryNow);
    let line = if again && request.definition_version.is_some() {
        resolve(tx, &job.app, &job.job, &job.line, job.queue_chosen)
    } else {
        job.line.clone()
    };
    let reason = match verdict.job {
        AfterAttempt::Succeed => None,
        AfterAttempt::Cancel => Some(Reason::Cancelled),
        _ => verdict.reason,
    };
    let message = if reason.is_some() {
        outcome.message.as_deref()
    } else {
        None
    };
    let run_at = if again { now.plus(verdict.delay) } else { job.run_at };
    let job_started = job.started_at.or_else(|| started.map(|at| at.max(job.created_at)));
    // `start_within` counts anew for an attempt after one that was started.
    let first_claimed = job.first_claimed_at.filter(|_| !again || started.is_none());
    sqlx::query(
        "UPDATE jobs SET state = ?, queue = ?, executor = ?, reason = ?, message = ?, counted = ?, platform = ?,
             never_set_going = ?, run_at = ?, moved_at = ?, first_claimed_at = ?, started_at = ?, finished_at = ?
         WHERE seq = ?",
    )
    .bind(job_state(to))
    .bind(line.queue.as_str())
    .bind(line.executor.as_str())
    .bind(reason.map(Reason::as_str))
    .bind(message)
    .bind(i64::from(job.counted + u32::from(verdict.budget == Budget::Own)))
    .bind(i64::from(job.platform + u32::from(verdict.budget == Budget::Platform)))
    .bind(i64::from(
        job.never_set_going + u32::from(verdict.budget == Budget::Neither),
    ))
    .bind(run_at.as_millis())
    .bind(now.as_millis())
    .bind(first_claimed.map(Timestamp::as_millis))
    .bind(job_started.map(Timestamp::as_millis))
    .bind(to.is_ended().then_some(now.as_millis()))
    .bind(job.seq)
    .execute(&mut tx.conn)
    .await?;

    tx.count(&job.line, Some(JobState::Running), None);
    tx.count(&line, None, Some(to));
    match verdict.job {
        AfterAttempt::RetryNow => tx.hint(Hint::Line(line)),
        AfterAttempt::RetryLater => tx.hint(Hint::Due(verdict.delay)),
        _ => {}
    }
    if !limits(&tx.catalog, &job.line.queue, &job.app, &job.job).is_empty() {
        tx.free_slot();
    }
    tx.hint_job(job.id);
    Ok((ended, to))
}

/// The line of a job's next attempt, by the catalog as it stands (PROTOCOL O1). Not for a one-off. `line` is the one it has
/// or came with, its queue perhaps chosen by the enqueuer.
pub(crate) fn resolve(tx: &Tx, app: &AppName, job: &JobName, line: &Line, queue_chosen: bool) -> Line {
    let Some(entry) = tx.catalog.job(app, job) else {
        return line.clone();
    };
    let queue = if queue_chosen {
        line.queue.clone()
    } else {
        Catalog::queue_of(app, &entry.definition)
    };
    let executor = entry
        .definition
        .executor
        .as_ref()
        .or(tx.shared.default_executor.as_ref())
        .unwrap_or(&line.executor);
    Line {
        queue,
        executor: executor.clone(),
    }
}

/// A uniform number in 0..1.
fn chance() -> Result<f64> {
    let bits = getrandom::u32().map_err(Fault::Random)?;
    Ok(f64::from(bits) / (f64::from(u32::MAX) + 1.0))
}

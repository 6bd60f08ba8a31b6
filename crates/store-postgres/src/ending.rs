//! How jobs end or go round again: of a waiting one, and what follows from an attempt's end (PROTOCOL X6). On rows that are
//! locked and will be saved.

use robata_core::{
    AppName, ErrorKind, JobName, JobState, Reason,
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
    tx::Tx,
};

/// Ends a job that waits.
pub(crate) fn end_waiting(
    tx: &mut Tx,
    mut row: JobRow,
    event: JobEvent,
    reason: Reason,
    message: Option<String>,
) -> Result<JobRow> {
    let to = row.state.after(event).ok_or_else(|| {
        refused(
            ErrorKind::Conflict,
            "store.end",
            format!("the job {} is {}", row.id, row.state),
        )
    })?;
    let now = tx.stamp(row.moved_at);
    row.state = to;
    row.reason = Some(reason);
    row.message = message;
    row.moved_at = now;
    row.finished_at = Some(now);
    tx.hint_job(row.id);
    Ok(row)
}

/// Ends a live attempt, and does what follows for its job.
pub(crate) fn end_attempt(
    tx: &mut Tx,
    attempt: &mut AttemptRow,
    job: &mut JobRow,
    request: &StartRequest,
    outcome: &Outcome,
) -> Result<()> {
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
    (attempt.exit_code, attempt.signal) = match outcome.end {
        End::Exited(code) => (Some(code), None),
        End::Signalled(signal) => (None, Some(signal)),
        End::OutOfMemory(code) => (code, None),
        _ => (None, None),
    };
    attempt.state = ended;
    attempt.reason = verdict.reason;
    attempt.detail.clone_from(&outcome.detail);
    attempt.message.clone_from(&outcome.message);
    attempt.counted = Some(verdict.budget == Budget::Own);
    attempt.started_at = started;
    attempt.finished_at = Some(outcome.finished_at.unwrap_or(now).max(started.unwrap_or_default()));
    attempt.moved_at = now;
    attempt.waiting = None;

    let now = tx.stamp(job.moved_at);
    let again = matches!(verdict.job, AfterAttempt::RetryLater | AfterAttempt::RetryNow);
    let (queue, app, name) = (job.line.queue.clone(), job.app.clone(), job.job.clone());
    if again && request.definition_version.is_some() {
        job.line = resolve(tx, &job.app, &job.job, &job.line, job.queue_chosen);
    }
    job.state = to;
    job.reason = match verdict.job {
        AfterAttempt::Succeed => None,
        AfterAttempt::Cancel => Some(Reason::Cancelled),
        _ => verdict.reason,
    };
    job.message = outcome.message.clone().filter(|_| job.reason.is_some());
    job.counted += u32::from(verdict.budget == Budget::Own);
    job.platform += u32::from(verdict.budget == Budget::Platform);
    job.never_set_going += u32::from(verdict.budget == Budget::Neither);
    if again {
        job.run_at = now.plus(verdict.delay);
        // `start_within` counts anew for an attempt after one that was started.
        job.first_claimed_at = job.first_claimed_at.filter(|_| started.is_none());
    }
    job.moved_at = now;
    job.started_at = job.started_at.or_else(|| started.map(|at| at.max(job.created_at)));
    job.finished_at = to.is_ended().then_some(now);
    match verdict.job {
        AfterAttempt::RetryNow => tx.hint(Hint::Line(job.line.clone())),
        AfterAttempt::RetryLater => tx.hint(Hint::Due(verdict.delay)),
        _ => {}
    }
    debug_assert!(again || to != JobState::Queued, "only a retry queues");
    if !limits(&tx.catalog, &queue, &app, &name).is_empty() {
        tx.free_slot();
    }
    tx.hint_job(job.id);
    Ok(())
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

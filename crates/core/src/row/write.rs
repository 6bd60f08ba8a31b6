//! What a holder writes about its attempt: a compare-and-set on holder, epoch and the table of moves.

use super::{AttemptRow, JobRow, Transaction, limits};
use crate::{
    AttemptState, Reason,
    attempt::{AttemptChange, AttemptWrite, may_write},
    error::{Error, ErrorKind, Result},
    finish::{Budget, End, Facts, Outcome, decide},
    job::Waiting,
    part,
    request::Terms,
    state::{AfterAttempt, AttemptEvent, JobEvent},
    store::Hint,
};

/// What a step has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Nothing: it was so already.
    Nothing,
    /// The attempt.
    Attempt,
    /// The attempt and its job.
    Both,
}

fn conflict(message: String) -> Error {
    Error::new(ErrorKind::Conflict, "store.record", message)
}

impl AttemptRow {
    /// Takes one write; `terms`: those of its frozen request, which an end needs.
    ///
    /// # Errors
    /// `Fenced` where somebody else holds it, `Conflict` where the table of moves has no such move, `Internal` where an end
    /// comes without them.
    pub fn write(
        &mut self,
        job: &mut JobRow,
        terms: Option<Terms<'_>>,
        write: &AttemptWrite,
        tx: &mut impl Transaction,
    ) -> Result<Touched> {
        if !may_write((self.holder, self.epoch), (write.incarnation, write.epoch)) {
            let message = format!(
                "the attempt {} has the epoch {}, held by {}",
                self.id, self.epoch, self.holder
            );
            return Err(Error::new(ErrorKind::Fenced, "store.record", message));
        }
        let touched = self.change(job, terms, &write.change, tx)?;
        if touched != Touched::Nothing {
            tx.tally().hint(Hint::Job(self.id.job));
        }
        Ok(touched)
    }

    fn change(
        &mut self,
        job: &mut JobRow,
        terms: Option<Terms<'_>>,
        change: &AttemptChange,
        tx: &mut impl Transaction,
    ) -> Result<Touched> {
        let (id, state) = (self.id, self.state);
        let cannot = |what: &str| Err(conflict(format!("the attempt {id} is {state} and cannot {what}")));
        let live = state.is_live();
        match change {
            AttemptChange::Ended(outcome) if live => {
                let terms = terms.ok_or_else(|| {
                    let message = format!("the attempt {id} has no start request");
                    Error::new(ErrorKind::Internal, "store.record", message)
                })?;
                end(self, job, terms, outcome, tx)?;
                Ok(Touched::Both)
            }
            // Sent again after a lost answer.
            AttemptChange::Ended(_) => Ok(Touched::Nothing),
            AttemptChange::Finalised(_) if live => cannot("be finalised before it ended"),
            AttemptChange::Finalised(_) if self.finalised_at.is_some() => Ok(Touched::Nothing),
            AttemptChange::Finalised(summary) => {
                self.finalised_at = Some(tx.stamp(self.moved_at));
                self.log = summary.clone();
                Ok(Touched::Attempt)
            }
            _ if !live => cannot("be written about any more"),
            AttemptChange::Waiting(None) => {
                self.waiting = None;
                Ok(Touched::Attempt)
            }
            AttemptChange::Waiting(Some(_)) if state != AttemptState::Starting => cannot("wait to be started"),
            AttemptChange::Waiting(Some((reason, message))) => {
                // Since the reason's beginning, though its message changes.
                let since = match &self.waiting {
                    Some(known) if known.reason == *reason => known.since,
                    _ => tx.stamp(self.moved_at),
                };
                self.waiting = Some(Waiting {
                    reason: *reason,
                    message: Some(message.clone()),
                    since,
                });
                Ok(Touched::Attempt)
            }
            AttemptChange::Prepared {
                realm,
                handle,
                image_digest,
            } => match (&self.handle, &self.realm) {
                (None, _) => {
                    self.realm = Some(realm.clone());
                    self.handle = Some(handle.clone());
                    self.image_digest.clone_from(image_digest);
                    Ok(Touched::Attempt)
                }
                (Some(known), Some(in_realm)) if known == handle && in_realm == realm => Ok(Touched::Nothing),
                _ => cannot("have a second thing in its engine"),
            },
            AttemptChange::Started { at } => {
                self.state = state.after(AttemptEvent::Started).unwrap_or(state);
                self.started_at.get_or_insert(*at);
                self.moved_at = tx.stamp(self.moved_at);
                self.waiting = None;
                if job.started_at.is_some() {
                    return Ok(Touched::Attempt);
                }
                job.started_at = Some((*at).max(job.created_at));
                Ok(Touched::Both)
            }
            AttemptChange::Stopping(cause) => match state.after(AttemptEvent::StopDecided) {
                Some(to) => {
                    self.state = to;
                    self.stop_cause = Some(*cause);
                    self.moved_at = tx.stamp(self.moved_at);
                    Ok(Touched::Attempt)
                }
                None if self.stop_cause == Some(*cause) => Ok(Touched::Nothing),
                None => cannot("be stopped for another cause"),
            },
        }
    }
}

/// Ends a live attempt, and does what follows for its job (PROTOCOL X6).
///
/// # Errors
/// `Conflict` where one of them has ended already, or the job is at another attempt.
pub fn end(
    attempt: &mut AttemptRow,
    job: &mut JobRow,
    terms: Terms<'_>,
    outcome: &Outcome,
    tx: &mut impl Transaction,
) -> Result<()> {
    let verdict = decide(
        outcome,
        &Facts {
            stop_cause: attempt.stop_cause,
            cancel_requested: job.cancel_requested_at.is_some(),
            policy: terms.retry,
            max_attempts: job.max_attempts,
            timeout: terms.timeout,
            counted: job.counted,
            platform: job.platform,
            never_set_going: job.never_set_going,
            chance: part::chance(),
        },
    );
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

    if !limits(tx.catalog(), &job.line.queue, &job.app, &job.job).is_empty() {
        tx.tally().free_slot();
    }
    let now = tx.stamp(job.moved_at);
    let again = matches!(verdict.job, AfterAttempt::RetryLater | AfterAttempt::RetryNow);
    if again && terms.is_defined {
        job.resolve(tx);
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
        AfterAttempt::RetryNow => tx.tally().hint(Hint::Line(job.line.clone())),
        AfterAttempt::RetryLater => tx.tally().hint(Hint::Due(verdict.delay)),
        _ => {}
    }
    tx.tally().hint(Hint::Job(job.id));
    Ok(())
}

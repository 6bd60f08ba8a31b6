//! What people do to jobs.

use super::{JobRow, Transaction};
use crate::{
    AttemptId, JobState, Reason,
    error::{Error, ErrorKind, Result},
    state::JobEvent,
    store::Hint,
};

impl JobRow {
    /// Cancels it, or asks its holder to; whether that changed anything.
    ///
    /// # Errors
    /// `Conflict` where it has ended otherwise.
    pub fn cancel(&mut self, tx: &mut impl Transaction) -> Result<bool> {
        match self.state {
            JobState::Cancelled => Ok(false),
            JobState::Scheduled | JobState::Queued => {
                self.end_waiting(tx, JobEvent::CancelledWaiting, Reason::Cancelled, None)?;
                Ok(true)
            }
            JobState::Running if self.cancel_requested_at.is_some() => Ok(false),
            JobState::Running => {
                self.cancel_requested_at = Some(tx.stamp(self.moved_at));
                tx.tally().hint(Hint::Attempt(AttemptId {
                    job: self.id,
                    number: self.attempt,
                }));
                tx.tally().hint(Hint::Job(self.id));
                Ok(true)
            }
            state => {
                let message = format!(
                    "the job {} is {state}; only a job that waits or runs can be cancelled",
                    self.id
                );
                Err(Error::new(ErrorKind::Conflict, "store.cancel", message))
            }
        }
    }

    /// Queues it again on a person's wish; whether that changed anything. `one_off`: it has a definition of its own.
    ///
    /// # Errors
    /// `Conflict` where it has not failed.
    pub fn retry_by_hand(&mut self, tx: &mut impl Transaction, one_off: bool) -> Result<bool> {
        if !self.state.is_ended() {
            return Ok(false);
        }
        let Some(to) = self.state.after(JobEvent::RetriedByHand) else {
            let message = format!(
                "the job {} is {}; only a failed job can be retried",
                self.id, self.state
            );
            return Err(Error::new(ErrorKind::Conflict, "store.retry", message));
        };
        if !one_off {
            self.resolve(tx);
        }
        let now = tx.stamp(self.moved_at);
        // One attempt more; the platform's budgets, the time to start and the expiry begin anew: a person wants it to run.
        self.state = to;
        self.max_attempts = self.counted + 1;
        self.by_hand = true;
        self.platform = 0;
        self.never_set_going = 0;
        self.run_at = now;
        self.moved_at = now;
        self.expires_at = None;
        self.first_claimed_at = None;
        self.finished_at = None;
        self.cancel_requested_at = None;
        tx.tally().hint(Hint::Line(self.line.clone()));
        tx.tally().hint(Hint::Job(self.id));
        Ok(true)
    }
}

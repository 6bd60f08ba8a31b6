//! A job's row.

use std::collections::BTreeMap;

use super::Transaction;
use crate::{
    AppName, JobId, JobName, JobState, Reason, Timestamp, WaitingReason,
    error::{Error, ErrorKind, Result},
    job::{JobRecord, Line, NewJob, Waiting, When},
    state::JobEvent,
    store::{Hint, Pause},
};

/// What a store keeps of a job, but for its payload.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    /// The store's own number of the row: the order of storing.
    pub seq: i64,
    /// The id.
    pub id: JobId,
    /// The app.
    pub app: AppName,
    /// The job definition's name.
    pub job: JobName,
    /// The line.
    pub line: Line,
    /// Whether the enqueuer chose the queue.
    pub queue_chosen: bool,
    /// Where it stands.
    pub state: JobState,
    /// Why it ended so, or why its last attempt did.
    pub reason: Option<Reason>,
    /// What a person should know about it.
    pub message: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Higher first.
    pub priority: i8,
    /// The number of the last attempt; 0 where there is none yet.
    pub attempt: u32,
    /// The job's own attempts.
    pub max_attempts: u32,
    /// Whether `max_attempts` is what a retry by hand allows.
    pub by_hand: bool,
    /// Attempts that counted.
    pub counted: u32,
    /// Attempts that the platform paid for.
    pub platform: u32,
    /// Attempts that were never set going.
    pub never_set_going: u32,
    /// The idempotency key.
    pub key: Option<String>,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When it is, or was, due.
    pub run_at: Timestamp,
    /// When it expires unless an engine has started it.
    pub expires_at: Option<Timestamp>,
    /// When its state changed last.
    pub moved_at: Timestamp,
    /// When it was first claimed; `start_within` counts from here.
    pub first_claimed_at: Option<Timestamp>,
    /// When an engine first started it.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When a cancel was asked for.
    pub cancel_requested_at: Option<Timestamp>,
    /// Since when its reference is out, where it is.
    pub published_at: Option<Timestamp>,
    /// Why its live attempt waits to be started, where it does.
    pub starting: Option<Waiting>,
    /// How it stands in the store, from which a store works out its counts when it saves; `None`: not stored yet.
    pub was: Option<(JobState, Line)>,
}

impl JobRow {
    /// A job that is enqueued now.
    #[must_use]
    pub fn new(seq: i64, job: &NewJob, tx: &impl Transaction) -> Self {
        let now = tx.now();
        let (state, run_at) = match job.when {
            When::Now => (JobState::Queued, now),
            When::In(delay) if delay.is_zero() => (JobState::Queued, now),
            When::In(delay) => (JobState::Scheduled, now.plus(delay)),
            When::At(at) if at <= now => (JobState::Queued, at),
            When::At(at) => (JobState::Scheduled, at),
        };
        let mut row = Self {
            seq,
            id: job.id,
            app: job.app.clone(),
            job: job.job.clone(),
            line: job.line.clone(),
            queue_chosen: job.queue_chosen,
            state,
            reason: None,
            message: None,
            labels: job.labels.clone(),
            priority: job.priority,
            attempt: 0,
            max_attempts: job.max_attempts,
            by_hand: false,
            counted: 0,
            platform: 0,
            never_set_going: 0,
            key: job.key.as_ref().map(|key| key.key.clone()),
            created_at: now,
            run_at,
            expires_at: job.expires_in.map(|time| run_at.plus(time)),
            moved_at: now,
            first_claimed_at: None,
            started_at: None,
            finished_at: None,
            cancel_requested_at: None,
            published_at: None,
            starting: None,
            was: None,
        };
        // By the catalog of this transaction: the enqueuer may have looked at an older one, and whoever changed it has moved
        // only the jobs that were there (PROTOCOL O1).
        if job.definition.is_none() {
            row.resolve(tx);
        }
        row
    }

    /// Goes to the line of its next attempt, by the catalog as it stands (PROTOCOL O1). Not for a one-off.
    pub(super) fn resolve(&mut self, tx: &impl Transaction) {
        let Some(entry) = tx.catalog().job(&self.app, &self.job) else {
            return;
        };
        if !self.queue_chosen {
            self.line.queue = crate::definition::Catalog::queue_of(&self.app, &entry.definition);
        }
        if let Some(executor) = entry.definition.executor.as_ref().or(tx.default_executor()) {
            self.line.executor.clone_from(executor);
        }
    }

    /// When it expires, where that still matters: not once an engine has started it.
    #[must_use]
    pub fn expiry(&self) -> Option<Timestamp> {
        self.expires_at.filter(|_| self.started_at.is_none())
    }

    /// What was scheduled is due: whether that moved it.
    pub fn due(&mut self, tx: &mut impl Transaction) -> bool {
        let Some(to) = self.state.after(JobEvent::Due) else {
            return false;
        };
        self.state = to;
        self.moved_at = tx.stamp(self.moved_at);
        tx.tally().hint(Hint::Job(self.id));
        tx.tally().hint(Hint::Line(self.line.clone()));
        true
    }

    /// Ends it while it waits.
    ///
    /// # Errors
    /// `Conflict` where it does not wait.
    pub fn end_waiting(
        &mut self,
        tx: &mut impl Transaction,
        event: JobEvent,
        reason: Reason,
        message: Option<String>,
    ) -> Result<()> {
        let to = self.state.after(event).ok_or_else(|| {
            let message = format!("the job {} is {}", self.id, self.state);
            Error::new(ErrorKind::Conflict, "store.end", message)
        })?;
        let now = tx.stamp(self.moved_at);
        self.state = to;
        self.reason = Some(reason);
        self.message = message;
        self.moved_at = now;
        self.finished_at = Some(now);
        tx.tally().hint(Hint::Job(self.id));
        Ok(())
    }

    /// Why it waits. `pause`: its queue's; `served`: a live worker has its executor; `full`: a `max_running` leaves it no
    /// room.
    #[must_use]
    pub fn waiting(&self, pause: Option<&Pause>, served: bool, full: bool) -> Option<Waiting> {
        if let (JobState::Queued, Some(pause)) = (self.state, pause) {
            return Some(Waiting {
                reason: WaitingReason::Paused,
                message: Some(pause.reason.clone()).filter(|reason| !reason.is_empty()),
                since: self.moved_at.max(pause.since),
            });
        }
        let (reason, message) = match self.state {
            JobState::Running => return self.starting.clone(),
            JobState::Scheduled if self.attempt > 0 => (WaitingReason::Backoff, None),
            JobState::Scheduled => (WaitingReason::Delayed, None),
            JobState::Queued if !served => {
                let message = format!("no live worker has the executor {}", self.line.executor);
                (WaitingReason::NoWorker, Some(message))
            }
            JobState::Queued if full => (WaitingReason::MaxRunning, None),
            JobState::Queued if self.published_at.is_none() => (WaitingReason::Unpublished, None),
            _ => return None,
        };
        Some(Waiting {
            reason,
            message,
            since: self.moved_at,
        })
    }

    /// The row as the seam tells it.
    #[must_use]
    pub fn tell(self, waiting: Option<Waiting>) -> JobRecord {
        JobRecord {
            id: self.id,
            app: self.app,
            job: self.job,
            line: self.line,
            state: self.state,
            reason: self.reason,
            message: self.message,
            labels: self.labels,
            priority: self.priority,
            attempt: self.attempt,
            max_attempts: self.max_attempts,
            idempotency_key: self.key,
            created_at: self.created_at,
            run_at: self.run_at,
            expires_at: self.expires_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            cancel_requested_at: self.cancel_requested_at,
            waiting,
        }
    }
}

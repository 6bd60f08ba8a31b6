//! Claims: which references may be claimed, and what is frozen when one is.

use std::{collections::BTreeMap, sync::Arc};

use super::{JobRow, Transaction};
use crate::{
    AttemptId, AttemptState, ClaimId, JobState, Payload, Reason,
    attempt::HeldAttempt,
    definition::Definition,
    job::{Line, Reference},
    request::{Origin, StartRequest},
    state::JobEvent,
};

/// A job with what its claim needs beside its row.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The row.
    pub row: JobRow,
    /// The payload.
    pub payload: Payload,
    /// Environment of the enqueuer.
    pub env: BTreeMap<String, String>,
    /// A one-off's own definition.
    pub one_off: Option<Arc<Definition>>,
    /// `traceparent` of its enqueue.
    pub traceparent: Option<String>,
}

/// Whether a reference may be claimed, limits apart.
#[derive(Clone, Debug)]
pub enum Fit {
    /// It may, by this definition.
    Fits(Effective),
    /// It is not the job's next attempt in this line any more.
    Gone,
    /// Its queue is paused.
    Paused,
    /// It cannot run any more: the job ends, for this reason and in these words.
    Unrunnable(Reason, String),
}

/// The definition that an attempt runs.
#[derive(Clone, Debug)]
pub struct Effective {
    definition: Arc<Definition>,
    /// `None` for a one-off.
    version: Option<u32>,
}

impl Candidate {
    /// Whether this reference of `line` may be claimed.
    pub fn fit(&self, line: &Line, reference: Reference, paused: bool, tx: &impl Transaction) -> Fit {
        let row = &self.row;
        let next = row.state.after(JobEvent::Claimed).is_some() && row.attempt + 1 == reference.attempt;
        if !next || row.line != *line {
            return Fit::Gone;
        }
        if paused {
            return Fit::Paused;
        }
        if row.expiry().is_some_and(|at| at <= tx.now()) {
            return Fit::Unrunnable(Reason::Expired, "it expired before it was started".to_owned());
        }
        match self.definition(tx) {
            Some(effective) => Fit::Fits(effective),
            None => {
                let words = format!("the app {} has no definition of the job {} any more", row.app, row.job);
                Fit::Unrunnable(Reason::NoDefinition, words)
            }
        }
    }

    /// Its own definition, or the app's as it stands.
    fn definition(&self, tx: &impl Transaction) -> Option<Effective> {
        if let Some(own) = &self.one_off {
            return Some(Effective {
                definition: Arc::clone(own),
                version: None,
            });
        }
        let entry = tx.catalog().job(&self.row.app, &self.row.job)?;
        Some(Effective {
            definition: Arc::clone(&entry.definition),
            version: Some(entry.version),
        })
    }

    /// Claims it: the row of the running job, and the attempt in its holder's hands with its request frozen.
    #[must_use]
    pub fn claim(self, effective: &Effective, mark: ClaimId, tx: &impl Transaction) -> (JobRow, HeldAttempt) {
        let Effective { definition, version } = effective;
        let row = &self.row;
        let number = row.attempt + 1;
        let max_attempts = if row.by_hand {
            row.max_attempts
        } else {
            definition.retry.max_attempts
        };
        let request = StartRequest::freeze(
            definition,
            &Origin {
                job: row.id,
                app: &row.app,
                name: &row.job,
                line: &row.line,
                mark,
                number,
                max_attempts,
                counted: row.counted,
                enqueued_at: row.created_at,
                expires_at: row.expiry(),
                env: &self.env,
                traceparent: self.traceparent.as_deref(),
                definition_version: *version,
            },
            tx.format(),
        );
        let mut row = self.row;
        row.state = JobState::Running;
        row.attempt = number;
        // Kept beside the frozen request, so that what is left of the job's own attempts can be told without reading it.
        row.max_attempts = max_attempts;
        row.moved_at = tx.stamp(row.moved_at);
        let held = HeldAttempt {
            id: AttemptId { job: row.id, number },
            epoch: 1,
            state: AttemptState::Starting,
            request,
            payload: self.payload,
            first_claimed_at: *row.first_claimed_at.get_or_insert(row.moved_at),
            now: tx.now(),
            handle: None,
            realm: None,
            started_at: None,
            stop_cause: None,
            cancel_requested: false,
        };
        (row, held)
    }
}

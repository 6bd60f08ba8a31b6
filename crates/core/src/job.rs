//! Jobs: what an enqueuer asks for, and what a store tells.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    Timestamp,
    attempt::AttemptRecord,
    definition::Definition,
    format::{Format, Unreadable},
    id::{ClaimId, JobId},
    name::{AppName, ExecutorName, JobName, QueueName},
    payload::Payload,
    state::{JobState, Reason, WaitingReason},
};

/// Jobs of higher priority go first within their line.
pub const PRIORITIES: std::ops::RangeInclusive<i8> = -100..=100;

/// One line of the broker: the jobs of one queue for one executor (PROTOCOL O1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line {
    /// The queue.
    pub queue: QueueName,
    /// The executor.
    pub executor: ExecutorName,
}

impl Line {
    /// The separate line `accept`, by which masters take in whole jobs (PROTOCOL I1). No user's queue can have its name.
    #[must_use]
    pub fn accept() -> Self {
        let (queue, executor) = crate::name::accept();
        Self { queue, executor }
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A slash stands in neither name.
        write!(f, "{}/{}", self.queue, self.executor)
    }
}

/// When a job is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// At once.
    #[default]
    Now,
    /// After this time, from the store's present.
    In(Duration),
    /// At this time of the store's clock.
    At(Timestamp),
}

/// An idempotency key, unique per app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The key as it came.
    pub key: String,
    /// SHA-256 of the request that it came with.
    pub request: [u8; 32],
}

/// What a one-off runs, and on whose word.
#[derive(Clone, Debug, Default)]
pub struct OneOff {
    /// Its definition.
    pub definition: Definition,
    /// Who asks, as recorded: a token's name, or `local`.
    pub by: String,
}

/// A job to be enqueued, checked and resolved.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The id, which it keeps on whichever path it takes (PROTOCOL I1).
    pub id: JobId,
    /// The app.
    pub app: AppName,
    /// The job definition's name.
    pub job: JobName,
    /// The line.
    pub line: Line,
    /// Whether the enqueuer chose the queue: then it stays when the definition changes.
    pub queue_chosen: bool,
    /// The payload.
    pub payload: Payload,
    /// Labels of the enqueuer.
    pub labels: BTreeMap<String, String>,
    /// Environment of the enqueuer, within the definition's `env_allow`.
    pub env: BTreeMap<String, String>,
    /// Higher first.
    pub priority: i8,
    /// When it is due.
    pub when: When,
    /// From its due time to the engine's start.
    pub expires_in: Option<Duration>,
    /// The idempotency key.
    pub key: Option<Key>,
    /// The job's own attempts, as the definition says now.
    pub max_attempts: u32,
    /// A one-off's own definition, in place of the app's.
    pub definition: Option<Box<OneOff>>,
    /// `traceparent` of the request, if it came with one.
    pub traceparent: Option<String>,
}

/// A group of jobs to enqueue in one commit.
#[derive(Clone, Debug)]
pub struct Enqueue {
    /// The jobs.
    pub jobs: Vec<NewJob>,
    /// All or none: with one bad item, nothing is stored and every other item answers `Conflict`.
    pub atomic: bool,
}

/// What became of one job of an [`Enqueue`].
#[derive(Clone, Debug)]
pub struct Enqueued {
    /// The job: the new one, or the first one of a replayed key.
    pub job: JobRecord,
    /// Whether the key was there already.
    pub replayed: bool,
}

/// A job as the store tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRecord {
    /// The id.
    pub id: JobId,
    /// The app.
    pub app: AppName,
    /// The job definition's name.
    pub job: JobName,
    /// The line.
    pub line: Line,
    /// The state.
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
    /// The idempotency key.
    pub idempotency_key: Option<String>,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When it is, or was, due.
    pub run_at: Timestamp,
    /// When it expires unless the engine has started it.
    pub expires_at: Option<Timestamp>,
    /// When its first attempt was started by the engine.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When a cancel was asked for.
    pub cancel_requested_at: Option<Timestamp>,
    /// Why it waits, if it does.
    pub waiting: Option<Waiting>,
}

/// Why a job waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The reason.
    pub reason: WaitingReason,
    /// For a person; the engine's own words where it has some.
    pub message: Option<String>,
    /// Since when.
    pub since: Timestamp,
}

/// A job whole.
#[derive(Clone, Debug, PartialEq)]
pub struct JobDetail {
    /// The job.
    pub job: JobRecord,
    /// Its payload.
    pub payload: Payload,
    /// Its attempts, the first one first.
    pub attempts: Vec<AttemptRecord>,
}

/// A reference to a job that is out in a line: the job, and the number that its next attempt will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// The job.
    pub job: JobId,
    /// The attempt's number to be.
    pub attempt: u32,
}

impl Reference {
    /// The message that goes out, in the format in use (PROTOCOL V1).
    #[must_use]
    pub fn encode(&self, format: Format) -> bytes::Bytes {
        let format = format.to_write();
        let mut bytes = Vec::with_capacity(22);
        bytes.push(format.number());
        bytes.extend_from_slice(self.job.as_bytes());
        bytes.extend_from_slice(&self.attempt.to_be_bytes());
        if format.is_next() {
            bytes.push(0);
        }
        bytes.into()
    }

    /// Reads a message; `None` where it cannot be read.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Self::read(bytes).ok()
    }

    /// Reads a message, or says why it cannot be read.
    pub fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let format = Format::of_message(bytes, "a reference")?;
        let rest = bytes.get(1..).unwrap_or_default();
        let rest = match format.is_next() {
            true => rest.strip_suffix(&[0]),
            false => Some(rest),
        };
        match (
            rest.and_then(<[u8]>::first_chunk::<16>),
            rest.and_then(|rest| rest.get(16..)),
        ) {
            // What follows is no field that this format knows: an error, not ignored.
            (Some(job), Some(&[a, b, c, d])) => Ok(Self {
                job: JobId::from_bytes(*job),
                attempt: u32::from_be_bytes([a, b, c, d]),
            }),
            _ => {
                let wanted = 21 + usize::from(format.is_next());
                let what = format!("a reference has {wanted} bytes, this one {}", bytes.len());
                Err(Unreadable::Malformed(what))
            }
        }
    }
}

/// A request to cancel a job.
#[derive(Clone, Debug)]
pub struct Cancel {
    /// The job.
    pub job: JobId,
    /// Who asks, as recorded: a token's name, or `local`.
    pub by: String,
}

/// A request to retry a failed job by hand.
#[derive(Clone, Debug)]
pub struct RetryByHand {
    /// The job.
    pub job: JobId,
    /// Who asks.
    pub by: String,
}

/// What a cancel or retry did.
#[derive(Clone, Debug)]
pub struct Acted {
    /// The job as it stands now.
    pub job: JobRecord,
    /// Whether the request changed anything.
    pub changed: bool,
}

/// The random mark that the engine's thing carries: the number of the claim that made its attempt.
pub type Mark = ClaimId;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_too_new_is_not_malformed_and_one_too_long_is() {
        let reference = Reference {
            job: JobId::new(),
            attempt: 7,
        };
        for format in [Format::PREVIOUS, Format::OWN] {
            let message = reference.encode(format);
            assert_eq!(message[0], format.number());
            assert_eq!(Reference::read(&message), Ok(reference));
            let mut newer = message.to_vec();
            newer[0] = Format::OWN.number() + 1;
            newer.push(0);
            let too_new = Unreadable::TooNew(Format::new(Format::OWN.number() + 1));
            assert_eq!(Reference::read(&newer), Err(too_new));
            let mut longer = message.to_vec();
            longer.push(0);
            for bad in [&longer[..], &message[..20], b"", b"\0", b"{\"job\": 1}", b"\xff"] {
                assert!(matches!(Reference::read(bad), Err(Unreadable::Malformed(_))), "{bad:?}");
            }
        }
        let unknown = reference.encode(Format::new(9));
        assert_eq!(
            unknown,
            reference.encode(Format::OWN),
            "no release writes a format that it does not know"
        );
    }
}

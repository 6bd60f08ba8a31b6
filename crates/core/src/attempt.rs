//! Attempts: what a worker holds, writes about them, and what a store tells.

use crate::{
    Timestamp,
    executor::{Handle, RealmId},
    finish::{Outcome, StopCause},
    id::{AttemptId, ClaimId, Epoch, IncarnationId},
    job::{Line, Reference},
    name::ExecutorName,
    payload::Payload,
    request::StartRequest,
    state::{AttemptState, JobState, Reason, WaitingReason},
};

/// A claim of a batch of references, in one short transaction (PROTOCOL O6).
#[derive(Clone, Debug)]
pub struct Claim {
    /// The claim's number; its rows keep it.
    pub claim: ClaimId,
    /// Who claims; refused as `Fenced` where its lease has ended.
    pub incarnation: IncarnationId,
    /// The lines that the references came from: only jobs that still belong to this line are claimed.
    pub references: Vec<(Line, Reference)>,
}

/// What became of one reference.
#[derive(Clone, Debug)]
pub enum Claimed {
    /// The worker holds the attempt.
    Held(Box<HeldAttempt>),
    /// Somebody else's, cancelled, ended, moved to another line: drop it.
    Gone,
    /// A `max_running` is reached: it waits in the store and goes out again when a slot frees.
    OverLimit,
    /// Its queue is paused: it waits in the store and goes out again when the queue is resumed.
    Paused,
    /// It could not run (expired, no definition) and the job has ended.
    Ended(Reason),
}

/// An attempt in the hands of a worker.
#[derive(Clone, Debug)]
pub struct HeldAttempt {
    /// Which.
    pub id: AttemptId,
    /// The epoch to write with.
    pub epoch: Epoch,
    /// Where it stands.
    pub state: AttemptState,
    /// What to start, frozen at the claim.
    pub request: StartRequest,
    /// The job's payload; `null` where it was adopted, since an adopter starts nothing.
    pub payload: Payload,
    /// When the job was first claimed; `start_within` counts from here.
    pub first_claimed_at: Timestamp,
    /// The store's time at this answer, to turn its stamps into durations.
    pub now: Timestamp,
    /// The engine's thing, once it is recorded.
    pub handle: Option<Handle>,
    /// The realm it is in, once it is recorded.
    pub realm: Option<RealmId>,
    /// The engine's own start time, once it is recorded.
    pub started_at: Option<Timestamp>,
    /// The cause of a stop that was decided.
    pub stop_cause: Option<StopCause>,
    /// Whether somebody asked to cancel.
    pub cancel_requested: bool,
}

/// One write about an attempt; refused as `Fenced` where the epoch is old.
#[derive(Clone, Debug)]
pub struct AttemptWrite {
    /// Which.
    pub attempt: AttemptId,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// The writer's incarnation: refused as `Fenced` where its lease has ended.
    pub incarnation: IncarnationId,
    /// What is written.
    pub change: AttemptChange,
}

/// Whether this writer may write about an attempt whose row names this holder and epoch (PROTOCOL H1). Beside it the
/// writer's lease must live, which the store alone can judge.
#[must_use]
pub fn may_write(row: (IncarnationId, Epoch), writer: (IncarnationId, Epoch)) -> bool {
    row == writer
}

/// What is written about an attempt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AttemptChange {
    /// It waits to be started, for this reason; `None`: it does not wait any more.
    Waiting(Option<(WaitingReason, String)>),
    /// The engine's thing is made and does not run (PROTOCOL X1); from here it may be set going.
    Prepared {
        /// The realm.
        realm: RealmId,
        /// The engine's id.
        handle: Handle,
        /// The image's digest, where the engine says it.
        image_digest: Option<String>,
    },
    /// The engine runs it.
    Started {
        /// The engine's own start time.
        at: Timestamp,
    },
    /// A stop is decided and about to be sent.
    Stopping(StopCause),
    /// It ended: outcome, and what follows for the job, in one transaction (PROTOCOL X6).
    Ended(Outcome),
    /// Log sealed, thing removed: nobody holds it any more.
    Finalised(LogSummary),
}

/// The answer to one [`AttemptWrite`].
#[derive(Clone, Debug)]
pub struct Written {
    /// Where the attempt stands now.
    pub state: AttemptState,
    /// Where its job stands now.
    pub job: JobState,
    /// Whether somebody asked to cancel.
    pub cancel_requested: bool,
}

/// What is known of an attempt's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSummary {
    /// `open`, `complete` or `incomplete`.
    pub state: LogState,
    /// Why it is incomplete.
    pub reason: Option<String>,
    /// Bytes of all streams.
    pub bytes: u64,
}

/// Whether a log is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogState {
    /// Still written.
    #[default]
    Open,
    /// Whole, to the last byte.
    Complete,
    /// Something is missing; the reason says what.
    Incomplete,
}

/// An attempt as the store tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRecord {
    /// Which.
    pub id: AttemptId,
    /// Whether it counted against the job's own attempts; `None` while it lives.
    pub counted: Option<bool>,
    /// The state.
    pub state: AttemptState,
    /// Why it ended so.
    pub reason: Option<Reason>,
    /// The engine's own code.
    pub detail: Option<String>,
    /// The engine's own words.
    pub message: Option<String>,
    /// The exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The image asked for.
    pub image: Option<String>,
    /// The image that ran.
    pub image_digest: Option<String>,
    /// The definition's version; `None` for a one-off.
    pub definition_version: Option<u32>,
    /// The executor.
    pub executor: ExecutorName,
    /// The realm.
    pub realm: Option<RealmId>,
    /// The engine's id.
    pub handle: Option<Handle>,
    /// The worker that holds or last held it, by its host's name and incarnation.
    pub worker: Option<String>,
    /// When it was claimed.
    pub created_at: Timestamp,
    /// When the engine started it.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Its log.
    pub log: LogSummary,
    /// Whether it is finalised.
    pub finalised: bool,
}

/// What a store knows of an attempt whose thing was found in a realm (PROTOCOL C1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// Not in this store.
    Unknown,
    /// Held, or waiting to be adopted.
    Open,
    /// Over and done: what is left of it may be removed.
    Finalised,
}

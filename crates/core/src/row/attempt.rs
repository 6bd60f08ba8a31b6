//! An attempt's row.

use crate::{
    AttemptId, AttemptState, Epoch, IncarnationId, Reason, Timestamp,
    attempt::LogSummary,
    executor::{Handle, RealmId},
    finish::StopCause,
    job::Waiting,
};

/// What a store keeps of an attempt and the steps look at or change.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRow {
    /// The store's own number of the row.
    pub seq: i64,
    /// Which.
    pub id: AttemptId,
    /// Who holds it.
    pub holder: IncarnationId,
    /// Raised at every take-over.
    pub epoch: Epoch,
    /// Where it stands.
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
    /// The image that ran.
    pub image_digest: Option<String>,
    /// The realm, once it is prepared.
    pub realm: Option<RealmId>,
    /// The engine's id, once it is prepared.
    pub handle: Option<Handle>,
    /// Whether it counted against the job's own attempts; `None` while it lives.
    pub counted: Option<bool>,
    /// The cause of a stop that was decided.
    pub stop_cause: Option<StopCause>,
    /// When its state changed last.
    pub moved_at: Timestamp,
    /// The engine's own start time.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When it was finalised.
    pub finalised_at: Option<Timestamp>,
    /// Why it waits to be started.
    pub waiting: Option<Waiting>,
    /// Its log.
    pub log: LogSummary,
}

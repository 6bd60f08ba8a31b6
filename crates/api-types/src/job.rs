//! A job and its attempts in JSON (DESIGN.md §6).

use std::collections::BTreeMap;

use robata_core::{
    AppName, AttemptState, ExecutorName, JobId, JobName, JobState, QueueName, Reason, Timestamp, WaitingReason,
    attempt::AttemptRecord,
    job::{JobDetail, JobRecord},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::word::{LogWord, Word};

/// A job. `payload` and `attempts` are there only where one job is asked for by its id.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// The id, a UUIDv7 in lower case.
    #[schema(value_type = String, format = "uuid")]
    pub id: JobId,
    /// The app.
    #[schema(value_type = String)]
    pub app: AppName,
    /// The job definition's name.
    #[schema(value_type = String)]
    pub job: JobName,
    /// The queue.
    #[schema(value_type = String)]
    pub queue: QueueName,
    /// The executor.
    #[schema(value_type = String)]
    pub executor: ExecutorName,
    /// `scheduled`, `queued`, `running`, `succeeded`, `failed` or `cancelled`; may grow.
    #[schema(value_type = String)]
    pub state: Word<JobState>,
    /// Why it ended so, or why its last attempt did: `exit_code`, `signal`, `out_of_memory`, `timed_out`, `image_pull`,
    /// `start_error`, `no_definition`, `expired`, `cancelled`, `no_capacity`, `lost`, `platform`; may grow.
    #[schema(value_type = Option<String>)]
    pub reason: Option<Word<Reason>>,
    /// What a person should know about it.
    pub message: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// −100 to 100; higher first.
    pub priority: i8,
    /// The number of the last attempt; 0 where there is none yet.
    pub attempt: u32,
    /// The job's own attempts.
    pub max_attempts: u32,
    /// The idempotency key, if it came with one.
    pub idempotency_key: Option<String>,
    /// When it was stored.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it is, or was, due.
    #[schema(value_type = String, format = DateTime)]
    pub run_at: Timestamp,
    /// When it expires unless the engine has started it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// When the engine started its first attempt.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// When somebody asked to cancel it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub cancel_requested_at: Option<Timestamp>,
    /// Why it waits, if it does.
    pub waiting: Option<Waiting>,
    /// The payload, as the very bytes that came. Only singly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub payload: Option<Box<RawValue>>,
    /// The attempts, the first one first. Only singly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<Vec<Attempt>>,
}

/// Why a job waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Waiting {
    /// `delayed`, `backoff`, `paused`, `no_worker`, `max_running`, `unpublished`, `pulling`, `no_capacity` or
    /// `engine_unreachable`; may grow.
    #[schema(value_type = String)]
    pub reason: Word<WaitingReason>,
    /// For a person; the engine's own words where it has some.
    pub message: Option<String>,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// One try at a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// Whether it used up one of the job's own attempts; null while it lives.
    pub counted: Option<bool>,
    /// `starting`, `running`, `stopping`, `succeeded`, `failed`, `timed_out`, `cancelled`, `lost` or `error`; may grow.
    #[schema(value_type = String)]
    pub state: Word<AttemptState>,
    /// Why it ended so; the words of a job's `reason`.
    #[schema(value_type = Option<String>)]
    pub reason: Option<Word<Reason>>,
    /// The engine's own code.
    pub detail: Option<String>,
    /// The engine's own words.
    pub message: Option<String>,
    /// The process's exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The image asked for.
    pub image: Option<String>,
    /// The image that ran.
    pub image_digest: Option<String>,
    /// The definition's version; null for a one-off.
    pub definition_version: Option<u32>,
    /// The executor.
    #[schema(value_type = String)]
    pub executor: ExecutorName,
    /// The engine's identity.
    pub realm: Option<String>,
    /// The engine's own id of the container or process.
    pub handle: Option<String>,
    /// The worker that holds or last held it.
    pub worker: Option<String>,
    /// When it was claimed.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When the engine started it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// Its log.
    pub log: AttemptLog,
}

/// What is known of an attempt's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttemptLog {
    /// `open`, `complete` or `incomplete`; may grow.
    #[schema(value_type = String)]
    pub state: Word<LogWord>,
    /// Why it is incomplete.
    pub reason: Option<String>,
    /// Bytes of all streams.
    pub bytes: u64,
}

/// A page of jobs, newest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// The jobs, without payloads and attempts.
    pub jobs: Vec<Job>,
    /// Goes into `cursor` for the next page; null at the end.
    pub next_cursor: Option<String>,
}

impl From<JobRecord> for Job {
    fn from(record: JobRecord) -> Self {
        Self {
            id: record.id,
            app: record.app,
            job: record.job,
            queue: record.line.queue,
            executor: record.line.executor,
            state: record.state.into(),
            reason: record.reason.map(Word::Known),
            message: record.message,
            labels: record.labels,
            priority: record.priority,
            attempt: record.attempt,
            max_attempts: record.max_attempts,
            idempotency_key: record.idempotency_key,
            created_at: record.created_at,
            run_at: record.run_at,
            expires_at: record.expires_at,
            started_at: record.started_at,
            finished_at: record.finished_at,
            cancel_requested_at: record.cancel_requested_at,
            waiting: record.waiting.map(|waiting| Waiting {
                reason: waiting.reason.into(),
                message: waiting.message,
                since: waiting.since,
            }),
            payload: None,
            attempts: None,
        }
    }
}

/// Fails only where the stored payload is no JSON any more: somebody changed the store by hand.
impl TryFrom<JobDetail> for Job {
    type Error = serde_json::Error;

    fn try_from(detail: JobDetail) -> Result<Self, Self::Error> {
        let payload = serde_json::from_slice(detail.payload.bytes())?;
        let attempts = detail.attempts.into_iter().map(Attempt::from).collect();
        Ok(Self {
            payload: Some(payload),
            attempts: Some(attempts),
            ..detail.job.into()
        })
    }
}

impl From<AttemptRecord> for Attempt {
    fn from(record: AttemptRecord) -> Self {
        Self {
            number: record.id.number,
            counted: record.counted,
            state: record.state.into(),
            reason: record.reason.map(Word::Known),
            detail: record.detail,
            message: record.message,
            exit_code: record.exit_code,
            signal: record.signal,
            image: record.image,
            image_digest: record.image_digest,
            definition_version: record.definition_version,
            executor: record.executor,
            realm: record.realm.map(|realm| realm.0),
            handle: record.handle.map(|handle| handle.0),
            worker: record.worker,
            created_at: record.created_at,
            started_at: record.started_at,
            finished_at: record.finished_at,
            log: AttemptLog {
                state: LogWord(record.log.state).into(),
                reason: record.log.reason,
                bytes: record.log.bytes,
            },
        }
    }
}

//! The start request: what an attempt runs, frozen at its claim, so that two tries of one start are the same.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    definition::{Definition, duration},
    id::{AttemptId, JobId},
    job::{Line, Mark},
    name::{AppName, ExecutorName, JobName},
};

/// This release's format (PROTOCOL V1).
pub const FORMAT: u32 = 1;
/// The payload is in the environment, too, up to this size.
pub const MAX_PAYLOAD_ENV_BYTES: usize = 32 << 10;

/// What a request is made of besides the definition.
#[derive(Clone, Debug)]
pub struct Origin<'a> {
    /// The job.
    pub job: JobId,
    /// The app.
    pub app: &'a AppName,
    /// The job definition's name.
    pub name: &'a JobName,
    /// The line it was claimed from.
    pub line: &'a Line,
    /// The claim's mark.
    pub mark: Mark,
    /// The attempt's number.
    pub number: u32,
    /// The job's own attempts.
    pub max_attempts: u32,
    /// Attempts that counted before this one.
    pub counted: u32,
    /// When the job was stored.
    pub enqueued_at: Timestamp,
    /// When the job expires.
    pub expires_at: Option<Timestamp>,
    /// The enqueuer's environment, within `env_allow` when it came.
    pub env: &'a BTreeMap<String, String>,
    /// `traceparent` of the enqueue.
    pub traceparent: Option<&'a str>,
    /// The definition's version; `None` for a one-off.
    pub definition_version: Option<u32>,
}

/// A start request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    /// [`FORMAT`].
    pub format: u32,
    /// Which attempt.
    pub attempt: AttemptId,
    /// The mark that the engine's thing carries.
    pub mark: Mark,
    /// The app.
    pub app: AppName,
    /// The job definition's name.
    pub job: JobName,
    /// The executor.
    pub executor: ExecutorName,
    /// The definition's version; `None` for a one-off.
    pub definition_version: Option<u32>,
    /// The definition as it stood at the claim.
    pub definition: Definition,
    /// The environment whole, but for what the executor adds (payload file, secrets).
    pub env: BTreeMap<String, String>,
    /// When the job expires.
    pub expires_at: Option<Timestamp>,
    /// From the first claim to the engine's start.
    #[serde(with = "duration")]
    pub start_within: Duration,
}

impl StartRequest {
    /// Freezes `definition` for an attempt.
    ///
    /// An enqueuer's environment is held to `env_allow` as it stands now, too: a deploy that narrows it narrows it for
    /// waiting jobs.
    #[must_use]
    pub fn freeze(definition: &Definition, origin: &Origin<'_>) -> Self {
        let mut env = definition.env.clone();
        let allowed = |name: &str| {
            let listed = definition.env_allow.iter().any(|allowed| allowed == name);
            listed && !definition.secrets.contains_key(name)
        };
        env.extend(
            origin
                .env
                .iter()
                .filter(|(name, _)| allowed(name))
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        let left = origin.max_attempts.saturating_sub(origin.counted + 1);
        for (name, value) in [
            ("ROBATA_JOB_ID", origin.job.to_string()),
            ("ROBATA_ATTEMPT", origin.number.to_string()),
            ("ROBATA_ATTEMPTS_LEFT", left.to_string()),
            ("ROBATA_APP", origin.app.to_string()),
            ("ROBATA_JOB", origin.name.to_string()),
            ("ROBATA_QUEUE", origin.line.queue.to_string()),
            ("ROBATA_ENQUEUED_AT", origin.enqueued_at.to_string()),
        ] {
            env.insert(name.to_owned(), value);
        }
        let traceparent = origin
            .traceparent
            .map_or_else(|| traceparent_of(origin.job, origin.number), str::to_owned);
        env.insert("TRACEPARENT".to_owned(), traceparent);
        Self {
            format: FORMAT,
            attempt: AttemptId {
                job: origin.job,
                number: origin.number,
            },
            mark: origin.mark,
            app: origin.app.clone(),
            job: origin.name.clone(),
            executor: origin.line.executor.clone(),
            definition_version: origin.definition_version,
            definition: definition.clone(),
            env,
            expires_at: origin.expires_at,
            start_within: definition.start_within,
        }
    }
}

/// A `traceparent` of its own for a job that came without one: the trace is the job, the span the attempt.
fn traceparent_of(job: JobId, number: u32) -> String {
    format!("00-{}-{:016x}-00", job.uuid().simple(), u64::from(number))
}

//! Enqueueing one job or many.

use std::collections::BTreeMap;

use robata_core::{AppName, JobName, QueueName, Result, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::{job::Job, problem::Problem, span::Span};

/// A job to be enqueued. Unknown fields are refused.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnqueueRequest {
    /// The app.
    #[schema(value_type = String, example = "shop")]
    pub app: AppName,
    /// The job definition's name.
    #[schema(value_type = String, example = "resize")]
    pub job: JobName,
    /// Any JSON, at most 1 MiB and 128 levels deep; null where it is left out. Its bytes come through unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub payload: Option<Box<RawValue>>,
    /// One of the queues that the app's definitions name; default: the definition's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub queue: Option<QueueName>,
    /// Not before so many seconds have passed. Not together with `run_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_seconds: Option<f64>,
    /// Not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub run_at: Option<Timestamp>,
    /// From `run_at` to the engine's start: text as `1h30m`, or a number of seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub expires_in: Option<Span>,
    /// −100 to 100, higher first; default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -100, maximum = 100)]
    pub priority: Option<i64>,
    /// 1 to 256 bytes, unique per app: the same request again answers with the first job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Environment variables, only those that the definition's `env_allow` lists.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// At most 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Jobs to be enqueued in one call.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    /// At most 10,000.
    pub jobs: Vec<EnqueueRequest>,
    /// All or none.
    #[serde(default)]
    pub atomic: bool,
}

/// What became of a batch.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BatchAnswer {
    /// One for each job, in their order.
    pub results: Vec<BatchItem>,
}

/// What became of one job of a batch.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BatchItem {
    /// The status that this job would have been answered with alone: 201, 200 (replayed), 404, 409, 422, 503.
    pub status: u16,
    /// The job, where it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
    /// Else why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

impl EnqueueRequest {
    /// A request with nothing but app and job; an error where a name is none.
    pub fn new(app: &str, job: &str) -> Result<Self> {
        Ok(Self {
            app: app.parse()?,
            job: job.parse()?,
            payload: None,
            queue: None,
            delay_seconds: None,
            run_at: None,
            expires_in: None,
            priority: None,
            idempotency_key: None,
            env: BTreeMap::new(),
            labels: BTreeMap::new(),
        })
    }
}

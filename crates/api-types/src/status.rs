//! Queues, workers and readiness.

use std::collections::BTreeMap;

use robata_core::{
    ExecutorName, IncarnationId, QueueName, Timestamp,
    store::{QueueCounts, WorkerRecord},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::operate::Pause;

/// All queues that have jobs or settings.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct QueueList {
    /// By name.
    pub queues: Vec<Queue>,
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Queue {
    /// Its name.
    #[schema(value_type = String)]
    pub queue: QueueName,
    /// At most so many attempts at once, over all workers.
    pub max_running: Option<u32>,
    /// Where it is paused: why, by whom and since when.
    pub paused: Option<Pause>,
    /// Jobs that are not due.
    pub scheduled: u64,
    /// Jobs that wait for a worker.
    pub queued: u64,
    /// Jobs that run.
    pub running: u64,
    /// The same by executor.
    pub lines: Vec<QueueLine>,
}

/// The part of a queue that goes to one executor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueLine {
    /// The executor.
    #[schema(value_type = String)]
    pub executor: ExecutorName,
    /// Jobs that are not due.
    pub scheduled: u64,
    /// Jobs that wait for a worker.
    pub queued: u64,
    /// Jobs that run.
    pub running: u64,
}

impl From<QueueCounts> for QueueLine {
    fn from(counts: QueueCounts) -> Self {
        Self {
            executor: counts.line.executor,
            scheduled: counts.scheduled,
            queued: counts.queued,
            running: counts.running,
        }
    }
}

/// All workers, live ones first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkerList {
    /// The workers.
    pub workers: Vec<Worker>,
}

/// A worker's incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    /// The incarnation's id.
    #[schema(value_type = String, format = "uuid")]
    pub id: IncarnationId,
    /// The host's name.
    pub host: String,
    /// The process id.
    pub pid: u32,
    /// Its executors.
    #[schema(value_type = std::collections::HashMap<String, WorkerExecutor>)]
    pub executors: BTreeMap<ExecutorName, WorkerExecutor>,
    /// Attempts it holds.
    pub attempts: u64,
    /// When it registered.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// Its last heartbeat.
    #[schema(value_type = String, format = DateTime)]
    pub seen_at: Timestamp,
    /// When its lease ended, if it has.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// Whether it was asked to drain: it takes nothing new, and leaves once what it holds has ended.
    pub draining: bool,
    /// The newest format that it reads: while workers differ, an upgrade is under way. A server that does not tell is of
    /// the first.
    #[serde(default = "first_format")]
    pub format: u8,
}

const fn first_format() -> u8 {
    1
}

/// An executor of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerExecutor {
    /// The engine's identity; null while it cannot be reached.
    pub realm: Option<String>,
    /// Attempts it takes at once.
    pub slots: u32,
}

impl From<WorkerRecord> for Worker {
    fn from(record: WorkerRecord) -> Self {
        let executors = record.executors.into_iter().map(|(name, executor)| {
            let executor = WorkerExecutor {
                realm: executor.realm.map(|realm| realm.0),
                slots: executor.slots,
            };
            (name, executor)
        });
        Self {
            id: record.incarnation,
            host: record.host,
            pid: record.pid,
            executors: executors.collect(),
            attempts: record.held,
            started_at: record.started_at,
            seen_at: record.seen_at,
            ended_at: record.ended_at,
            draining: record.draining,
            format: record.format.number(),
        }
    }
}

/// `/healthz`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `alive`.
    pub status: String,
    /// The program's version.
    pub version: String,
}

/// `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    /// Whether it can do its work.
    pub ready: bool,
    /// What it needs, each tried just now.
    pub needs: Vec<Need>,
}

/// One need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Need {
    /// `store`, `logs`.
    pub name: String,
    /// Whether it serves.
    pub ok: bool,
    /// Whether nothing works without it; else it is only degraded.
    pub required: bool,
    /// What is wrong, if something is.
    pub message: Option<String>,
}

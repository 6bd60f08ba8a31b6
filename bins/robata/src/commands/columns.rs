//! What a list shows of each job.

use robata_client::Job;
use robata_core::Timestamp;

use crate::{
    clock,
    commands::show::{state_words, tone, why},
    output::Tone,
    table::{Table, cell, maybe},
};

/// A column of a list of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Column {
    /// The job's id.
    Id,
    /// App and definition.
    Job,
    /// The queue.
    Queue,
    /// The executor.
    Executor,
    /// The state.
    State,
    /// The last attempt's number, and how many the job has.
    Attempt,
    /// The priority.
    Priority,
    /// The labels.
    Labels,
    /// The idempotency key.
    Key,
    /// When it was stored.
    Created,
    /// When it is, or was, due.
    Due,
    /// When its first attempt was started.
    Started,
    /// When it ended.
    Finished,
    /// How long it ran, or runs.
    Took,
    /// Why it waits, or ended so.
    Why,
}

/// Those that are shown unless others are asked for.
pub(crate) const USUAL: [Column; 7] = [
    Column::Id,
    Column::Job,
    Column::State,
    Column::Attempt,
    Column::Created,
    Column::Took,
    Column::Why,
];

/// A table of jobs.
pub(crate) fn table(columns: &[Column], jobs: &[Job]) -> Table {
    let now = clock::now();
    let heading: Vec<_> = columns.iter().map(|column| column.heading()).collect();
    let mut table = Table::new(&heading);
    for job in jobs {
        table.row(columns.iter().map(|column| column.cell(job, now)).collect());
    }
    table
}

impl Column {
    fn heading(self) -> &'static str {
        match self {
            Self::Id => "ID",
            Self::Job => "JOB",
            Self::Queue => "QUEUE",
            Self::Executor => "EXECUTOR",
            Self::State => "STATE",
            Self::Attempt => "ATTEMPT",
            Self::Priority => "PRIORITY",
            Self::Labels => "LABELS",
            Self::Key => "KEY",
            Self::Created => "CREATED",
            Self::Due => "DUE",
            Self::Started => "STARTED",
            Self::Finished => "FINISHED",
            Self::Took => "TOOK",
            Self::Why => "WHY",
        }
    }

    fn cell(self, job: &Job, now: Timestamp) -> (Option<Tone>, String) {
        let when = |time: Option<Timestamp>| maybe(time.map(|time| clock::ago(time, now)));
        match self {
            Self::Id => cell(job.id.to_string()),
            Self::Job => cell(format!("{}/{}", job.app, job.job)),
            Self::Queue => cell(job.queue.as_str()),
            Self::Executor => cell(job.executor.as_str()),
            Self::State => (tone(job), state_words(job)),
            Self::Attempt => cell(format!("{}/{}", job.attempt, job.max_attempts)),
            Self::Priority => cell(job.priority.to_string()),
            Self::Labels => {
                let labels = job.labels.iter().map(|(key, value)| format!("{key}={value}"));
                let labels: Vec<_> = labels.collect();
                maybe((!labels.is_empty()).then(|| labels.join(",")))
            }
            Self::Key => maybe(job.idempotency_key.as_ref()),
            Self::Created => when(Some(job.created_at)),
            Self::Due => when(Some(job.run_at)),
            Self::Started => when(job.started_at),
            Self::Finished => when(job.finished_at),
            Self::Took => {
                let took = |start| clock::span(job.finished_at.unwrap_or(now).since(start));
                maybe(job.started_at.map(took))
            }
            Self::Why => cell(why(job)),
        }
    }
}

//! Why a job waits: worked out when it is read.

use std::collections::BTreeSet;

use robata_core::{
    ExecutorName, JobState, WaitingReason,
    job::{JobRecord, Waiting},
    store::Pause,
};
use sqlx::SqliteConnection;

use crate::{
    error::Result,
    job_row::JobRow,
    limit::{Rooms, limits},
    shared::Shared,
};

/// Tells rows, each with why it waits.
pub(crate) async fn tell_all(
    conn: &mut SqliteConnection,
    shared: &Shared,
    rows: Vec<JobRow>,
) -> Result<Vec<JobRecord>> {
    let catalog = shared.catalog();
    let executors = shared.live_executors();
    let paused = shared.paused();
    let mut rooms = Rooms::default();
    let mut told = Vec::with_capacity(rows.len());
    for row in rows {
        let limits = match row.state {
            JobState::Queued => limits(&catalog, &row.line.queue, &row.app, &row.job),
            _ => Vec::new(),
        };
        let full = rooms.of(conn, &limits).await?.is_some_and(|room| room <= 0);
        let waiting = why(&row, paused.get(&row.line.queue), &executors, full);
        told.push(row.tell(waiting));
    }
    Ok(told)
}

/// Tells one row.
pub(crate) async fn tell(conn: &mut SqliteConnection, shared: &Shared, row: JobRow) -> Result<JobRecord> {
    let mut told = tell_all(conn, shared, vec![row]).await?;
    Ok(told.remove(0))
}

/// Why a job waits; `full`: a `max_running` leaves it no room.
pub(crate) fn why(
    row: &JobRow,
    paused: Option<&Pause>,
    executors: &BTreeSet<ExecutorName>,
    full: bool,
) -> Option<Waiting> {
    if let (JobState::Queued, Some(pause)) = (row.state, paused) {
        return Some(Waiting {
            reason: WaitingReason::Paused,
            message: Some(pause.reason.clone()).filter(|reason| !reason.is_empty()),
            since: row.moved_at.max(pause.since),
        });
    }
    let (reason, message) = match row.state {
        JobState::Running => return row.starting.clone(),
        JobState::Scheduled if row.attempt > 0 => (WaitingReason::Backoff, None),
        JobState::Scheduled => (WaitingReason::Delayed, None),
        JobState::Queued if !executors.contains(&row.line.executor) => {
            let message = format!("no live worker has the executor {}", row.line.executor);
            (WaitingReason::NoWorker, Some(message))
        }
        JobState::Queued if full => (WaitingReason::MaxRunning, None),
        JobState::Queued if row.published_at.is_none() => (WaitingReason::Unpublished, None),
        _ => return None,
    };
    Some(Waiting {
        reason,
        message,
        since: row.moved_at,
    })
}

//! Why a job waits: worked out when it is read.

use robata_core::{
    JobState,
    job::JobRecord,
    row::{JobRow, limits},
};
use sqlx::SqliteConnection;

use crate::{error::Result, limit::Rooms, shared::Shared};

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
        let waiting = row.waiting(
            paused.get(&row.line.queue),
            executors.contains(&row.line.executor),
            full,
        );
        told.push(row.tell(waiting));
    }
    Ok(told)
}

/// Tells one row.
pub(crate) async fn tell(conn: &mut SqliteConnection, shared: &Shared, row: JobRow) -> Result<JobRecord> {
    let mut told = tell_all(conn, shared, vec![row]).await?;
    Ok(told.remove(0))
}

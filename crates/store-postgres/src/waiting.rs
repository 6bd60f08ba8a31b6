//! Why a job waits: worked out when it is read.

use std::{collections::BTreeMap, sync::Arc};

use robata_core::{
    ExecutorName, JobState,
    job::{JobRecord, Waiting},
    row::{JobRow, limits},
};

use crate::{
    conn::Conn,
    error::Result,
    lease::StoredExecutor,
    limit::Rooms,
    pause,
    shared::Colours,
    sql::{Read as _, q},
    tx::Tx,
};

/// Reads what says why queued jobs wait.
pub(crate) async fn read_colours(conn: &mut Conn) -> Result<Colours> {
    let mut colours = Colours {
        paused: pause::all(conn).await?,
        ..Colours::default()
    };
    for row in q("SELECT executors FROM robata.workers WHERE ended_at IS NULL AND NOT draining")
        .fetch_all(conn)
        .await?
    {
        // One that cannot be read is told by whoever lists the workers.
        if let Ok(executors) = row.json::<BTreeMap<ExecutorName, StoredExecutor>>("executors") {
            colours.executors.extend(executors.into_keys());
        }
    }
    Ok(colours)
}

/// The same, a second old at most: for answers on the hot path.
pub(crate) async fn recent_colours(tx: &mut Tx) -> Result<Arc<Colours>> {
    if let Some(colours) = tx.shared.colours() {
        return Ok(colours);
    }
    let colours = Arc::new(read_colours(tx.conn()).await?);
    tx.shared.set_colours(Some(Arc::clone(&colours)));
    Ok(colours)
}

/// Tells rows, each with why it waits.
pub(crate) async fn tell_all(tx: &mut Tx, rows: Vec<JobRow>) -> Result<Vec<JobRecord>> {
    let colours = if rows.iter().any(|row| row.state == JobState::Queued) {
        read_colours(tx.conn()).await?
    } else {
        Colours::default()
    };
    let mut rooms = Rooms::default();
    let mut told = Vec::with_capacity(rows.len());
    for row in rows {
        let limits = match row.state {
            JobState::Queued => limits(&tx.catalog, &row.line.queue, &row.app, &row.job),
            _ => Vec::new(),
        };
        let full = rooms.of(tx.conn(), &limits).await?.is_some_and(|room| room <= 0);
        let waiting = why(&row, &colours, full);
        told.push(row.tell(waiting));
    }
    Ok(told)
}

/// Tells one row.
pub(crate) async fn tell(tx: &mut Tx, row: JobRow) -> Result<JobRecord> {
    let mut told = tell_all(tx, vec![row]).await?;
    Ok(told.remove(0))
}

/// Why a job waits; `full`: a `max_running` leaves it no room.
pub(crate) fn why(row: &JobRow, colours: &Colours, full: bool) -> Option<Waiting> {
    let line = &row.line;
    row.waiting(
        colours.paused.get(&line.queue),
        colours.executors.contains(&line.executor),
        full,
    )
}

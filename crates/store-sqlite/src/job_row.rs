//! A job's row, read and told.

use robata_core::{WaitingReason, job::Waiting, row::JobRow};
use sqlx::sqlite::SqliteRow;

use crate::{error::Result, sql::Read as _};

/// The columns that [`read`] reads; for `jobs j` with the `a` of [`job_attempt`].
macro_rules! job_columns {
    () => {
        "j.seq, j.id, j.app, j.job, j.queue, j.executor, j.queue_chosen, j.state, j.rank, j.reason, j.message, j.attempt, \
         j.max_attempts, j.by_hand, j.counted, j.platform, j.never_set_going, j.labels, j.idempotency_key, j.created_at, \
         j.run_at, j.expires_at, j.moved_at, j.first_claimed_at, j.started_at, j.finished_at, j.cancel_requested_at, \
         j.published_at, a.waiting_reason, a.waiting_message, a.waiting_since"
    };
}

/// Joins a running job's attempt, which says why it waits.
macro_rules! job_attempt {
    () => {
        " LEFT JOIN attempts a ON j.state = 2 AND a.job_id = j.id AND a.number = j.attempt "
    };
}

pub(crate) use {job_attempt, job_columns};

/// Reads a row.
pub(crate) fn read(row: &SqliteRow) -> Result<JobRow> {
    let starting = match row.word_or_none::<WaitingReason>("waiting_reason")? {
        None => None,
        Some(reason) => Some(Waiting {
            reason,
            message: row.col("waiting_message")?,
            since: row.time("waiting_since")?,
        }),
    };
    let (state, line) = (row.job_state("state")?, row.line()?);
    Ok(JobRow {
        seq: row.col("seq")?,
        id: row.job_id("id")?,
        app: row.word("app")?,
        job: row.word("job")?,
        was: Some((state, line.clone())),
        line,
        queue_chosen: row.col("queue_chosen")?,
        state,
        reason: row.word_or_none("reason")?,
        message: row.col("message")?,
        labels: row.json_or_none("labels")?.unwrap_or_default(),
        priority: i8::try_from(-row.col::<i64>("rank")?).unwrap_or_default(),
        attempt: row.number("attempt")?,
        max_attempts: row.number("max_attempts")?,
        by_hand: row.col("by_hand")?,
        counted: row.number("counted")?,
        platform: row.number("platform")?,
        never_set_going: row.number("never_set_going")?,
        key: row.col("idempotency_key")?,
        created_at: row.time("created_at")?,
        run_at: row.time("run_at")?,
        expires_at: row.time_or_none("expires_at")?,
        moved_at: row.time("moved_at")?,
        first_claimed_at: row.time_or_none("first_claimed_at")?,
        started_at: row.time_or_none("started_at")?,
        finished_at: row.time_or_none("finished_at")?,
        cancel_requested_at: row.time_or_none("cancel_requested_at")?,
        published_at: row.time_or_none("published_at")?,
        starting,
    })
}

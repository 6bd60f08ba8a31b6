//! A job's row, read and told.

use robata_core::{WaitingReason, job::Waiting, row::JobRow};
use sqlx::postgres::PgRow;

use crate::{error::Result, sql::Read as _};

/// The columns that [`read`] reads; for `robata.jobs j` with [`job_joins`].
macro_rules! job_columns {
    () => {
        "j.seq, j.id, j.app, j.job, j.queue, j.executor, j.queue_chosen, j.state, j.rank, j.reason, j.message, \
         j.attempt, j.max_attempts, j.by_hand, j.counted, j.platform, j.never_set_going, j.labels, j.idempotency_key, \
         j.created_at, j.run_at, j.expires_at, j.moved_at, j.first_claimed_at, j.started_at, j.finished_at, \
         j.cancel_requested_at, z.published_at, w.waiting_reason, w.waiting_message, w.waiting_since"
    };
}

/// What stands for [`job_joins`] where nobody is told why a job waits: it is changed, and two lookups a row would be in vain.
macro_rules! no_joins {
    () => {
        " CROSS JOIN (SELECT NULL::bigint AS published_at) z
          CROSS JOIN (SELECT NULL::text AS waiting_reason, NULL::text AS waiting_message, NULL::bigint AS waiting_since) w "
    };
}

/// Joins a queued job's row in the outbox, and a running one's attempt, which says why it waits. Each is looked up by itself
/// (`OFFSET 0`), and only where the job's state asks for it (see `db::PLANS`).
macro_rules! job_joins {
    () => {
        " LEFT JOIN LATERAL (SELECT o.published_at FROM robata.queued o WHERE j.state = 1 AND o.id = j.id OFFSET 0) z ON true
          LEFT JOIN LATERAL (SELECT o.waiting_reason, o.waiting_message, o.waiting_since FROM robata.attempts o
              WHERE j.state = 2 AND o.job_id = j.id AND o.number = j.attempt OFFSET 0) w ON true "
    };
}

pub(crate) use {job_columns, job_joins, no_joins};

/// Reads a row.
pub(crate) fn read(row: &PgRow) -> Result<JobRow> {
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
        priority: i8::try_from(-row.col::<i16>("rank")?).unwrap_or_default(),
        attempt: row.number("attempt")?,
        max_attempts: row.long("max_attempts")?,
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

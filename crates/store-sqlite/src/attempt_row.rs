//! An attempt's row, read and told.

use robata_core::{
    AttemptId, IncarnationId, Payload, Timestamp, WaitingReason,
    attempt::{AttemptRecord, HeldAttempt, LogSummary},
    executor::{Handle, RealmId},
    job::Waiting,
    request::StartRequest,
    row::{AttemptRow, number},
};
use sqlx::sqlite::SqliteRow;

use crate::{
    error::{Fault, Result},
    job_row,
    sql::Read as _,
};

/// The columns that [`read`] reads, of `attempts a`; other names than a job's.
macro_rules! attempt_columns {
    () => {
        "a.seq AS t_seq, a.job_id AS t_job_id, a.number AS t_number, a.holder AS t_holder, a.epoch AS t_epoch, \
         a.state AS t_state, a.reason AS t_reason, a.detail AS t_detail, a.message AS t_message, \
         a.exit_code AS t_exit_code, a.signal AS t_signal, a.image_digest AS t_image_digest, \
         a.realm AS t_realm, a.handle AS t_handle, a.counted AS t_counted, a.stop_cause AS t_stop_cause, \
         a.moved_at AS t_moved_at, a.started_at AS t_started_at, a.finished_at AS t_finished_at, \
         a.finalised_at AS t_finalised_at, a.waiting_reason AS t_waiting_reason, a.waiting_message AS t_waiting_message, \
         a.waiting_since AS t_waiting_since, a.log_state AS t_log_state, a.log_reason AS t_log_reason, \
         a.log_bytes AS t_log_bytes"
    };
}

pub(crate) use attempt_columns;

/// Reads a row.
pub(crate) fn read(row: &SqliteRow) -> Result<AttemptRow> {
    let waiting = match row.word_or_none::<WaitingReason>("t_waiting_reason")? {
        None => None,
        Some(reason) => Some(Waiting {
            reason,
            message: row.col("t_waiting_message")?,
            since: row.time("t_waiting_since")?,
        }),
    };
    Ok(AttemptRow {
        seq: row.col("t_seq")?,
        id: AttemptId {
            job: row.job_id("t_job_id")?,
            number: row.number("t_number")?,
        },
        holder: IncarnationId::from_bytes(row.id_bytes("t_holder")?),
        epoch: row.number("t_epoch")?,
        state: row.attempt_state("t_state")?,
        reason: row.word_or_none("t_reason")?,
        detail: row.col("t_detail")?,
        message: row.col("t_message")?,
        exit_code: row.col("t_exit_code")?,
        signal: row.col("t_signal")?,
        image_digest: row.col("t_image_digest")?,
        realm: row.col::<Option<String>>("t_realm")?.map(RealmId),
        handle: row.col::<Option<String>>("t_handle")?.map(Handle),
        counted: row.col("t_counted")?,
        stop_cause: row.word_or_none("t_stop_cause")?,
        moved_at: row.time("t_moved_at")?,
        started_at: row.time_or_none("t_started_at")?,
        finished_at: row.time_or_none("t_finished_at")?,
        finalised_at: row.time_or_none("t_finalised_at")?,
        waiting,
        log: LogSummary {
            state: number::log(row.col("t_log_state")?),
            reason: row.col("t_log_reason")?,
            bytes: u64::try_from(row.col::<i64>("t_log_bytes")?).unwrap_or_default(),
        },
    })
}

/// A row of attempt, job, `payload` and `request`, as its holder gets it.
pub(crate) fn held(row: &SqliteRow, now: Timestamp) -> Result<HeldAttempt> {
    Ok(HeldAttempt {
        payload: Payload::from_stored(row.col::<Vec<u8>>("payload")?.into()),
        ..adopted(row, now)?
    })
}

/// The same without `payload`, as an adopter gets it: it starts nothing.
pub(crate) fn adopted(row: &SqliteRow, now: Timestamp) -> Result<HeldAttempt> {
    let attempt = read(row)?;
    let job = job_row::read(row)?;
    Ok(HeldAttempt {
        id: attempt.id,
        epoch: attempt.epoch,
        state: attempt.state,
        request: StartRequest::read(row.col("request")?).map_err(|why| Fault::BadRow(why.to_string()))?,
        payload: Payload::null(),
        first_claimed_at: job.first_claimed_at.unwrap_or(job.created_at),
        now,
        handle: attempt.handle,
        realm: attempt.realm,
        started_at: attempt.started_at,
        stop_cause: attempt.stop_cause,
        cancel_requested: job.cancel_requested_at.is_some() && attempt.state.is_live(),
    })
}

/// A row of `SELECT * FROM attempts`, as it is told.
pub(crate) fn record(row: &SqliteRow) -> Result<AttemptRecord> {
    Ok(AttemptRecord {
        id: AttemptId {
            job: row.job_id("job_id")?,
            number: row.number("number")?,
        },
        counted: row.col("counted")?,
        state: row.attempt_state("state")?,
        reason: row.word_or_none("reason")?,
        detail: row.col("detail")?,
        message: row.col("message")?,
        exit_code: row.col("exit_code")?,
        signal: row.col("signal")?,
        image: row.col("image")?,
        image_digest: row.col("image_digest")?,
        definition_version: row
            .col::<Option<i64>>("definition_version")?
            .and_then(|n| u32::try_from(n).ok()),
        executor: row.word("executor")?,
        realm: row.col::<Option<String>>("realm")?.map(RealmId),
        handle: row.col::<Option<String>>("handle")?.map(Handle),
        worker: Some(row.col("worker")?),
        created_at: row.time("created_at")?,
        started_at: row.time_or_none("started_at")?,
        finished_at: row.time_or_none("finished_at")?,
        log: LogSummary {
            state: number::log(row.col("log_state")?),
            reason: row.col("log_reason")?,
            bytes: u64::try_from(row.col::<i64>("log_bytes")?).unwrap_or_default(),
        },
        finalised: row.col::<Option<i64>>("finalised_at")?.is_some(),
    })
}

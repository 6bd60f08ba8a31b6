//! Writes rows that were read under their locks and changed in memory: one statement for many, whatever changed in each.

use robata_core::{
    JobState, Reason, Timestamp,
    finish::StopCause,
    job::Line,
    row::{AttemptRow, JobRow, number},
};
use uuid::Uuid;

use crate::{
    error::Result,
    sql::{Read as _, q, text},
    tx::Tx,
};

/// Collects one value of each row.
fn each<'r, R, T>(rows: &'r [R], of: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

fn millis(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::as_millis)
}

fn int(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn words(words: Option<&String>) -> Option<String> {
    words.map(|words| text(words))
}

/// Writes jobs, keeps the outbox and the counts in step with their states and lines.
pub(crate) async fn jobs(tx: &mut Tx, rows: &[JobRow]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    q(
        "UPDATE robata.jobs AS j SET queue = v.queue, executor = v.executor, state = v.state, reason = v.reason,
           message = v.message, attempt = v.attempt, max_attempts = v.max_attempts, by_hand = v.by_hand,
           counted = v.counted, platform = v.platform, never_set_going = v.never_set_going, run_at = v.run_at,
           expires_at = v.expires_at, moved_at = v.moved_at, first_claimed_at = v.first_claimed_at,
           started_at = v.started_at, finished_at = v.finished_at, cancel_requested_at = v.cancel_requested_at
       FROM unnest($1::bigint[], $2::text[], $3::text[], $4::smallint[], $5::text[], $6::text[], $7::integer[],
                   $8::bigint[], $9::boolean[], $10::integer[], $11::integer[], $12::integer[], $13::bigint[],
                   $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[])
            AS v (seq, queue, executor, state, reason, message, attempt, max_attempts, by_hand, counted, platform,
                  never_set_going, run_at, expires_at, moved_at, first_claimed_at, started_at, finished_at,
                  cancel_requested_at)
       WHERE j.seq = v.seq",
    )
    .bind(each(rows, |row| row.seq))
    .bind(each(rows, |row| row.line.queue.as_str()))
    .bind(each(rows, |row| row.line.executor.as_str()))
    .bind(each(rows, |row| number::of_job(row.state)))
    .bind(each(rows, |row| row.reason.map(Reason::as_str)))
    .bind(each(rows, |row| words(row.message.as_ref())))
    .bind(each(rows, |row| int(row.attempt)))
    .bind(each(rows, |row| i64::from(row.max_attempts)))
    .bind(each(rows, |row| row.by_hand))
    .bind(each(rows, |row| int(row.counted)))
    .bind(each(rows, |row| int(row.platform)))
    .bind(each(rows, |row| int(row.never_set_going)))
    .bind(each(rows, |row| row.run_at.as_millis()))
    .bind(each(rows, |row| millis(row.expires_at)))
    .bind(each(rows, |row| row.moved_at.as_millis()))
    .bind(each(rows, |row| millis(row.first_claimed_at)))
    .bind(each(rows, |row| millis(row.started_at)))
    .bind(each(rows, |row| millis(row.finished_at)))
    .bind(each(rows, |row| millis(row.cancel_requested_at)))
    .execute(tx.conn())
    .await?;
    let (mut out, mut into) = (Vec::new(), Vec::new());
    for row in rows {
        if !tx.tally.count_move(row) {
            continue;
        }
        if matches!(row.was, Some((JobState::Queued, _))) {
            out.push(row.id.uuid());
        }
        if row.state == JobState::Queued {
            into.push(row);
        }
    }
    dequeue(tx, out).await?;
    queue(tx, &into).await
}

/// Takes jobs out of the outbox.
async fn dequeue(tx: &mut Tx, ids: Vec<Uuid>) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let rows = q("DELETE FROM robata.queued WHERE id = ANY($1) RETURNING queue, executor, published_at")
        .bind(ids)
        .fetch_all(tx.conn())
        .await?;
    for row in rows {
        if row.time_or_none("published_at")?.is_some() {
            let line: Line = row.line()?;
            tx.tally.count_out(&line, -1);
        }
    }
    Ok(())
}

/// Puts jobs into the outbox.
async fn queue(tx: &mut Tx, rows: &[&JobRow]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    q(
        "INSERT INTO robata.queued (id, seq, queue, executor, rank, app, job, attempt)
       SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::smallint[], $6::text[], $7::text[],
                            $8::integer[])",
    )
    .bind(each(rows, |row| row.id.uuid()))
    .bind(each(rows, |row| row.seq))
    .bind(each(rows, |row| row.line.queue.as_str()))
    .bind(each(rows, |row| row.line.executor.as_str()))
    .bind(each(rows, |row| -i16::from(row.priority)))
    .bind(each(rows, |row| row.app.as_str()))
    .bind(each(rows, |row| row.job.as_str()))
    .bind(each(rows, |row| int(row.attempt + 1)))
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Writes attempts.
pub(crate) async fn attempts(tx: &mut Tx, rows: &[AttemptRow]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    q("UPDATE robata.attempts AS a SET state = v.state, reason = v.reason, detail = v.detail, message = v.message,
           exit_code = v.exit_code, signal = v.signal, image_digest = v.image_digest, realm = v.realm, handle = v.handle,
           counted = v.counted, stop_cause = v.stop_cause, moved_at = v.moved_at, started_at = v.started_at,
           finished_at = v.finished_at, finalised_at = v.finalised_at, waiting_reason = v.waiting_reason,
           waiting_message = v.waiting_message, waiting_since = v.waiting_since, log_state = v.log_state,
           log_reason = v.log_reason, log_bytes = v.log_bytes
       FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::integer[],
                   $8::text[], $9::text[], $10::text[], $11::boolean[], $12::text[], $13::bigint[], $14::bigint[],
                   $15::bigint[], $16::bigint[], $17::text[], $18::text[], $19::bigint[], $20::smallint[], $21::text[],
                   $22::bigint[])
            AS v (seq, state, reason, detail, message, exit_code, signal, image_digest, realm, handle, counted,
                  stop_cause, moved_at, started_at, finished_at, finalised_at, waiting_reason, waiting_message,
                  waiting_since, log_state, log_reason, log_bytes)
       WHERE a.seq = v.seq")
    .bind(each(rows, |row| row.seq))
    .bind(each(rows, |row| number::of_attempt(row.state)))
    .bind(each(rows, |row| row.reason.map(Reason::as_str)))
    .bind(each(rows, |row| words(row.detail.as_ref())))
    .bind(each(rows, |row| words(row.message.as_ref())))
    .bind(each(rows, |row| row.exit_code))
    .bind(each(rows, |row| row.signal))
    .bind(each(rows, |row| words(row.image_digest.as_ref())))
    .bind(each(rows, |row| row.realm.as_ref().map(|realm| text(&realm.0))))
    .bind(each(rows, |row| row.handle.as_ref().map(|handle| text(&handle.0))))
    .bind(each(rows, |row| row.counted))
    .bind(each(rows, |row| row.stop_cause.map(StopCause::as_str)))
    .bind(each(rows, |row| row.moved_at.as_millis()))
    .bind(each(rows, |row| millis(row.started_at)))
    .bind(each(rows, |row| millis(row.finished_at)))
    .bind(each(rows, |row| millis(row.finalised_at)))
    .bind(each(rows, |row| row.waiting.as_ref().map(|waiting| waiting.reason.as_str())))
    .bind(each(rows, |row| words(row.waiting.as_ref().and_then(|waiting| waiting.message.as_ref()))))
    .bind(each(rows, |row| row.waiting.as_ref().map(|waiting| waiting.since.as_millis())))
    .bind(each(rows, |row| number::of_log(row.log.state)))
    .bind(each(rows, |row| words(row.log.reason.as_ref())))
    .bind(each(rows, |row| i64::try_from(row.log.bytes).unwrap_or(i64::MAX)))
    .execute(tx.conn())
    .await?;
    // Their frozen requests have served.
    let finalised: Vec<_> = rows
        .iter()
        .filter(|row| row.finalised_at.is_some())
        .map(|row| row.seq)
        .collect();
    if !finalised.is_empty() {
        q("DELETE FROM robata.start_requests WHERE attempt = ANY($1)")
            .bind(finalised)
            .execute(tx.conn())
            .await?;
    }
    Ok(())
}

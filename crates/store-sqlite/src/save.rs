//! Writes rows that were read and changed in memory, whatever changed in each.

use robata_core::{
    JobState, Reason, Timestamp,
    finish::StopCause,
    row::{AttemptRow, JobRow, number},
};

use crate::{error::Result, tx::Tx};

fn millis(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::as_millis)
}

/// Writes a job, and keeps the counts in step with its state and line. Where it has not moved, no index is touched.
pub(crate) async fn job(tx: &mut Tx, row: &JobRow) -> Result<()> {
    if !tx.tally.count_move(row) {
        sqlx::query("UPDATE jobs SET started_at = ?, cancel_requested_at = ? WHERE seq = ?")
            .bind(millis(row.started_at))
            .bind(millis(row.cancel_requested_at))
            .bind(row.seq)
            .execute(&mut tx.conn)
            .await?;
        return Ok(());
    }
    if let Some((JobState::Queued, line)) = &row.was {
        tx.tally.count_out(line, -i64::from(row.published_at.is_some()));
    }
    // What was out is void.
    sqlx::query(
        "UPDATE jobs SET queue = ?, executor = ?, state = ?, reason = ?, message = ?, attempt = ?, max_attempts = ?, by_hand = ?,
             counted = ?, platform = ?, never_set_going = ?, run_at = ?, expires_at = ?, moved_at = ?, first_claimed_at = ?,
             started_at = ?, finished_at = ?, cancel_requested_at = ?, published_at = NULL, broker_key = NULL, publications = 0
         WHERE seq = ?",
    )
    .bind(row.line.queue.as_str())
    .bind(row.line.executor.as_str())
    .bind(number::of_job(row.state))
    .bind(row.reason.map(Reason::as_str))
    .bind(row.message.as_deref())
    .bind(i64::from(row.attempt))
    .bind(i64::from(row.max_attempts))
    .bind(row.by_hand)
    .bind(i64::from(row.counted))
    .bind(i64::from(row.platform))
    .bind(i64::from(row.never_set_going))
    .bind(row.run_at.as_millis())
    .bind(millis(row.expires_at))
    .bind(row.moved_at.as_millis())
    .bind(millis(row.first_claimed_at))
    .bind(millis(row.started_at))
    .bind(millis(row.finished_at))
    .bind(millis(row.cancel_requested_at))
    .bind(row.seq)
    .execute(&mut tx.conn)
    .await?;
    Ok(())
}

/// Writes an attempt.
pub(crate) async fn attempt(tx: &mut Tx, row: &AttemptRow) -> Result<()> {
    if row.finalised_at.is_some() {
        return finalised(tx, row).await;
    }
    sqlx::query(
        "UPDATE attempts SET state = ?, reason = ?, detail = ?, message = ?, exit_code = ?, signal = ?, image_digest = ?,
             realm = ?, handle = ?, counted = ?, stop_cause = ?, moved_at = ?, started_at = ?, finished_at = ?,
             waiting_reason = ?, waiting_message = ?, waiting_since = ? WHERE seq = ?",
    )
    .bind(number::of_attempt(row.state))
    .bind(row.reason.map(Reason::as_str))
    .bind(row.detail.as_deref())
    .bind(row.message.as_deref())
    .bind(row.exit_code)
    .bind(row.signal)
    .bind(row.image_digest.as_deref())
    .bind(row.realm.as_ref().map(|realm| realm.0.as_str()))
    .bind(row.handle.as_ref().map(|handle| handle.0.as_str()))
    .bind(row.counted)
    .bind(row.stop_cause.map(StopCause::as_str))
    .bind(row.moved_at.as_millis())
    .bind(millis(row.started_at))
    .bind(millis(row.finished_at))
    .bind(row.waiting.as_ref().map(|waiting| waiting.reason.as_str()))
    .bind(row.waiting.as_ref().and_then(|waiting| waiting.message.as_deref()))
    .bind(row.waiting.as_ref().map(|waiting| waiting.since.as_millis()))
    .bind(row.seq)
    .execute(&mut tx.conn)
    .await?;
    Ok(())
}

/// Its frozen request has served.
async fn finalised(tx: &mut Tx, row: &AttemptRow) -> Result<()> {
    sqlx::query("UPDATE attempts SET finalised_at = ?, log_state = ?, log_reason = ?, log_bytes = ? WHERE seq = ?")
        .bind(millis(row.finalised_at))
        .bind(number::of_log(row.log.state))
        .bind(row.log.reason.as_deref())
        .bind(i64::try_from(row.log.bytes).unwrap_or(i64::MAX))
        .bind(row.seq)
        .execute(&mut tx.conn)
        .await?;
    sqlx::query("DELETE FROM start_requests WHERE attempt = ?")
        .bind(row.seq)
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

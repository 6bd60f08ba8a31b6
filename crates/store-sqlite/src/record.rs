//! Writes about attempts, each refused or done by itself: a compare-and-set on holder, epoch and the table of moves.

use robata_core::{
    AttemptState, Error, ErrorKind, JobState, Timestamp, WaitingReason,
    attempt::{AttemptChange, AttemptWrite, LogSummary, Written, may_write},
    executor::{Handle, RealmId},
    finish::StopCause,
    state::AttemptEvent,
};

use crate::{
    attempt_row::{AttemptRow, attempt_columns},
    ending::end_attempt,
    error::{Fault, Result, refused},
    job_row::{JobRow, job_columns},
    tx::Tx,
    word::{attempt_state, log_state},
};

pub(crate) async fn run(tx: &mut Tx, writes: &[AttemptWrite]) -> Result<Vec<Result<Written, Error>>> {
    let mut answers = Vec::with_capacity(writes.len());
    for write in writes {
        answers.push(match one(tx, write).await {
            Ok(written) => Ok(written),
            // Nothing was written for it yet: rows are read first.
            Err(fault) if fault.is_of_one_row() => {
                if !matches!(fault, Fault::Refused(_)) {
                    tracing::warn!(attempt = %write.attempt, %fault, "a stored row cannot be read; what is written about it is refused");
                }
                Err(fault.to_error("store.record"))
            }
            Err(fault) => return Err(fault),
        });
    }
    Ok(answers)
}

async fn one(tx: &mut Tx, write: &AttemptWrite) -> Result<Written> {
    tx.fence(write.incarnation, "store.record")?;
    let row = sqlx::query(concat!(
        "SELECT ",
        attempt_columns!(),
        ", ",
        job_columns!(),
        " FROM attempts a CROSS JOIN jobs j ON j.id = a.job_id WHERE a.job_id = ? AND a.number = ?"
    ))
    .bind(&write.attempt.job.as_bytes()[..])
    .bind(i64::from(write.attempt.number))
    .fetch_optional(&mut tx.conn)
    .await?
    .ok_or_else(|| {
        refused(
            ErrorKind::NotFound,
            "store.record",
            format!("there is no attempt {}", write.attempt),
        )
    })?;
    let (attempt, job) = (AttemptRow::read(&row)?, JobRow::read(&row)?);
    if !may_write((attempt.holder, attempt.epoch), (write.incarnation, write.epoch)) {
        let message = format!(
            "the attempt {} has the epoch {}, held by {}",
            attempt.id, attempt.epoch, attempt.holder
        );
        return Err(refused(ErrorKind::Fenced, "store.record", message));
    }
    let (state, job_state) = change(tx, &attempt, &job, &write.change).await?;
    Ok(Written {
        state,
        job: job_state,
        cancel_requested: job.cancel_requested_at.is_some(),
    })
}

async fn change(
    tx: &mut Tx,
    attempt: &AttemptRow,
    job: &JobRow,
    change: &AttemptChange,
) -> Result<(AttemptState, JobState)> {
    let conflict = |what: &str| {
        let message = format!("the attempt {} is {} and cannot {what}", attempt.id, attempt.state);
        refused(ErrorKind::Conflict, "store.record", message)
    };
    let live = attempt.state.is_live();
    match change {
        AttemptChange::Ended(outcome) if live => return end_attempt(tx, attempt, job, outcome).await,
        // Sent again after a lost answer.
        AttemptChange::Ended(_) => {}
        AttemptChange::Finalised(_) if live => return Err(conflict("be finalised before it ended")),
        AttemptChange::Finalised(_) if attempt.finalised => {}
        AttemptChange::Finalised(summary) => finalise(tx, attempt, summary).await?,
        _ if !live => return Err(conflict("be written about any more")),
        AttemptChange::Waiting(None) => wait(tx, attempt, None).await?,
        AttemptChange::Waiting(Some(_)) if attempt.state != AttemptState::Starting => {
            return Err(conflict("wait to be started"));
        }
        AttemptChange::Waiting(Some((reason, message))) => wait(tx, attempt, Some((*reason, message))).await?,
        AttemptChange::Prepared {
            realm,
            handle,
            image_digest,
        } => match (&attempt.handle, &attempt.realm) {
            (None, _) => prepared(tx, attempt, realm, handle, image_digest.as_deref()).await?,
            (Some(known), Some(in_realm)) if known == handle && in_realm == realm => {}
            _ => return Err(conflict("have a second thing in its engine")),
        },
        AttemptChange::Started { at } => {
            let to = attempt.state.after(AttemptEvent::Started).unwrap_or(attempt.state);
            started(tx, attempt, job, to, *at).await?;
            return Ok((to, job.state));
        }
        AttemptChange::Stopping(cause) => match attempt.state.after(AttemptEvent::StopDecided) {
            Some(to) => {
                stopping(tx, attempt, to, *cause).await?;
                return Ok((to, job.state));
            }
            None if attempt.stop_cause == Some(*cause) => {}
            None => return Err(conflict("be stopped for another cause")),
        },
        _ => {
            let message = "this store does not know this change";
            return Err(refused(ErrorKind::Unsupported, "store.record", message));
        }
    }
    Ok((attempt.state, job.state))
}

async fn wait(tx: &mut Tx, attempt: &AttemptRow, why: Option<(WaitingReason, &String)>) -> Result<()> {
    let now = tx.stamp(attempt.moved_at).as_millis();
    // Since the reason's beginning, though its message changes.
    sqlx::query(
        "UPDATE attempts SET waiting_since = iif(?1 IS NULL, NULL, iif(waiting_reason IS ?1, waiting_since, ?3)),
             waiting_reason = ?1, waiting_message = ?2 WHERE seq = ?4",
    )
    .bind(why.map(|(reason, _)| reason.as_str()))
    .bind(why.map(|(_, message)| message.as_str()))
    .bind(now)
    .bind(attempt.seq)
    .execute(&mut tx.conn)
    .await?;
    tx.hint_job(attempt.id.job);
    Ok(())
}

async fn prepared(
    tx: &mut Tx,
    attempt: &AttemptRow,
    realm: &RealmId,
    handle: &Handle,
    digest: Option<&str>,
) -> Result<()> {
    sqlx::query("UPDATE attempts SET realm = ?, handle = ?, image_digest = ? WHERE seq = ?")
        .bind(realm.0.as_str())
        .bind(handle.0.as_str())
        .bind(digest)
        .bind(attempt.seq)
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

async fn started(tx: &mut Tx, attempt: &AttemptRow, job: &JobRow, to: AttemptState, at: Timestamp) -> Result<()> {
    sqlx::query(
        "UPDATE attempts SET state = ?, started_at = coalesce(started_at, ?), moved_at = ?,
             waiting_reason = NULL, waiting_message = NULL, waiting_since = NULL WHERE seq = ?",
    )
    .bind(attempt_state(to))
    .bind(at.as_millis())
    .bind(tx.stamp(attempt.moved_at).as_millis())
    .bind(attempt.seq)
    .execute(&mut tx.conn)
    .await?;
    if job.started_at.is_none() {
        sqlx::query("UPDATE jobs SET started_at = ? WHERE seq = ?")
            .bind(at.max(job.created_at).as_millis())
            .bind(job.seq)
            .execute(&mut tx.conn)
            .await?;
    }
    tx.hint_job(attempt.id.job);
    Ok(())
}

async fn stopping(tx: &mut Tx, attempt: &AttemptRow, to: AttemptState, cause: StopCause) -> Result<()> {
    sqlx::query("UPDATE attempts SET state = ?, stop_cause = ?, moved_at = ? WHERE seq = ?")
        .bind(attempt_state(to))
        .bind(cause.as_str())
        .bind(tx.stamp(attempt.moved_at).as_millis())
        .bind(attempt.seq)
        .execute(&mut tx.conn)
        .await?;
    tx.hint_job(attempt.id.job);
    Ok(())
}

async fn finalise(tx: &mut Tx, attempt: &AttemptRow, log: &LogSummary) -> Result<()> {
    sqlx::query("UPDATE attempts SET finalised_at = ?, log_state = ?, log_reason = ?, log_bytes = ? WHERE seq = ?")
        .bind(tx.stamp(attempt.moved_at).as_millis())
        .bind(log_state(log.state))
        .bind(log.reason.as_deref())
        .bind(i64::try_from(log.bytes).unwrap_or(i64::MAX))
        .bind(attempt.seq)
        .execute(&mut tx.conn)
        .await?;
    sqlx::query("DELETE FROM start_requests WHERE attempt = ?")
        .bind(attempt.seq)
        .execute(&mut tx.conn)
        .await?;
    tx.hint_job(attempt.id.job);
    Ok(())
}

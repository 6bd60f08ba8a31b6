//! Writes about attempts, each refused or done by itself.

use robata_core::{
    Error, ErrorKind,
    attempt::{AttemptChange, AttemptWrite, Written},
    request::ReadTerms,
    row::Touched,
};
use sqlx::SqliteConnection;

use crate::{
    attempt_row::{self, attempt_columns},
    error::{Fault, Result, refused},
    job_row::{self, job_columns},
    save,
    sql::Read as _,
    tx::Tx,
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
    let (mut attempt, mut job) = (attempt_row::read(&row)?, job_row::read(&row)?);
    let terms = match &write.change {
        AttemptChange::Ended(_) if attempt.state.is_live() => Some(terms(&mut tx.conn, attempt.seq).await?),
        _ => None,
    };
    let touched = attempt.write(&mut job, terms.as_ref().map(ReadTerms::terms), write, tx)?;
    if touched != Touched::Nothing {
        save::attempt(tx, &attempt).await?;
    }
    if touched == Touched::Both {
        save::job(tx, &job).await?;
    }
    Ok(Written {
        state: attempt.state,
        job: job.state,
        cancel_requested: job.cancel_requested_at.is_some(),
    })
}

/// What an attempt's end needs of its frozen request; also of one that a later release froze: nothing is started by it.
pub(crate) async fn terms(conn: &mut SqliteConnection, attempt: i64) -> Result<ReadTerms> {
    sqlx::query("SELECT request FROM start_requests WHERE attempt = ?")
        .bind(attempt)
        .fetch_optional(conn)
        .await?
        .ok_or_else(|| Fault::BadRow("an attempt has no start request".to_owned()))?
        .json("request")
}

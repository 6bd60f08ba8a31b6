//! Ending as lost what nobody came for, or what a person says is gone (PROTOCOL H6).

use std::{collections::BTreeMap, time::Duration};

use robata_core::{
    AttemptId, ErrorKind, ExecutorName, Timestamp,
    executor::RealmId,
    finish::{End, Outcome},
    request::ReadTerms,
    row::{self, Deed},
};
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::{
    attempt_row::{self, attempt_columns},
    error::{Result, refused},
    job_row::{self, job_columns, job_joins},
    lease::{self, StoredExecutor},
    save,
    sql::{Read as _, limit, q},
    tx::Tx,
};

/// Attempts ended as lost in one transaction.
const BATCH: i64 = 500;

/// After how long nobody's coming means lost.
#[derive(Clone, Debug)]
pub(crate) struct LostAfter {
    pub(crate) by_executor: BTreeMap<ExecutorName, Option<Duration>>,
    pub(crate) default: Duration,
}

macro_rules! lost_query {
    () => {
        concat!(
            "SELECT ",
            attempt_columns!(),
            ", ",
            job_columns!(),
            ", r.request FROM robata.attempts a JOIN robata.jobs j ON j.id = a.job_id
               JOIN robata.start_requests r ON r.attempt = a.seq",
            job_joins!(),
            "WHERE a.finalised_at IS NULL AND a.state < 3 "
        )
    };
}

/// Ends attempts as lost, each with its words.
async fn end_lost(tx: &mut Tx, rows: &[(PgRow, String)]) -> Result<Vec<AttemptId>> {
    let (mut attempts, mut jobs) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for (read, words) in rows {
        let outcome = Outcome::new(End::Lost).with_message(words.as_str());
        let end = |tx: &mut Tx| {
            let (mut attempt, mut job) = (attempt_row::read(read)?, job_row::read(read)?);
            // Also of a request that a later release froze: nothing is started by it.
            let terms: ReadTerms = read.json("request")?;
            row::end(&mut attempt, &mut job, terms.terms(), &outcome, tx)?;
            Ok((attempt, job))
        };
        let ended = end(tx);
        if let Some((attempt, job)) = tx.shared.readable(read, ended)? {
            attempts.push(attempt);
            jobs.push(job);
        }
    }
    save::attempts(tx, &attempts).await?;
    save::jobs(tx, &jobs).await?;
    Ok(attempts.into_iter().map(|attempt| attempt.id).collect())
}

/// Ends as lost what ran in a realm that is gone, by the word of a person.
pub(crate) async fn lose(tx: &mut Tx, (realm, by): &(RealmId, String)) -> Result<Vec<AttemptId>> {
    // Locked: none of them registers, claims or ends meanwhile.
    let workers = q(
        "SELECT incarnation, host, executors, seen_at FROM robata.workers WHERE ended_at IS NULL
                     ORDER BY incarnation FOR UPDATE",
    )
    .fetch_all(tx.conn())
    .await?;
    let mut live: Vec<Uuid> = Vec::new();
    for row in workers {
        let executors: BTreeMap<String, StoredExecutor> = row.json("executors")?;
        let id: Uuid = row.col("incarnation")?;
        if executors
            .values()
            .any(|executor| executor.realm.as_ref() == Some(realm))
        {
            let message = format!(
                "a live worker reaches the realm {realm}: {id} on {}, last seen at {}; stop it, or wait until its lease has ended",
                row.col::<&str>("host")?,
                row.time("seen_at")?
            );
            return Err(refused(ErrorKind::Conflict, "store.lose", message));
        }
        live.push(id);
    }
    let rows = q(concat!(
        lost_query!(),
        "AND a.realm = $1 ORDER BY j.id, a.number FOR UPDATE OF j, a"
    ))
    .bind(realm.0.as_str())
    .fetch_all(tx.conn())
    .await?;
    let mut lost = Vec::with_capacity(rows.len());
    for row in rows {
        let holder: Uuid = row.col("t_holder")?;
        if live.contains(&holder) {
            // It registered again without the realm: its engine does not answer now, and may yet.
            let message = format!("the live worker {holder} holds attempts in the realm {realm}; stop it first");
            return Err(refused(ErrorKind::Conflict, "store.lose", message));
        }
        lost.push((row, format!("{by} said that its realm is gone for good")));
    }
    let ended = end_lost(tx, &lost).await?;
    if !ended.is_empty() {
        tx.audit(by, &Deed::lose(realm)).await?;
    }
    Ok(ended)
}

/// Holders whose lease has ended while something of theirs had not, with the time of that end. Not all that adopters look
/// for: what has ended and is not finalised stays with a host that never returns until its job is pruned.
async fn unsettled_holders(tx: &mut Tx) -> Result<Vec<(Uuid, Timestamp)>> {
    let rows = q(
        "SELECT w.incarnation, w.ended_at FROM robata.workers w WHERE w.ended_at IS NOT NULL AND EXISTS (
                      SELECT 1 FROM robata.attempts a
                      WHERE a.holder = w.incarnation AND a.finalised_at IS NULL AND a.state < 3)
                  ORDER BY w.incarnation",
    )
    .fetch_all(tx.conn())
    .await?;
    rows.iter()
        .map(|row| Ok((row.col("incarnation")?, row.time("ended_at")?)))
        .collect()
}

pub(crate) async fn settle(tx: &mut Tx, after: &LostAfter) -> Result<Vec<AttemptId>> {
    // Only the time counts in which marks came without a gap, and none while they do not come.
    let row = q("SELECT at, unbroken_since FROM robata.marks")
        .fetch_optional(tx.conn())
        .await?;
    let Some(row) = row else { return Ok(Vec::new()) };
    if lease::gap(tx.now.as_millis(), row.col("at")?) {
        return Ok(Vec::new());
    }
    let unbroken = row.time("unbroken_since")?;
    let mut settled = Vec::new();
    for (holder, ended_at) in unsettled_holders(tx).await? {
        let since = tx.now.since(ended_at.max(unbroken));
        // Those that the settings name are judged by name, the others all alike.
        let others = since >= after.default;
        let named: Vec<&str> = after
            .by_executor
            .iter()
            .filter(|(_, bound)| bound.is_some_and(|bound| since >= bound) != others)
            .map(|(name, _)| name.as_str())
            .collect();
        if !others && named.is_empty() {
            continue;
        }
        let words = format!("nobody who reaches its realm has come for it in {} s", since.as_secs());
        let mut last = 0_i64;
        loop {
            // What somebody adopts or ends right now is skipped.
            let rows = q(concat!(
                lost_query!(),
                "AND a.holder = $1 AND a.seq > $2 AND (a.executor = ANY($3)) <> $4
                 ORDER BY a.seq LIMIT $5 FOR UPDATE OF j, a SKIP LOCKED"
            ))
            .bind(holder)
            .bind(last)
            .bind(&named)
            .bind(others)
            .bind(BATCH - limit(settled.len()))
            .fetch_all(tx.conn())
            .await?;
            let Some(row) = rows.last() else { break };
            last = row.col("t_seq")?;
            let lost: Vec<_> = rows.into_iter().map(|row| (row, words.clone())).collect();
            settled.extend(end_lost(tx, &lost).await?);
            if limit(settled.len()) >= BATCH {
                return Ok(settled);
            }
        }
    }
    Ok(settled)
}

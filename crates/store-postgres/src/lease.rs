//! Workers and their leases (PROTOCOL H1 to H4). A lease's row is share-locked by all that is done in its name and locked
//! alone by who ends it, so that nothing is written in the name of a lease that has ended; heartbeats wait for neither.

use std::collections::{BTreeMap, BTreeSet};

use robata_core::{
    AttemptId, Epoch, ErrorKind, ExecutorName, IncarnationId,
    executor::RealmId,
    row::Deed,
    store::{HeartbeatAnswer, Hint, Judged, LEASE, MARK, Mark, Register, WorkerExecutor, WorkerRecord, held_hash},
};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;

use crate::{
    error::{Fault, Result, refused},
    format,
    sql::{Read as _, q, text},
    tx::{After, Tx},
};

/// A lease in milliseconds.
const LEASE_MILLIS: i64 = LEASE.as_millis() as i64;
/// What a mark may be ahead of the store's clock before that clock counts as set back.
const AHEAD_MILLIS: i64 = MARK.as_millis() as i64;

/// A worker's executor as its row keeps it.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredExecutor {
    pub(crate) realm: Option<RealmId>,
    pub(crate) slots: u32,
}

/// The refusal of whatever is done in the name of a lease that has ended.
pub(crate) fn has_ended(id: IncarnationId, operation: &'static str) -> Fault {
    let message = format!("the lease of incarnation {id} has ended; go on as a new one");
    refused(ErrorKind::Fenced, operation, message)
}

/// Refuses an incarnation whose lease has ended, and keeps it from ending until the transaction's end; answers
/// `host/incarnation`, as attempts tell their worker.
pub(crate) async fn fence(tx: &mut Tx, id: IncarnationId, operation: &'static str) -> Result<String> {
    let row = q("SELECT host FROM robata.workers WHERE incarnation = $1 AND ended_at IS NULL FOR KEY SHARE")
        .bind(id.uuid())
        .fetch_optional(tx.conn())
        .await?;
    match row {
        Some(row) => Ok(format!("{}/{id}", row.col::<&str>("host")?)),
        None => Err(has_ended(id, operation)),
    }
}

/// Which of these have ended; the others are kept from ending until the transaction's end.
pub(crate) async fn ended(tx: &mut Tx, ids: &BTreeSet<IncarnationId>) -> Result<BTreeSet<IncarnationId>> {
    let rows = q(
        "SELECT incarnation FROM robata.workers WHERE incarnation = ANY($1) AND ended_at IS NULL
                  ORDER BY incarnation FOR KEY SHARE",
    )
    .bind(ids.iter().map(IncarnationId::uuid).collect::<Vec<_>>())
    .fetch_all(tx.conn())
    .await?;
    let mut ended = ids.clone();
    for row in rows {
        ended.remove(&IncarnationId::from_bytes(row.id_bytes("incarnation")?));
    }
    Ok(ended)
}

pub(crate) async fn register(tx: &mut Tx, request: &Register) -> Result<()> {
    let executors: BTreeMap<&str, StoredExecutor> = request
        .executors
        .iter()
        .map(|(name, executor)| {
            let stored = StoredExecutor {
                realm: executor.realm.clone(),
                slots: executor.slots,
            };
            (name.as_str(), stored)
        })
        .collect();
    format::register(tx, request.format).await?;
    let now = tx.now.as_millis();
    let done = q(
        "INSERT INTO robata.workers AS w (incarnation, host, pid, executors, started_at, seen_at, lease_until, format)
                  VALUES ($1, $2, $3, $4, $5, $5, $6, $7)
                  ON CONFLICT (incarnation) DO UPDATE SET executors = excluded.executors, format = excluded.format,
                      seen_at = greatest(w.seen_at, excluded.seen_at), lease_until = excluded.lease_until
                  WHERE w.ended_at IS NULL",
    )
    .bind(request.incarnation.uuid())
    .bind(text(&request.host))
    .bind(i64::from(request.pid))
    .bind(serde_json::to_string(&executors)?)
    .bind(now)
    .bind(now + LEASE_MILLIS)
    .bind(i16::from(request.format.number()))
    .execute(tx.conn())
    .await?;
    if done.rows_affected() == 0 {
        return Err(has_ended(request.incarnation, "store.register"));
    }
    tx.after(After::Colours);
    // Lines of these executors have a worker now.
    tx.tally.free_slot();
    Ok(())
}

/// Renews, then tells what is held.
pub(crate) async fn heartbeat(tx: &mut Tx, id: &IncarnationId) -> Result<HeartbeatAnswer> {
    let now = tx.now.as_millis();
    let row = q(
        "UPDATE robata.workers SET seen_at = greatest(seen_at, $2), lease_until = $3
                 WHERE incarnation = $1 AND ended_at IS NULL
                 RETURNING draining, (SELECT value FROM robata.meta WHERE name = 'format') AS format",
    )
    .bind(id.uuid())
    .bind(now)
    .bind(now + LEASE_MILLIS)
    .fetch_optional(tx.conn())
    .await?
    .ok_or_else(|| has_ended(*id, "store.heartbeat"))?;
    let drain = row.col("draining")?;
    tx.after(After::Format(format::read(&row)?));
    let rows = q(
        "SELECT a.job_id, a.number, a.epoch, a.state < 3 AND j.cancel_requested_at IS NOT NULL AS cancel,
                      coalesce(a.followed_until > $2, false) AS followed
                  FROM robata.attempts a JOIN robata.jobs j ON j.id = a.job_id
                  WHERE a.holder = $1 AND a.finalised_at IS NULL",
    )
    .bind(id.uuid())
    .bind(now)
    .fetch_all(tx.conn())
    .await?;
    let mut answer = HeartbeatAnswer {
        held: rows.len() as u64,
        hash: 0,
        cancel_requested: Vec::new(),
        followed: Vec::new(),
        drain,
    };
    for row in &rows {
        let (attempt, epoch) = held_of(row)?;
        answer.hash = answer.hash.wrapping_add(held_hash(attempt, epoch));
        if row.col("cancel")? {
            answer.cancel_requested.push(attempt);
        }
        if row.col("followed")? {
            answer.followed.push(attempt);
        }
    }
    Ok(answer)
}

fn held_of(row: &PgRow) -> Result<(AttemptId, Epoch)> {
    let attempt = AttemptId {
        job: row.job_id("job_id")?,
        number: row.number("number")?,
    };
    Ok((attempt, row.long("epoch")?))
}

pub(crate) async fn held(tx: &mut Tx, id: &IncarnationId) -> Result<Vec<(AttemptId, Epoch)>> {
    fence(tx, *id, "store.held").await?;
    let rows = q("SELECT job_id, number, epoch FROM robata.attempts WHERE holder = $1 AND finalised_at IS NULL")
        .bind(id.uuid())
        .fetch_all(tx.conn())
        .await?;
    rows.iter().map(held_of).collect()
}

pub(crate) async fn release(tx: &mut Tx, id: &IncarnationId) -> Result<()> {
    let done = q(
        "WITH w AS (SELECT incarnation FROM robata.workers WHERE incarnation = $1 AND ended_at IS NULL FOR UPDATE)
                  UPDATE robata.workers k SET ended_at = greatest($2, k.seen_at)
                  FROM w WHERE k.incarnation = w.incarnation AND k.ended_at IS NULL",
    )
    .bind(id.uuid())
    .bind(tx.now.as_millis())
    .execute(tx.conn())
    .await?;
    if done.rows_affected() == 0 {
        return Err(has_ended(*id, "store.release"));
    }
    tx.after(After::Colours);
    tx.tally.hint(Hint::Orphans);
    Ok(())
}

/// Asks a worker to drain.
pub(crate) async fn drain(tx: &mut Tx, (id, by): &(IncarnationId, String)) -> Result<()> {
    let row = q("SELECT ended_at, draining FROM robata.workers WHERE incarnation = $1 FOR NO KEY UPDATE")
        .bind(id.uuid())
        .fetch_optional(tx.conn())
        .await?
        .ok_or_else(|| refused(ErrorKind::NotFound, "store.drain", format!("there is no worker {id}")))?;
    if row.time_or_none("ended_at")?.is_some() {
        let message = format!("the worker {id} is not there any more: its lease has ended");
        return Err(refused(ErrorKind::Conflict, "store.drain", message));
    }
    if !row.col::<bool>("draining")? {
        q("UPDATE robata.workers SET draining = true WHERE incarnation = $1")
            .bind(id.uuid())
            .execute(tx.conn())
            .await?;
        tx.audit(by, &Deed::drain(*id)).await?;
        tx.after(After::Colours);
    }
    Ok(())
}

/// Whether the last mark is too old, or the clock was set back behind it.
pub(crate) fn gap(now: i64, last_mark: i64) -> bool {
    now.saturating_sub(last_mark) > LEASE_MILLIS / 2 || last_mark > now + AHEAD_MILLIS
}

async fn last_mark(tx: &mut Tx, how: &'static str) -> Result<Option<(i64, i64)>> {
    let row = q(how).fetch_optional(tx.conn()).await?;
    row.map(|row| Ok((row.col("at")?, row.col("unbroken_since")?)))
        .transpose()
}

/// Whether marks came without a gap for a lease, until now.
pub(crate) async fn is_unbroken(tx: &mut Tx) -> Result<bool> {
    let now = tx.now.as_millis();
    let marks = last_mark(tx, "SELECT at, unbroken_since FROM robata.marks").await?;
    Ok(marks.is_some_and(|(at, since)| !gap(now, at) && now >= since + LEASE_MILLIS))
}

/// Writes the mark of all masters and ends what has expired; after a gap in the marks, or within a lease of this process's
/// own start, it ends nothing (PROTOCOL H4). A gap is noted in the row: every master finds it there. Answers besides whether
/// another format is to be in use.
pub(crate) async fn judge(tx: &mut Tx, mark: &Mark) -> Result<(Judged, bool)> {
    let now = tx.now.as_millis();
    let own_start = tx.shared.judges_since(tx.now).as_millis();
    let marks = last_mark(tx, "SELECT at, unbroken_since FROM robata.marks FOR UPDATE").await?;
    let (at, unbroken_since) = marks.unwrap_or((i64::MIN / 2, now));
    let gap = gap(now, at);
    let unbroken_since = if gap { now } else { unbroken_since };
    q(
        "INSERT INTO robata.marks AS m (one, at, unbroken_since) VALUES (true, $1, $2)
       ON CONFLICT (one) DO UPDATE SET at = excluded.at, unbroken_since = excluded.unbroken_since",
    )
    .bind(if gap { now } else { at.max(now) })
    .bind(unbroken_since)
    .execute(tx.conn())
    .await?;
    let is_unbroken = now >= unbroken_since + LEASE_MILLIS;
    let (format, changes) = format::mark(tx, mark, is_unbroken).await?;
    let judged = |ended| (Judged { ended, format }, changes);
    // A clock that was set back must not make leases last longer.
    q("UPDATE robata.workers SET lease_until = $1 WHERE ended_at IS NULL AND lease_until > $1")
        .bind(now + LEASE_MILLIS + AHEAD_MILLIS)
        .execute(tx.conn())
        .await?;
    if !is_unbroken || now < own_start + LEASE_MILLIS {
        return Ok(judged(0));
    }
    // A lease in whose name something is being written is left for the next time.
    let done = q(
        "WITH w AS (SELECT incarnation FROM robata.workers WHERE ended_at IS NULL AND lease_until <= $1
                             ORDER BY incarnation FOR UPDATE SKIP LOCKED)
                  UPDATE robata.workers k SET ended_at = greatest($1, k.seen_at)
                  FROM w WHERE k.incarnation = w.incarnation AND k.ended_at IS NULL",
    )
    .bind(now)
    .execute(tx.conn())
    .await?;
    let ended = usize::try_from(done.rows_affected()).unwrap_or(usize::MAX);
    if ended > 0 {
        tx.after(After::Colours);
        tx.tally.hint(Hint::Orphans);
    }
    Ok(judged(ended))
}

pub(crate) async fn workers(tx: &mut Tx, (): &()) -> Result<Vec<WorkerRecord>> {
    let rows = q("SELECT w.*, (SELECT count(*) FROM robata.attempts a
                               WHERE a.holder = w.incarnation AND a.finalised_at IS NULL) AS held
                  FROM robata.workers w ORDER BY ended_at IS NOT NULL, started_at DESC, incarnation DESC")
    .fetch_all(tx.conn())
    .await?;
    let mut workers = Vec::with_capacity(rows.len());
    for row in rows {
        let stored = tx
            .shared
            .readable(&row, row.json::<BTreeMap<ExecutorName, StoredExecutor>>("executors"))?;
        let Some(stored) = stored else { continue };
        let executors = stored
            .into_iter()
            .map(|(name, executor)| {
                let told = WorkerExecutor {
                    realm: executor.realm,
                    slots: executor.slots,
                };
                (name, told)
            })
            .collect();
        workers.push(WorkerRecord {
            incarnation: IncarnationId::from_bytes(row.id_bytes("incarnation")?),
            host: row.col("host")?,
            pid: row.long("pid")?,
            executors,
            started_at: row.time("started_at")?,
            seen_at: row.time("seen_at")?,
            held: u64::try_from(row.col::<i64>("held")?).unwrap_or_default(),
            ended_at: row.time_or_none("ended_at")?,
            draining: row.col("draining")?,
            format: format::column(&row, "format")?,
        });
    }
    Ok(workers)
}

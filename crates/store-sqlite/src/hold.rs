//! Workers and what they hold: register, heartbeat, adopt, release (PROTOCOL H1 to H5).

use std::collections::BTreeMap;

use robata_core::{
    AttemptId, Epoch, ErrorKind, ExecutorName, Format, IncarnationId,
    attempt::{HeldAttempt, Knowledge},
    executor::RealmId,
    id::ClaimId,
    row::Deed,
    store::{Adopt, HeartbeatAnswer, Hint, Register, WorkerExecutor, WorkerRecord, held_hash},
};
use serde::{Deserialize, Serialize};
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use crate::{
    attempt_row::{adopted as read_adopted, attempt_columns, held as read_held},
    error::{Result, refused},
    format,
    job_row::job_columns,
    shared::Shared,
    sql::{Read as _, numbers, parse, push_hex},
    tx::{After, Tx, fence},
};

/// A worker's executor as its row keeps it.
#[derive(Serialize, Deserialize)]
struct StoredExecutor {
    realm: Option<RealmId>,
    slots: u32,
}

pub(crate) async fn register(tx: &mut Tx, request: &Register) -> Result<()> {
    if tx.shared.leases().has_ended(request.incarnation) {
        return tx.fence(request.incarnation, "store.register");
    }
    let executors: BTreeMap<&str, StoredExecutor> = request
        .executors
        .iter()
        .map(|(name, executor)| {
            (
                name.as_str(),
                StoredExecutor {
                    realm: executor.realm.clone(),
                    slots: executor.slots,
                },
            )
        })
        .collect();
    let now = tx.now.as_millis();
    format::register(tx, request.format).await?;
    let done = sqlx::query(
        "INSERT INTO workers (incarnation, host, pid, executors, started_at, seen_at, format) VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET executors = excluded.executors, format = excluded.format, seen_at = max(seen_at, excluded.seen_at)
         WHERE ended_at IS NULL",
    )
    .bind(&request.incarnation.as_bytes()[..])
    .bind(request.host.as_str())
    .bind(i64::from(request.pid))
    .bind(serde_json::to_string(&executors)?)
    .bind(now)
    .bind(now)
    .bind(i64::from(request.format.number()))
    .execute(&mut tx.conn)
    .await?;
    if done.rows_affected() == 0 {
        return Err(refused(
            ErrorKind::Fenced,
            "store.register",
            "the lease of this incarnation has ended",
        ));
    }
    tx.after(After::Registered(request.clone()));
    // Lines of these executors have a worker now.
    tx.tally.free_slot();
    Ok(())
}

/// Renews in memory; then tells what is held.
pub(crate) fn renew(shared: &Shared, id: IncarnationId) -> Result<()> {
    let renewed = shared.leases().renew(id, shared.boot(), shared.wall());
    if renewed {
        Ok(())
    } else {
        fence(shared, id, "store.heartbeat")
    }
}

pub(crate) async fn heartbeat(
    conn: &mut SqliteConnection,
    shared: &Shared,
    id: IncarnationId,
) -> Result<HeartbeatAnswer> {
    let rows = sqlx::query(
        "SELECT a.job_id, a.number, a.epoch, a.state < 3 AND j.cancel_requested_at IS NOT NULL AS cancel,
                coalesce(a.followed_until > ?, 0) AS followed
         FROM attempts a INDEXED BY attempts_open CROSS JOIN jobs j ON j.id = a.job_id
         WHERE a.holder = ? AND a.finalised_at IS NULL",
    )
    .bind(shared.wall().as_millis())
    .bind(&id.as_bytes()[..])
    .fetch_all(conn)
    .await?;
    let mut answer = HeartbeatAnswer {
        held: rows.len() as u64,
        hash: 0,
        cancel_requested: Vec::new(),
        followed: Vec::new(),
        drain: shared.leases().is_draining(id),
    };
    for row in &rows {
        let attempt = AttemptId {
            job: row.job_id("job_id")?,
            number: row.number("number")?,
        };
        answer.hash = answer.hash.wrapping_add(held_hash(attempt, row.number("epoch")?));
        if row.col("cancel")? {
            answer.cancel_requested.push(attempt);
        }
        if row.col("followed")? {
            answer.followed.push(attempt);
        }
    }
    Ok(answer)
}

pub(crate) async fn held(
    conn: &mut SqliteConnection,
    shared: &Shared,
    id: IncarnationId,
) -> Result<Vec<(AttemptId, Epoch)>> {
    fence(shared, id, "store.held")?;
    let rows = sqlx::query(
        "SELECT job_id, number, epoch FROM attempts INDEXED BY attempts_open WHERE holder = ? AND finalised_at IS NULL",
    )
    .bind(&id.as_bytes()[..])
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let id = AttemptId {
                job: row.job_id("job_id")?,
                number: row.number("number")?,
            };
            Ok((id, row.number("epoch")?))
        })
        .collect()
}

/// What is held; `$data` is the payload and where it comes from: hundreds are adopted at once, and payloads may be large.
macro_rules! held_query {
    ($attempts:literal, $data:literal, $from:literal) => {
        concat!(
            "SELECT ",
            attempt_columns!(),
            ", ",
            job_columns!(),
            $data,
            ", r.request FROM ",
            $attempts,
            " CROSS JOIN jobs j ON j.id = a.job_id",
            $from,
            " CROSS JOIN start_requests r ON r.attempt = a.seq "
        )
    };
}

pub(crate) async fn claimed(
    conn: &mut SqliteConnection,
    shared: &Shared,
    incarnation: IncarnationId,
    claim: ClaimId,
) -> Result<Vec<HeldAttempt>> {
    fence(shared, incarnation, "store.claimed")?;
    let rows = sqlx::query(concat!(
        held_query!(
            "attempts a INDEXED BY attempts_claimed",
            ", d.payload",
            " CROSS JOIN job_data d ON d.seq = j.seq"
        ),
        "WHERE a.claim = ? AND a.finalised_at IS NULL AND a.holder = ? ORDER BY a.seq"
    ))
    .bind(&claim.as_bytes()[..])
    .bind(&incarnation.as_bytes()[..])
    .fetch_all(conn)
    .await?;
    let now = shared.wall();
    let mut claimed = Vec::with_capacity(rows.len());
    for row in &rows {
        claimed.extend(shared.readable(row, read_held(row, now))?);
    }
    Ok(claimed)
}

macro_rules! next_holder {
    ($which:literal) => {
        concat!(
            "SELECT holder FROM attempts INDEXED BY attempts_open WHERE finalised_at IS NULL AND holder > ?",
            $which,
            " ORDER BY holder LIMIT 1"
        )
    };
}

/// Holders of open attempts that no live lease stands behind.
pub(crate) async fn orphan_holders(conn: &mut SqliteConnection, shared: &Shared) -> Result<Vec<IncarnationId>> {
    not_live(conn, shared, next_holder!("")).await
}

/// Of these, those who left something that has not ended.
pub(crate) async fn unsettled_holders(conn: &mut SqliteConnection, shared: &Shared) -> Result<Vec<IncarnationId>> {
    not_live(conn, shared, next_holder!(" AND state < 3")).await
}

/// A loose walk over the index.
async fn not_live(conn: &mut SqliteConnection, shared: &Shared, next: &'static str) -> Result<Vec<IncarnationId>> {
    let live = shared.leases().live();
    let mut orphans = Vec::new();
    let mut last = Vec::new();
    loop {
        let row = sqlx::query(next)
            .bind(last.as_slice())
            .fetch_optional(&mut *conn)
            .await?;
        let Some(row) = row else { return Ok(orphans) };
        let holder = IncarnationId::from_bytes(row.id_bytes("holder")?);
        last = holder.as_bytes().to_vec();
        if !live.contains(&holder) {
            orphans.push(holder);
        }
    }
}

pub(crate) async fn adopt(tx: &mut Tx, request: &Adopt) -> Result<Vec<HeldAttempt>> {
    tx.fence(request.incarnation, "store.adopt")?;
    let shared = std::sync::Arc::clone(&tx.shared);
    let mut holders = orphan_holders(&mut tx.conn, &shared).await?;
    if request.only.is_none() {
        tell_newer(tx, request, &holders).await?;
    }
    if request.only.is_some() {
        // The net below: what the adopter holds itself and does not know of.
        holders.push(request.incarnation);
    }
    let realms: Vec<_> = request
        .realms
        .iter()
        .map(|(executor, realm)| (executor.as_str(), realm.0.as_str()))
        .collect();
    let realms = serde_json::to_string(&realms)?;
    let only = request.only.as_ref().map(|only| attempts_json(only));
    let mut adopted = Vec::new();
    let mut seqs = Vec::new();
    let mut holders = holders.into_iter();
    let (mut holder, mut last) = (holders.next(), 0);
    while let Some(of) = holder {
        let room = request.max - adopted.len();
        if room == 0 {
            break;
        }
        let rows = sqlx::query(concat!(
            held_query!("attempts a INDEXED BY attempts_open", "", ""),
            "WHERE a.finalised_at IS NULL AND a.holder = ?1 AND a.seq > ?5 AND r.format <= ?6
               AND EXISTS (SELECT 1 FROM json_each(?2) v WHERE v.value ->> 0 = a.executor AND (a.realm IS NULL OR a.realm = v.value ->> 1))
               AND (?3 IS NULL OR (a.job_id, a.number) IN (SELECT unhex(value ->> 0), value ->> 1 FROM json_each(?3)))
             ORDER BY a.seq LIMIT ?4"
        ))
        .bind(&of.as_bytes()[..])
        .bind(realms.as_str())
        .bind(only.as_deref())
        .bind(i64::try_from(room).unwrap_or(i64::MAX))
        .bind(last)
        .bind(i64::from(request.format.number()))
        .fetch_all(&mut tx.conn)
        .await?;
        for row in &rows {
            last = row.col("t_seq")?;
            // One that cannot be read stays whose it is; the others are not kept waiting for it.
            if let Some(mut attempt) = shared.readable(row, read_adopted(row, tx.now))? {
                attempt.epoch += 1;
                seqs.push(last);
                adopted.push(attempt);
            }
        }
        if rows.len() < room {
            (holder, last) = (holders.next(), 0);
        }
    }
    if !seqs.is_empty() {
        let worker = tx.shared.worker(request.incarnation);
        sqlx::query("UPDATE attempts SET holder = ?, worker = ?, epoch = epoch + 1 WHERE seq IN (SELECT value FROM json_each(?))")
            .bind(&request.incarnation.as_bytes()[..])
            .bind(worker)
            .bind(numbers(seqs))
            .execute(&mut tx.conn)
            .await?;
    }
    Ok(adopted)
}

/// Warns of what is frozen in a newer format than the adopter reads: it is left for a worker of that release (PROTOCOL V1).
async fn tell_newer(tx: &mut Tx, request: &Adopt, holders: &[IncarnationId]) -> Result<()> {
    let executors: Vec<_> = request.realms.keys().map(ExecutorName::as_str).collect();
    let executors = serde_json::to_string(&executors)?;
    let mut attempts = 0_i64;
    for holder in holders {
        attempts += sqlx::query(
            "SELECT count(*) FROM attempts a INDEXED BY attempts_open CROSS JOIN start_requests r ON r.attempt = a.seq
             WHERE a.finalised_at IS NULL AND a.holder = ?1 AND r.format > ?2
               AND a.executor IN (SELECT value FROM json_each(?3))",
        )
        .bind(&holder.as_bytes()[..])
        .bind(i64::from(request.format.number()))
        .bind(executors.as_str())
        .fetch_one(&mut tx.conn)
        .await?
        .try_get::<i64, _>(0)?;
    }
    if attempts > 0 {
        tracing::warn!(attempts, reads = %request.format, "attempts of a later release are left for its workers");
    }
    Ok(())
}

/// Attempts as `[[hex, number], …]`.
pub(crate) fn attempts_json(attempts: &[AttemptId]) -> String {
    let mut text = "[".to_owned();
    for (at, attempt) in attempts.iter().enumerate() {
        text.push_str(if at == 0 { "[\"" } else { ",[\"" });
        push_hex(&mut text, attempt.job.as_bytes());
        text.push_str(&format!("\",{}]", attempt.number));
    }
    text.push(']');
    text
}

/// Incarnations as `[hex, …]`.
pub(crate) fn incarnations_json(ids: impl IntoIterator<Item = IncarnationId>) -> Result<String> {
    let hex = |id: IncarnationId| {
        let mut hex = String::new();
        push_hex(&mut hex, id.as_bytes());
        hex
    };
    Ok(serde_json::to_string(&ids.into_iter().map(hex).collect::<Vec<_>>())?)
}

pub(crate) async fn release(tx: &mut Tx, id: &IncarnationId) -> Result<()> {
    tx.fence(*id, "store.release")?;
    // Ended in memory even where the commit fails: a worker that released does not go on.
    let boot = tx.boot;
    tx.shared.leases().end(*id, boot);
    write_ends(tx).await?;
    tx.tally.hint(Hint::Orphans);
    Ok(())
}

/// Asks a worker to drain.
pub(crate) async fn drain(tx: &mut Tx, (id, by): &(IncarnationId, String)) -> Result<()> {
    let row = sqlx::query("SELECT ended_at, drain_at FROM workers WHERE incarnation = ?")
        .bind(&id.as_bytes()[..])
        .fetch_optional(&mut tx.conn)
        .await?
        .ok_or_else(|| refused(ErrorKind::NotFound, "store.drain", format!("there is no worker {id}")))?;
    if row.time_or_none("ended_at")?.is_some() || tx.shared.leases().has_ended(*id) {
        let message = format!("the worker {id} is not there any more: its lease has ended");
        return Err(refused(ErrorKind::Conflict, "store.drain", message));
    }
    if row.time_or_none("drain_at")?.is_none() {
        sqlx::query("UPDATE workers SET drain_at = ? WHERE incarnation = ?")
            .bind(tx.now.as_millis())
            .bind(&id.as_bytes()[..])
            .execute(&mut tx.conn)
            .await?;
        tx.audit(by, &Deed::drain(*id)).await?;
    }
    tx.after(After::Draining(*id));
    Ok(())
}

/// Writes the ends of leases that memory knows; answers how many were new.
pub(crate) async fn write_ends(tx: &mut Tx) -> Result<usize> {
    // Only what is known to have ended: one that registers in this very group is not in memory before its commit.
    let ended = incarnations_json(tx.shared.leases().ended())?;
    let done = sqlx::query(
        "UPDATE workers INDEXED BY workers_live SET ended_at = max(?, seen_at)
         WHERE ended_at IS NULL AND incarnation IN (SELECT unhex(value) FROM json_each(?))",
    )
    .bind(tx.now.as_millis())
    .bind(ended)
    .execute(&mut tx.conn)
    .await?;
    Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
}

pub(crate) async fn known(conn: &mut SqliteConnection, attempts: &[AttemptId]) -> Result<Vec<Knowledge>> {
    let rows = sqlx::query(
        "SELECT v.key AS place, a.finalised_at FROM json_each(?) v
         CROSS JOIN attempts a ON a.job_id = unhex(v.value ->> 0) AND a.number = v.value ->> 1",
    )
    .bind(attempts_json(attempts))
    .fetch_all(conn)
    .await?;
    let mut known = vec![Knowledge::Unknown; attempts.len()];
    for row in rows {
        let place = usize::try_from(row.col::<i64>("place")?).unwrap_or(usize::MAX);
        if let Some(known) = known.get_mut(place) {
            *known = match row.time_or_none("finalised_at")? {
                Some(_) => Knowledge::Finalised,
                None => Knowledge::Open,
            };
        }
    }
    Ok(known)
}

fn read_executors(row: &SqliteRow) -> Result<BTreeMap<ExecutorName, WorkerExecutor>> {
    let stored: BTreeMap<String, StoredExecutor> = row.json("executors")?;
    let told = |executor: StoredExecutor| WorkerExecutor {
        realm: executor.realm,
        slots: executor.slots,
    };
    stored
        .into_iter()
        .map(|(name, executor)| Ok((parse(&name)?, told(executor))))
        .collect()
}

pub(crate) async fn workers(conn: &mut SqliteConnection, shared: &Shared) -> Result<Vec<WorkerRecord>> {
    let rows = sqlx::query("SELECT * FROM workers ORDER BY ended_at IS NOT NULL, started_at DESC, incarnation DESC")
        .fetch_all(&mut *conn)
        .await?;
    let mut workers = Vec::with_capacity(rows.len());
    for row in rows {
        let incarnation = IncarnationId::from_bytes(row.id_bytes("incarnation")?);
        let Some(executors) = shared.readable(&row, read_executors(&row))? else {
            continue;
        };
        let held = sqlx::query(
            "SELECT count(*) FROM attempts INDEXED BY attempts_open WHERE holder = ? AND finalised_at IS NULL",
        )
        .bind(&incarnation.as_bytes()[..])
        .fetch_one(&mut *conn)
        .await?
        .try_get::<i64, _>(0)?;
        let seen_at = row.time("seen_at")?;
        workers.push(WorkerRecord {
            incarnation,
            host: row.col("host")?,
            pid: row.number("pid")?,
            executors,
            started_at: row.time("started_at")?,
            seen_at: shared.leases().seen_at(incarnation).unwrap_or(seen_at).max(seen_at),
            held: u64::try_from(held).unwrap_or_default(),
            ended_at: row.time_or_none("ended_at")?,
            draining: row.time_or_none("drain_at")?.is_some(),
            format: Format::new(u8::try_from(row.number("format")?).unwrap_or(u8::MAX)),
        });
    }
    Ok(workers)
}

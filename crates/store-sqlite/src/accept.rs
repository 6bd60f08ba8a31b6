//! Whole jobs that came by the broker: taken in if absent, aliases of keys, tombstones, outages (PROTOCOL I1, I3).

use std::collections::HashMap;

use robata_core::{
    Error, JobId, Timestamp,
    accept::{STRAGGLERS, TOMBSTONES_KEPT, TakenIn, WholeJob},
    job::Enqueue,
};
use sqlx::SqliteConnection;

use crate::{
    enqueue,
    error::Result,
    shared::Shared,
    sql::{Read as _, Values, hex_ids, numbers},
    tx::Tx,
};

/// Outages told at once.
const OUTAGES: i64 = 1_000;

pub(crate) async fn take_in(tx: &mut Tx, jobs: &[WholeJob]) -> Result<Vec<Result<TakenIn, Error>>> {
    let known = came_before(tx, jobs).await?;
    let fresh: Vec<_> = jobs.iter().filter(|whole| !known.contains_key(&whole.job.id)).collect();
    let request = Enqueue {
        jobs: fresh.iter().map(|whole| whole.for_store(tx.now)).collect(),
        atomic: false,
    };
    // One answer for one request.
    let answers = enqueue::all(tx, &[&request]).await?.pop().unwrap_or_default();
    let mut answers = fresh.iter().zip(answers).map(|(whole, answer)| {
        answer.map(|enqueued| match enqueued {
            enqueued if enqueued.job.id != whole.job.id => TakenIn::Alias(enqueued.job.id),
            enqueued if enqueued.replayed => TakenIn::WasThere,
            _ => TakenIn::Made,
        })
    });
    let mut results = Vec::with_capacity(jobs.len());
    let mut came: Vec<(JobId, Option<JobId>)> = Vec::with_capacity(fresh.len());
    for whole in jobs {
        let id = whole.job.id;
        if let Some(known) = known.get(&id) {
            results.push(Ok(*known));
        } else if let Some(answer) = answers.next() {
            match answer {
                Ok(TakenIn::Alias(first)) => came.push((id, Some(first))),
                Ok(_) => came.push((id, None)),
                Err(_) => {}
            }
            results.push(answer);
        }
    }
    // An id may stand twice in one call.
    came.sort_unstable();
    came.dedup();
    tx.inserts
        .run(
            &mut tx.conn,
            "INSERT INTO accepted (id, first_id)",
            2,
            &came,
            |values: &mut Values, (id, first)| {
                values
                    .add(&id.as_bytes()[..])
                    .add(first.as_ref().map(|first| &first.as_bytes()[..]));
            },
        )
        .await?;
    if let Some((earliest, _)) = came.first() {
        note_outage(tx, &earliest.timestamp()).await?;
    }
    Ok(results)
}

/// What is known of those that came before.
async fn came_before(tx: &mut Tx, jobs: &[WholeJob]) -> Result<HashMap<JobId, TakenIn>> {
    let rows = sqlx::query(
        "SELECT a.id, a.first_id, a.gone_at FROM json_each(?) v CROSS JOIN accepted a ON a.id = unhex(v.value)",
    )
    .bind(hex_ids(jobs.iter().map(|whole| whole.job.id.as_bytes())))
    .fetch_all(&mut tx.conn)
    .await?;
    let mut known = HashMap::with_capacity(rows.len());
    for row in &rows {
        let gone = row.col::<Option<i64>>("gone_at")?.is_some();
        let first = row.col::<Option<&[u8]>>("first_id")?.is_some();
        let fate = match (gone, first) {
            (true, _) => TakenIn::Gone,
            (false, true) => TakenIn::Alias(row.job_id("first_id")?),
            (false, false) => TakenIn::WasThere,
        };
        known.insert(row.job_id("id")?, fate);
    }
    Ok(known)
}

/// The first job of an alias.
pub(crate) async fn first_of(conn: &mut SqliteConnection, id: JobId) -> Result<Option<JobId>> {
    let row = sqlx::query("SELECT first_id FROM accepted WHERE id = ? AND first_id IS NOT NULL AND gone_at IS NULL")
        .bind(&id.as_bytes()[..])
        .fetch_optional(conn)
        .await?;
    row.map(|row| row.job_id("first_id")).transpose()
}

pub(crate) async fn note_outage(tx: &mut Tx, since: &Timestamp) -> Result<()> {
    sqlx::query(
        "INSERT INTO outages (since) SELECT ?1 WHERE NOT EXISTS (
             SELECT 1 FROM outages INDEXED BY outages_open WHERE over_at IS NULL AND since <= ?1)",
    )
    .bind(since.as_millis())
    .execute(&mut tx.conn)
    .await?;
    Ok(())
}

pub(crate) async fn outages(conn: &mut SqliteConnection) -> Result<Vec<i64>> {
    let rows =
        sqlx::query("SELECT seq FROM outages INDEXED BY outages_open WHERE over_at IS NULL ORDER BY since LIMIT ?")
            .bind(OUTAGES)
            .fetch_all(conn)
            .await?;
    rows.iter().map(|row| row.col("seq")).collect()
}

pub(crate) async fn outages_over(tx: &mut Tx, outages: &[i64]) -> Result<()> {
    sqlx::query("UPDATE outages SET over_at = ? WHERE seq IN (SELECT value FROM json_each(?)) AND over_at IS NULL")
        .bind(tx.now.as_millis())
        .bind(numbers(outages.iter().copied()))
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

pub(crate) async fn may_come(conn: &mut SqliteConnection, shared: &Shared, id: JobId) -> Result<bool> {
    let row = sqlx::query(
        "SELECT EXISTS (SELECT 1 FROM outages INDEXED BY outages_open WHERE over_at IS NULL AND since <= ?1)
             OR EXISTS (SELECT 1 FROM outages INDEXED BY outages_over WHERE over_at > ?2 AND since <= ?1 AND over_at >= ?1)
             AS may_come",
    )
    .bind(id.timestamp().as_millis())
    .bind(shared.wall().minus(STRAGGLERS).as_millis())
    .fetch_one(conn)
    .await?;
    row.col("may_come")
}

/// Jobs that are about to be pruned leave tombstones where they came this way.
pub(crate) async fn bury(tx: &mut Tx, seqs: &str) -> Result<()> {
    for text in [
        "UPDATE accepted SET gone_at = ?1 WHERE id IN (
             SELECT j.id FROM json_each(?2) v CROSS JOIN jobs j ON j.seq = v.value)",
        "UPDATE accepted SET gone_at = ?1 WHERE first_id IS NOT NULL AND first_id IN (
             SELECT j.id FROM json_each(?2) v CROSS JOIN jobs j ON j.seq = v.value)",
    ] {
        sqlx::query(text)
            .bind(tx.now.as_millis())
            .bind(seqs)
            .execute(&mut tx.conn)
            .await?;
    }
    Ok(())
}

/// Removes tombstones and outages that are past their time, at most so many of each.
pub(crate) async fn prune(tx: &mut Tx, max: usize) -> Result<()> {
    for text in [
        "DELETE FROM accepted WHERE id IN (
             SELECT id FROM accepted INDEXED BY accepted_gone WHERE gone_at IS NOT NULL AND gone_at < ?1 ORDER BY gone_at LIMIT ?2)",
        "DELETE FROM outages WHERE seq IN (
             SELECT seq FROM outages INDEXED BY outages_over WHERE over_at IS NOT NULL AND over_at < ?1 ORDER BY over_at LIMIT ?2)",
    ] {
        sqlx::query(text)
            .bind(tx.now.minus(TOMBSTONES_KEPT).as_millis())
            .bind(i64::try_from(max).unwrap_or(i64::MAX))
            .execute(&mut tx.conn)
            .await?;
    }
    Ok(())
}

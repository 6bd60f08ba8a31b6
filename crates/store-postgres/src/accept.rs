//! Whole jobs that came by the broker: taken in if absent, aliases of keys, tombstones, outages (PROTOCOL I1, I3).

use std::collections::HashMap;

use robata_core::{
    Error, JobId, Timestamp,
    accept::{STRAGGLERS, TOMBSTONES_KEPT, TakenIn, WholeJob},
    job::Enqueue,
};
use uuid::Uuid;

use crate::{
    enqueue,
    error::{Fault, Result},
    sql::{Read as _, q},
    tx::Tx,
};

/// Outages told at once.
const OUTAGES: i64 = 1_000;

pub(crate) async fn take_in(tx: &mut Tx, jobs: &[WholeJob]) -> Result<Vec<Result<TakenIn, Error>>> {
    let known = came_before(tx, jobs).await?;
    let fresh: Vec<_> = jobs.iter().filter(|whole| !known.contains_key(&whole.job.id)).collect();
    let answers = store(tx, &fresh).await?;
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
    // In the order of the ids, so that no two transactions wait for each other; an id may stand twice in one call.
    came.sort_unstable();
    q("INSERT INTO robata.accepted (id, first_id) SELECT * FROM unnest($1::uuid[], $2::uuid[]) ON CONFLICT DO NOTHING")
        .bind(came.iter().map(|(id, _)| id.uuid()).collect::<Vec<_>>())
        .bind(
            came.iter()
                .map(|(_, first)| first.map(|id| id.uuid()))
                .collect::<Vec<_>>(),
        )
        .execute(tx.conn())
        .await?;
    if let Some((earliest, _)) = came.first() {
        note_outage(tx, &earliest.timestamp()).await?;
    }
    Ok(results)
}

async fn store(tx: &mut Tx, fresh: &[&WholeJob]) -> Result<Vec<Result<robata_core::job::Enqueued, Error>>> {
    if fresh.is_empty() {
        return Ok(Vec::new());
    }
    let now = tx.now;
    let request = Enqueue {
        jobs: fresh.iter().map(|whole| whole.for_store(now)).collect(),
        atomic: false,
    };
    match enqueue::run(tx, std::slice::from_ref(&request)).await?.pop() {
        Some(answers) => answers.map_err(Fault::Refused),
        None => Err(Fault::BadRow("a group of one was not answered".to_owned())),
    }
}

/// What is known of those that came before.
async fn came_before(tx: &mut Tx, jobs: &[WholeJob]) -> Result<HashMap<JobId, TakenIn>> {
    let rows = q("SELECT id, first_id, gone_at FROM robata.accepted WHERE id = ANY($1)")
        .bind(jobs.iter().map(|whole| whole.job.id.uuid()).collect::<Vec<_>>())
        .fetch_all(tx.conn())
        .await?;
    let mut known = HashMap::with_capacity(rows.len());
    for row in &rows {
        let gone = row.col::<Option<i64>>("gone_at")?;
        let first = row.col::<Option<Uuid>>("first_id")?;
        let fate = match (gone, first) {
            (Some(_), _) => TakenIn::Gone,
            (None, Some(first)) => TakenIn::Alias(JobId::from_bytes(*first.as_bytes())),
            (None, None) => TakenIn::WasThere,
        };
        known.insert(row.job_id("id")?, fate);
    }
    Ok(known)
}

/// The first job of an alias.
pub(crate) async fn first_of(tx: &mut Tx, id: JobId) -> Result<Option<JobId>> {
    let row = q("SELECT first_id FROM robata.accepted WHERE id = $1 AND first_id IS NOT NULL AND gone_at IS NULL")
        .bind(id.uuid())
        .fetch_optional(tx.conn())
        .await?;
    row.map(|row| row.job_id("first_id")).transpose()
}

pub(crate) async fn note_outage(tx: &mut Tx, since: &Timestamp) -> Result<()> {
    q("INSERT INTO robata.outages (since) SELECT $1 WHERE NOT EXISTS (
           SELECT 1 FROM robata.outages WHERE over_at IS NULL AND since <= $1)")
    .bind(since.as_millis())
    .execute(tx.conn())
    .await?;
    Ok(())
}

pub(crate) async fn outages(tx: &mut Tx, (): &()) -> Result<Vec<i64>> {
    let rows = q("SELECT seq FROM robata.outages WHERE over_at IS NULL ORDER BY since LIMIT $1")
        .bind(OUTAGES)
        .fetch_all(tx.conn())
        .await?;
    rows.iter().map(|row| row.col("seq")).collect()
}

pub(crate) async fn outages_over(tx: &mut Tx, outages: &[i64]) -> Result<()> {
    q("UPDATE robata.outages SET over_at = $1 WHERE seq = ANY($2) AND over_at IS NULL")
        .bind(tx.now.as_millis())
        .bind(outages)
        .execute(tx.conn())
        .await?;
    Ok(())
}

pub(crate) async fn may_come(tx: &mut Tx, id: &JobId) -> Result<bool> {
    let row = q(
        "SELECT EXISTS (SELECT 1 FROM robata.outages WHERE over_at IS NULL AND since <= $1)
             OR EXISTS (SELECT 1 FROM robata.outages WHERE over_at > $2 AND since <= $1 AND over_at >= $1) AS may_come",
    )
    .bind(id.timestamp().as_millis())
    .bind(tx.now.minus(STRAGGLERS).as_millis())
    .fetch_one(tx.conn())
    .await?;
    row.col("may_come")
}

/// Jobs that are about to be pruned leave tombstones where they came this way.
pub(crate) async fn bury(tx: &mut Tx, seqs: &[i64]) -> Result<()> {
    for text in [
        "UPDATE robata.accepted SET gone_at = $1 WHERE id = ANY(ARRAY(
             SELECT id FROM robata.jobs WHERE seq = ANY($2)))",
        "UPDATE robata.accepted SET gone_at = $1 WHERE first_id IS NOT NULL AND first_id = ANY(ARRAY(
             SELECT id FROM robata.jobs WHERE seq = ANY($2)))",
    ] {
        q(text).bind(tx.now.as_millis()).bind(seqs).execute(tx.conn()).await?;
    }
    Ok(())
}

/// Removes tombstones and outages that are past their time, at most so many of each.
pub(crate) async fn prune(tx: &mut Tx, max: i64) -> Result<()> {
    for text in [
        "DELETE FROM robata.accepted WHERE id = ANY(ARRAY(
             SELECT id FROM robata.accepted WHERE gone_at < $1 ORDER BY gone_at LIMIT $2 FOR UPDATE SKIP LOCKED))",
        "DELETE FROM robata.outages WHERE seq = ANY(ARRAY(
             SELECT seq FROM robata.outages WHERE over_at < $1 ORDER BY over_at LIMIT $2 FOR UPDATE SKIP LOCKED))",
    ] {
        q(text)
            .bind(tx.now.minus(TOMBSTONES_KEPT).as_millis())
            .bind(max)
            .execute(tx.conn())
            .await?;
    }
    Ok(())
}

//! Claim: `queued` → `running`, the attempt made and its start request frozen, for a batch in one transaction (PROTOCOL O6).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use robata_core::{
    JobId, Payload,
    attempt::{Claim, Claimed, HeldAttempt},
    row::{Candidate, Fit, JobRow, limits, number},
    state::JobEvent,
    store::Hint,
};
use serde_json::json;
use sqlx::sqlite::SqliteRow;

use crate::{
    error::Result,
    job_row::{self, job_attempt, job_columns},
    limit::Rooms,
    save,
    sql::{Read as _, hex_ids, numbers},
    tx::Tx,
};

/// An attempt to be inserted.
struct NewAttempt {
    seq: i64,
    held: HeldAttempt,
    job_seq: i64,
    request: String,
}

pub(crate) async fn run(tx: &mut Tx, claim: &Claim) -> Result<Vec<Claimed>> {
    tx.fence(claim.incarnation, "store.claim")?;
    let mut candidates = candidates(tx, claim).await?;
    let mut rooms = Rooms::default();
    let mut answers = Vec::with_capacity(claim.references.len());
    let mut new = Vec::new();
    let mut waits = Vec::new();
    let mut lines = HashSet::new();
    for (line, reference) in &claim.references {
        let Some(mut candidate) = candidates.remove(&reference.job) else {
            answers.push(Claimed::Gone);
            continue;
        };
        let fit = candidate.fit(line, *reference, tx.paused.contains_key(&line.queue), tx);
        if !matches!(fit, Fit::Gone) {
            lines.insert(line);
        }
        let effective = match fit {
            Fit::Fits(effective) => effective,
            Fit::Gone => {
                // The same job may stand in the claim again, with the right number.
                candidates.insert(reference.job, candidate);
                answers.push(Claimed::Gone);
                continue;
            }
            Fit::Paused => {
                waits.push(candidate.row);
                answers.push(Claimed::Paused);
                continue;
            }
            Fit::Unrunnable(reason, words) => {
                candidate
                    .row
                    .end_waiting(tx, JobEvent::Unrunnable, reason, Some(words))?;
                save::job(tx, &candidate.row).await?;
                answers.push(Claimed::Ended(reason));
                continue;
            }
        };
        let limits = limits(&tx.catalog, &line.queue, &candidate.row.app, &candidate.row.job);
        if rooms.of(&mut tx.conn, &limits).await?.is_some_and(|room| room <= 0) {
            waits.push(candidate.row);
            answers.push(Claimed::OverLimit);
            continue;
        }
        rooms.take(&limits, 1);
        let published = candidate.row.published_at.is_some();
        let (row, held) = candidate.claim(&effective, claim.claim, tx);
        tx.tally.count_move(&row);
        tx.tally.count_out(&row.line, -i64::from(published));
        answers.push(Claimed::Held(Box::new(held.clone())));
        new.push(NewAttempt {
            seq: tx.next_attempt,
            job_seq: row.seq,
            request: serde_json::to_string(&held.request)?,
            held,
        });
        tx.next_attempt += 1;
    }
    insert(tx, claim, &new).await?;
    move_jobs(tx, &new).await?;
    give_back(tx, &waits).await?;
    for attempt in &new {
        tx.tally.hint(Hint::Job(attempt.held.id.job));
    }
    // The claim has made room in the window of its lines (PROTOCOL O2).
    for line in lines {
        tx.tally.hint(Hint::Line(line.clone()));
    }
    Ok(answers)
}

async fn candidates(tx: &mut Tx, claim: &Claim) -> Result<HashMap<JobId, Candidate>> {
    let ids: HashSet<_> = claim.references.iter().map(|(_, reference)| reference.job).collect();
    let rows = sqlx::query(concat!(
        "SELECT ",
        job_columns!(),
        ", d.payload, d.env, d.definition, d.traceparent FROM json_each(?) v CROSS JOIN jobs j ON j.id = unhex(v.value)
         CROSS JOIN job_data d ON d.seq = j.seq",
        job_attempt!(),
        "WHERE j.state = 1"
    ))
    .bind(hex_ids(ids.iter().map(JobId::as_bytes)))
    .fetch_all(&mut tx.conn)
    .await?;
    let mut candidates = HashMap::with_capacity(rows.len());
    for row in &rows {
        let read = || Ok((row.job_id("id")?, candidate(row)?));
        candidates.extend(tx.shared.readable(row, read())?);
    }
    Ok(candidates)
}

fn candidate(row: &SqliteRow) -> Result<Candidate> {
    Ok(Candidate {
        payload: payload(row)?,
        env: row.json_or_none("env")?.unwrap_or_default(),
        one_off: row.json_or_none("definition")?.map(Arc::new),
        traceparent: row.col("traceparent")?,
        row: job_row::read(row)?,
    })
}

/// The row's payload.
pub(crate) fn payload(row: &SqliteRow) -> Result<Payload> {
    Ok(Payload::from_stored(row.col::<Vec<u8>>("payload")?.into()))
}

async fn insert(tx: &mut Tx, claim: &Claim, new: &[NewAttempt]) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let worker = tx.shared.worker(claim.incarnation);
    let now = tx.now.as_millis();
    let executors: HashMap<JobId, &str> = claim
        .references
        .iter()
        .map(|(line, reference)| (reference.job, line.executor.as_str()))
        .collect();
    tx.inserts
        .run(
            &mut tx.conn,
            "INSERT INTO attempts (seq, job_id, number, app, holder, epoch, claim, worker, state, image, \
             definition_version, executor, created_at, moved_at)",
            14,
            new,
            |values, new| {
                let held = &new.held;
                values
                    .add(new.seq)
                    .add(&held.id.job.as_bytes()[..])
                    .add(i64::from(held.id.number))
                    .add(held.request.app.as_str())
                    .add(&claim.incarnation.as_bytes()[..])
                    .add(i64::from(held.epoch))
                    .add(&claim.claim.as_bytes()[..])
                    .add(worker.as_str())
                    .add(number::of_attempt(held.state))
                    .add(held.request.definition.image.as_deref())
                    .add(held.request.definition_version.map(i64::from))
                    .add(executors.get(&held.id.job).copied())
                    .add(now)
                    .add(now);
            },
        )
        .await?;
    tx.inserts
        .run(
            &mut tx.conn,
            "INSERT INTO start_requests (attempt, request, format)",
            3,
            new,
            |values, new| {
                values
                    .add(new.seq)
                    .add(new.request.as_str())
                    .add(i64::from(new.held.request.format.number()));
            },
        )
        .await
}

async fn move_jobs(tx: &mut Tx, new: &[NewAttempt]) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let moves: Vec<_> = new
        .iter()
        .map(|new| {
            // Kept beside the frozen request, so that what is left of the job's own attempts can be told without reading it.
            let own = new.held.request.definition.retry.max_attempts;
            json!([new.job_seq, new.held.id.number, own])
        })
        .collect();
    sqlx::query(
        "UPDATE jobs SET state = 2, attempt = v.number, max_attempts = iif(by_hand, max_attempts, v.own),
             moved_at = max(moved_at, ?1), first_claimed_at = coalesce(first_claimed_at, max(moved_at, ?1)),
             published_at = NULL, broker_key = NULL, publications = 0, used_up = 0
         FROM (SELECT value ->> 0 AS seq, value ->> 1 AS number, value ->> 2 AS own FROM json_each(?2)) v
         WHERE jobs.seq = v.seq",
    )
    .bind(tx.now.as_millis())
    .bind(serde_json::to_string(&moves)?)
    .execute(&mut tx.conn)
    .await?;
    Ok(())
}

/// What is over a limit or paused waits in the store: its publication is used up.
async fn give_back(tx: &mut Tx, waits: &[JobRow]) -> Result<()> {
    if waits.is_empty() {
        return Ok(());
    }
    for row in waits {
        tx.tally.count_out(&row.line, -i64::from(row.published_at.is_some()));
    }
    // A broker may deliver before it confirms, and a claim be sooner than `published`: that must not note it as out.
    sqlx::query(
        "UPDATE jobs SET used_up = used_up + (published_at IS NULL), published_at = NULL, broker_key = NULL, publications = 0
         WHERE seq IN (SELECT value FROM json_each(?))",
    )
    .bind(numbers(waits.iter().map(|row| row.seq)))
    .execute(&mut tx.conn)
    .await?;
    Ok(())
}

//! Claim: `queued` → `running`, the attempt made and its start request frozen, for a batch in one transaction (PROTOCOL O6).

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use robata_core::{
    AttemptState, JobId, Payload,
    attempt::{Claim, Claimed, HeldAttempt},
    job::Line,
    row::{Candidate, Fit, JobRow, limits, number},
    state::JobEvent,
    store::Hint,
};
use sqlx::postgres::PgRow;

use crate::{
    error::Result,
    job_row::{self, job_columns, no_joins},
    lease,
    limit::{self, Rooms},
    pause, save,
    sql::{Read as _, q},
    tx::Tx,
};

/// An attempt to be inserted.
struct NewAttempt {
    held: HeldAttempt,
    line: Line,
    request: String,
}

pub(crate) async fn run(tx: &mut Tx, claim: &Claim) -> Result<Vec<Claimed>> {
    let worker = lease::fence(tx, claim.incarnation, "store.claim").await?;
    if claim.references.is_empty() {
        return Ok(Vec::new());
    }
    let queues: BTreeSet<_> = claim.references.iter().map(|(line, _)| line.queue.as_str()).collect();
    pause::hold_off(tx.conn(), queues).await?;
    let mut candidates = candidates(tx, claim).await?;
    let mut scopes = BTreeSet::new();
    for (candidate, _) in candidates.values() {
        let row = &candidate.row;
        let limits = limits(&tx.catalog, &row.line.queue, &row.app, &row.job);
        scopes.extend(limits.into_iter().map(|(scope, _)| scope));
    }
    limit::lock(tx.conn(), scopes).await?;
    let mut rooms = Rooms::default();
    let mut answers = Vec::with_capacity(claim.references.len());
    let mut new = Vec::new();
    let mut moved = Vec::new();
    let mut waits = Vec::new();
    let mut lines = HashSet::new();
    for (line, reference) in &claim.references {
        let Some((mut candidate, is_paused)) = candidates.remove(&reference.job) else {
            answers.push(Claimed::Gone);
            continue;
        };
        let fit = candidate.fit(line, *reference, is_paused, tx);
        if !matches!(fit, Fit::Gone) {
            lines.insert(line);
        }
        let effective = match fit {
            Fit::Fits(effective) => effective,
            Fit::Gone => {
                // The same job may stand in the claim again, with the right number.
                candidates.insert(reference.job, (candidate, is_paused));
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
                moved.push(candidate.row);
                answers.push(Claimed::Ended(reason));
                continue;
            }
        };
        let limits = limits(&tx.catalog, &line.queue, &candidate.row.app, &candidate.row.job);
        if rooms.of(tx.conn(), &limits).await?.is_some_and(|room| room <= 0) {
            waits.push(candidate.row);
            answers.push(Claimed::OverLimit);
            continue;
        }
        rooms.take(&limits, 1);
        let (row, held) = candidate.claim(&effective, claim.claim, tx);
        answers.push(Claimed::Held(Box::new(held.clone())));
        new.push(NewAttempt {
            line: row.line.clone(),
            request: serde_json::to_string(&held.request)?,
            held,
        });
        moved.push(row);
    }
    insert(tx, claim, &worker, &new).await?;
    save::jobs(tx, &moved).await?;
    give_back(tx, &waits).await?;
    for row in &moved {
        tx.tally.hint(Hint::Job(row.id));
    }
    // The claim has made room in the window of its lines (PROTOCOL O2).
    for line in lines {
        tx.tally.hint(Hint::Line(line.clone()));
    }
    Ok(answers)
}

/// The jobs, locked in the order of their ids, and whether their queues are paused, which nobody changes meanwhile. It waits
/// for whoever holds one: to skip it would drop a reference that its holder may leave as it is.
async fn candidates(tx: &mut Tx, claim: &Claim) -> Result<HashMap<JobId, (Candidate, bool)>> {
    let ids: HashSet<_> = claim
        .references
        .iter()
        .map(|(_, reference)| reference.job.uuid())
        .collect();
    let rows = q(concat!(
        "SELECT ",
        job_columns!(),
        ", d.payload, d.env, d.definition, d.traceparent,
             EXISTS (SELECT FROM robata.pauses p WHERE p.queue = j.queue) AS is_paused FROM robata.jobs j JOIN robata.job_data d ON d.seq = j.seq",
        no_joins!(),
        // An expression, so that no index of states is taken for a short way (see `db::PLANS`).
        "WHERE j.id = ANY($1) AND j.state + 0 = 1 ORDER BY j.id FOR UPDATE OF j"
    ))
    .bind(ids.into_iter().collect::<Vec<_>>())
    .fetch_all(tx.conn())
    .await?;
    let mut candidates = HashMap::with_capacity(rows.len());
    for row in &rows {
        let read = || Ok((row.job_id("id")?, (candidate(row)?, row.col("is_paused")?)));
        candidates.extend(tx.shared.readable(row, read())?);
    }
    Ok(candidates)
}

fn candidate(row: &PgRow) -> Result<Candidate> {
    Ok(Candidate {
        payload: payload(row)?,
        env: row.json_or_none("env")?.unwrap_or_default(),
        one_off: row.json_or_none("definition")?.map(Arc::new),
        traceparent: row.col("traceparent")?,
        row: job_row::read(row)?,
    })
}

/// The row's payload.
pub(crate) fn payload(row: &PgRow) -> Result<Payload> {
    Ok(Payload::from_stored(row.col::<Vec<u8>>("payload")?.into()))
}

async fn insert(tx: &mut Tx, claim: &Claim, worker: &str, new: &[NewAttempt]) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    macro_rules! each {
        ($of:expr) => {
            new.iter().map($of).collect::<Vec<_>>()
        };
    }
    q("WITH v AS MATERIALIZED (
             SELECT nextval('robata.attempt_seq') AS seq, v.* FROM (
                 SELECT * FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[])
                     WITH ORDINALITY AS v (job_id, number, app, image, definition_version, executor, request, place)
                 ORDER BY place) v),
         r AS (INSERT INTO robata.start_requests (attempt, request, format) SELECT seq, request, $13::smallint FROM v)
         INSERT INTO robata.attempts (seq, job_id, number, app, holder, epoch, claim, worker, state, image,
             definition_version, executor, created_at, moved_at)
         SELECT seq, job_id, number, app, $8, 1, $9, $10, $11, image, definition_version, executor, $12, $12 FROM v")
    .bind(each!(|new| new.held.id.job.uuid()))
    .bind(each!(|new| i32::try_from(new.held.id.number).unwrap_or(i32::MAX)))
    .bind(each!(|new| new.held.request.app.as_str()))
    .bind(each!(|new| new.held.request.definition.image.as_deref()))
    .bind(each!(|new| new.held.request.definition_version.map(i64::from)))
    .bind(each!(|new| new.line.executor.as_str()))
    .bind(each!(|new| new.request.as_str()))
    .bind(claim.incarnation.uuid())
    .bind(claim.claim.uuid())
    .bind(worker)
    .bind(number::of_attempt(AttemptState::Starting))
    .bind(tx.now.as_millis())
    .bind(i16::from(tx.format.to_write().number()))
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What is over a limit or paused waits in the store: its publication is used up.
async fn give_back(tx: &mut Tx, rows: &[JobRow]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    // A broker may deliver before it confirms, and a claim be sooner than `published`: that must not note it as out.
    let given = q("WITH l AS (SELECT id, published_at IS NOT NULL AS out FROM robata.queued WHERE id = ANY($1) ORDER BY id FOR UPDATE)
                   UPDATE robata.queued z SET used_up = z.used_up + CASE WHEN l.out THEN 0 ELSE 1 END, published_at = NULL,
                       broker_key = NULL, publications = 0, given_to = NULL, given_until = NULL
                   FROM l WHERE z.id = l.id RETURNING z.queue, z.executor, l.out")
    .bind(rows.iter().map(|row| row.id.uuid()).collect::<Vec<_>>())
    .fetch_all(tx.conn())
    .await?;
    for row in given {
        if row.col("out")? {
            let line = row.line()?;
            tx.tally.count_out(&line, -1);
        }
    }
    Ok(())
}

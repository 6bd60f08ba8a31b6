//! Claim: `queued` → `running`, the attempt made and its start request frozen, for a batch in one transaction (PROTOCOL O6).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use robata_core::{
    AttemptId, AttemptState, JobId, JobState, Payload, Reason, Timestamp,
    attempt::{Claim, Claimed, HeldAttempt},
    definition::Definition,
    job::{Line, Reference},
    request::{Origin, StartRequest},
    state::JobEvent,
    store::Hint,
};
use sqlx::postgres::PgRow;

use crate::{
    ending::end_waiting,
    error::Result,
    job_row::{JobRow, job_columns, no_joins},
    lease,
    limit::{self, Rooms, limits},
    pause, save,
    sql::{Read as _, q},
    tx::Tx,
    word::attempt_state,
};

/// A job with what its claim needs beside its row.
struct Candidate {
    row: JobRow,
    payload: Payload,
    env: BTreeMap<String, String>,
    one_off: Option<Definition>,
    traceparent: Option<String>,
}

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
    let paused = pause::all(tx.conn()).await?;
    let mut candidates = candidates(tx, claim).await?;
    let mut scopes = BTreeSet::new();
    for candidate in candidates.values() {
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
        let Some(mut candidate) = candidates.remove(&reference.job) else {
            answers.push(Claimed::Gone);
            continue;
        };
        if !matches(&candidate.row, line, *reference) {
            // The same job may stand in the claim again, with the right number.
            candidates.insert(reference.job, candidate);
            answers.push(Claimed::Gone);
            continue;
        }
        lines.insert(line);
        if paused.contains_key(&line.queue) {
            waits.push(candidate.row);
            answers.push(Claimed::Paused);
            continue;
        }
        if candidate.row.expiry().is_some_and(|at| at <= tx.now) {
            let words = "it expired before it was started".to_owned();
            moved.push(end_waiting(
                tx,
                candidate.row,
                JobEvent::Unrunnable,
                Reason::Expired,
                Some(words),
            )?);
            answers.push(Claimed::Ended(Reason::Expired));
            continue;
        }
        let catalog = Arc::clone(&tx.catalog);
        let entry = catalog.job(&candidate.row.app, &candidate.row.job);
        let one_off = candidate.one_off.take();
        let (definition, version) = match (&one_off, entry) {
            (Some(own), _) => (own, None),
            (None, Some(entry)) => (&*entry.definition, Some(entry.version)),
            (None, None) => {
                let words = format!(
                    "the app {} has no definition of the job {} any more",
                    candidate.row.app, candidate.row.job
                );
                let reason = Reason::NoDefinition;
                moved.push(end_waiting(
                    tx,
                    candidate.row,
                    JobEvent::Unrunnable,
                    reason,
                    Some(words),
                )?);
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
        let (attempt, row) = freeze(tx, claim, candidate, definition, version)?;
        answers.push(Claimed::Held(Box::new(attempt.held.clone())));
        new.push(attempt);
        moved.push(row);
    }
    insert(tx, claim, &worker, &new).await?;
    save::jobs(tx, &moved).await?;
    give_back(tx, &waits).await?;
    for row in &moved {
        tx.hint_job(row.id);
    }
    // The claim has made room in the window of its lines (PROTOCOL O2).
    for line in lines {
        tx.hint(Hint::Line(line.clone()));
    }
    Ok(answers)
}

/// Whether the reference is still the job's next attempt, in this line.
fn matches(row: &JobRow, line: &Line, reference: Reference) -> bool {
    row.state.after(JobEvent::Claimed).is_some() && row.attempt + 1 == reference.attempt && row.line == *line
}

/// The jobs, locked in the order of their ids. It waits for whoever holds one: to skip it would drop a reference that its
/// holder may leave as it is.
async fn candidates(tx: &mut Tx, claim: &Claim) -> Result<HashMap<JobId, Candidate>> {
    let ids: HashSet<_> = claim
        .references
        .iter()
        .map(|(_, reference)| reference.job.uuid())
        .collect();
    let rows = q(concat!(
        "SELECT ",
        job_columns!(),
        ", d.payload, d.env, d.definition, d.traceparent FROM robata.jobs j JOIN robata.job_data d ON d.seq = j.seq",
        no_joins!(),
        // An expression, so that no index of states is taken for a short way (see `db::PLANS`).
        "WHERE j.id = ANY($1) AND j.state + 0 = 1 ORDER BY j.id FOR UPDATE OF j"
    ))
    .bind(ids.into_iter().collect::<Vec<_>>())
    .fetch_all(tx.conn())
    .await?;
    let mut candidates = HashMap::with_capacity(rows.len());
    for row in &rows {
        let read = || Ok((row.job_id("id")?, candidate(row)?));
        candidates.extend(tx.shared.readable(row, read())?);
    }
    Ok(candidates)
}

fn candidate(row: &PgRow) -> Result<Candidate> {
    Ok(Candidate {
        payload: payload(row)?,
        env: row.json_or_none("env")?.unwrap_or_default(),
        one_off: row.json_or_none("definition")?,
        traceparent: row.col("traceparent")?,
        row: JobRow::read(row)?,
    })
}

/// The row's payload.
pub(crate) fn payload(row: &PgRow) -> Result<Payload> {
    Ok(Payload::from_stored(row.col::<Vec<u8>>("payload")?.into()))
}

fn freeze(
    tx: &Tx,
    claim: &Claim,
    candidate: Candidate,
    definition: &Definition,
    version: Option<u32>,
) -> Result<(NewAttempt, JobRow)> {
    let Candidate {
        mut row,
        payload,
        env,
        traceparent,
        ..
    } = candidate;
    let number = row.attempt + 1;
    let max_attempts = if row.by_hand {
        row.max_attempts
    } else {
        definition.retry.max_attempts
    };
    let request = StartRequest::freeze(
        definition,
        &Origin {
            job: row.id,
            app: &row.app,
            name: &row.job,
            line: &row.line,
            mark: claim.claim,
            number,
            max_attempts,
            counted: row.counted,
            enqueued_at: row.created_at,
            expires_at: row.expiry(),
            env: &env,
            traceparent: traceparent.as_deref(),
            definition_version: version,
        },
    );
    let now: Timestamp = tx.stamp(row.moved_at);
    row.state = JobState::Running;
    row.attempt = number;
    // Kept beside the frozen request, so that what is left of the job's own attempts can be told without reading it.
    row.max_attempts = max_attempts;
    row.moved_at = now;
    let first_claimed_at = *row.first_claimed_at.get_or_insert(now);
    let new = NewAttempt {
        line: row.line.clone(),
        request: serde_json::to_string(&request)?,
        held: HeldAttempt {
            id: AttemptId { job: row.id, number },
            epoch: 1,
            state: AttemptState::Starting,
            request,
            payload,
            first_claimed_at,
            now: tx.now,
            handle: None,
            realm: None,
            started_at: None,
            stop_cause: None,
            cancel_requested: false,
        },
    };
    Ok((new, row))
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
         r AS (INSERT INTO robata.start_requests (attempt, request) SELECT seq, request FROM v)
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
    .bind(attempt_state(AttemptState::Starting))
    .bind(tx.now.as_millis())
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
            tx.count_out(&line, -1);
        }
    }
    Ok(())
}

//! Claim: `queued` → `running`, the attempt made and its start request frozen, for a batch in one transaction (PROTOCOL O6).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use robata_core::{
    AttemptId, AttemptState, JobId, JobState, Payload, Reason,
    attempt::{Claim, Claimed, HeldAttempt},
    definition::Definition,
    job::{Line, Reference},
    request::{Origin, StartRequest},
    state::JobEvent,
    store::Hint,
};
use serde_json::json;
use sqlx::sqlite::SqliteRow;

use crate::{
    ending::end_waiting,
    error::Result,
    job_row::{JobRow, job_attempt, job_columns},
    limit::{Rooms, limits},
    sql::{Read as _, hex_ids, numbers},
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
        if !matches(&candidate.row, line, *reference) {
            // The same job may stand in the claim again, with the right number.
            candidates.insert(reference.job, candidate);
            answers.push(Claimed::Gone);
            continue;
        }
        lines.insert(line);
        if tx.paused.contains_key(&line.queue) {
            waits.push(candidate.row);
            answers.push(Claimed::Paused);
            continue;
        }
        if candidate.row.expiry().is_some_and(|at| at <= tx.now) {
            end_waiting(
                tx,
                &candidate.row,
                JobEvent::Unrunnable,
                Reason::Expired,
                Some("it expired before it was started"),
            )
            .await?;
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
                let message = format!(
                    "the app {} has no definition of the job {} any more",
                    candidate.row.app, candidate.row.job
                );
                end_waiting(
                    tx,
                    &candidate.row,
                    JobEvent::Unrunnable,
                    Reason::NoDefinition,
                    Some(&message),
                )
                .await?;
                answers.push(Claimed::Ended(Reason::NoDefinition));
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
        let attempt = freeze(tx, claim, candidate, definition, version)?;
        answers.push(Claimed::Held(Box::new(attempt.held.clone())));
        new.push(attempt);
    }
    insert(tx, claim, &new).await?;
    move_jobs(tx, &new).await?;
    give_back(tx, &waits).await?;
    for attempt in &new {
        tx.hint_job(attempt.held.id.job);
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
        one_off: row.json_or_none("definition")?,
        traceparent: row.col("traceparent")?,
        row: JobRow::read(row)?,
    })
}

/// The row's payload.
pub(crate) fn payload(row: &SqliteRow) -> Result<Payload> {
    Ok(Payload::from_stored(row.col::<Vec<u8>>("payload")?.into()))
}

fn freeze(
    tx: &mut Tx,
    claim: &Claim,
    candidate: Candidate,
    definition: &Definition,
    version: Option<u32>,
) -> Result<NewAttempt> {
    let Candidate {
        row,
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
    let seq = tx.next_attempt;
    tx.next_attempt += 1;
    tx.count(&row.line, Some(JobState::Queued), Some(JobState::Running));
    tx.count_out(&row.line, -i64::from(row.published_at.is_some()));
    Ok(NewAttempt {
        seq,
        job_seq: row.seq,
        request: serde_json::to_string(&request)?,
        held: HeldAttempt {
            id: AttemptId { job: row.id, number },
            epoch: 1,
            state: AttemptState::Starting,
            request,
            payload,
            first_claimed_at: row.first_claimed_at.unwrap_or(tx.stamp(row.moved_at)),
            now: tx.now,
            handle: None,
            realm: None,
            started_at: None,
            stop_cause: None,
            cancel_requested: false,
        },
    })
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
                    .add(attempt_state(held.state))
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
            "INSERT INTO start_requests (attempt, request)",
            2,
            new,
            |values, new| {
                values.add(new.seq).add(new.request.as_str());
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
        tx.count_out(&row.line, -i64::from(row.published_at.is_some()));
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

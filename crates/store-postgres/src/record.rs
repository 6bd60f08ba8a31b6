//! Writes about attempts: a group's rows are read under their locks in one statement, each write is refused or done by itself
//! in memory (a compare-and-set on holder, epoch and the table of moves), and what changed is saved in one statement.

use std::collections::{BTreeSet, HashMap};

use robata_core::{
    AttemptId, AttemptState, Error, ErrorKind, IncarnationId,
    attempt::{AttemptChange, AttemptWrite, Written, may_write},
    request::StartRequest,
    state::AttemptEvent,
};

use crate::{
    attempt_row::{AttemptRow, attempt_columns},
    ending::end_attempt,
    error::{Fault, Result, refused},
    job_row::{JobRow, job_columns, no_joins},
    lease, save,
    sql::{Read as _, q},
    tx::Tx,
};

/// Attempts with their jobs, locked.
struct Rows {
    attempts: HashMap<AttemptId, (AttemptRow, Option<StartRequest>)>,
    jobs: HashMap<robata_core::JobId, JobRow>,
    changed: BTreeSet<AttemptId>,
    jobs_changed: BTreeSet<robata_core::JobId>,
    ended_leases: BTreeSet<IncarnationId>,
    unreadable: BTreeSet<AttemptId>,
}

/// Runs a group of requests.
pub(crate) async fn run(
    tx: &mut Tx,
    requests: &[Vec<AttemptWrite>],
) -> Result<Vec<Result<Vec<Result<Written, Error>>, Error>>> {
    let writes: Vec<_> = requests.iter().flatten().collect();
    let holders: BTreeSet<_> = writes.iter().map(|write| write.incarnation).collect();
    let ended_leases = lease::ended(tx, &holders).await?;
    let mut rows = read(tx, &writes).await?;
    rows.ended_leases = ended_leases;
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        let mut own = Vec::with_capacity(request.len());
        for write in request {
            own.push(match one(tx, &mut rows, write) {
                Ok(written) => Ok(written),
                Err(fault) if fault.is_of_one_row() => Err(fault.to_error("store.record")),
                Err(fault) => return Err(fault),
            });
        }
        answers.push(Ok(own));
    }
    let Rows {
        mut attempts,
        mut jobs,
        changed,
        jobs_changed,
        ..
    } = rows;
    let changed: Vec<_> = changed
        .iter()
        .filter_map(|id| attempts.remove(id).map(|(row, _)| row))
        .collect();
    let jobs: Vec<_> = jobs_changed.iter().filter_map(|id| jobs.remove(id)).collect();
    save::attempts(tx, &changed).await?;
    save::jobs(tx, &jobs).await?;
    Ok(answers)
}

/// Locked in the order of jobs and numbers (PROTOCOL X6: the job's row first of all).
async fn read(tx: &mut Tx, writes: &[&AttemptWrite]) -> Result<Rows> {
    let ids: BTreeSet<_> = writes.iter().map(|write| write.attempt).collect();
    let with_request: BTreeSet<_> = writes
        .iter()
        .filter(|write| matches!(write.change, AttemptChange::Ended(_)))
        .map(|write| write.attempt)
        .collect();
    let rows = q(concat!(
        "SELECT ",
        attempt_columns!(),
        ", ",
        job_columns!(),
        ", r.request FROM unnest($1::uuid[], $2::integer[], $3::boolean[]) AS v (job_id, number, with_request)
           JOIN robata.attempts a ON a.job_id = v.job_id AND a.number = v.number JOIN robata.jobs j ON j.id = a.job_id
           LEFT JOIN LATERAL (SELECT o.request FROM robata.start_requests o
               WHERE v.with_request AND o.attempt = a.seq OFFSET 0) r ON true",
        no_joins!(),
        "ORDER BY j.id, a.number FOR UPDATE OF j, a"
    ))
    .bind(ids.iter().map(|id| id.job.uuid()).collect::<Vec<_>>())
    .bind(
        ids.iter()
            .map(|id| i32::try_from(id.number).unwrap_or(i32::MAX))
            .collect::<Vec<_>>(),
    )
    .bind(ids.iter().map(|id| with_request.contains(id)).collect::<Vec<_>>())
    .fetch_all(tx.conn())
    .await?;
    let mut read = Rows {
        attempts: HashMap::with_capacity(rows.len()),
        jobs: HashMap::with_capacity(rows.len()),
        changed: BTreeSet::new(),
        jobs_changed: BTreeSet::new(),
        ended_leases: BTreeSet::new(),
        unreadable: BTreeSet::new(),
    };
    for row in &rows {
        let made = || Ok((AttemptRow::read(row)?, row.json_or_none("request")?, JobRow::read(row)?));
        match tx.shared.readable(row, made())? {
            Some((attempt, request, job)) => {
                read.attempts.insert(attempt.id, (attempt, request));
                read.jobs.insert(job.id, job);
            }
            None => {
                read.unreadable.insert(AttemptId {
                    job: row.job_id("t_job_id")?,
                    number: row.number("t_number")?,
                });
            }
        }
    }
    Ok(read)
}

fn one(tx: &mut Tx, rows: &mut Rows, write: &AttemptWrite) -> Result<Written> {
    if rows.ended_leases.contains(&write.incarnation) {
        return Err(lease::has_ended(write.incarnation, "store.record"));
    }
    if rows.unreadable.contains(&write.attempt) {
        return Err(Fault::BadRow(format!("the attempt {}", write.attempt)));
    }
    let unknown = || {
        refused(
            ErrorKind::NotFound,
            "store.record",
            format!("there is no attempt {}", write.attempt),
        )
    };
    let (attempt, request) = rows.attempts.get_mut(&write.attempt).ok_or_else(unknown)?;
    let job = rows.jobs.get_mut(&write.attempt.job).ok_or_else(unknown)?;
    if !may_write((attempt.holder, attempt.epoch), (write.incarnation, write.epoch)) {
        let message = format!(
            "the attempt {} has the epoch {}, held by {}",
            attempt.id, attempt.epoch, attempt.holder
        );
        return Err(refused(ErrorKind::Fenced, "store.record", message));
    }
    // On copies: a refusal leaves nothing behind.
    let (mut new_attempt, mut new_job) = (attempt.clone(), job.clone());
    let done = change(tx, &mut new_attempt, &mut new_job, request.as_ref(), &write.change)?;
    if done != Done::Nothing {
        *attempt = new_attempt;
        rows.changed.insert(write.attempt);
        tx.hint_job(write.attempt.job);
    }
    if done == Done::Both {
        *job = new_job;
        rows.jobs_changed.insert(write.attempt.job);
    }
    Ok(Written {
        state: attempt.state,
        job: job.state,
        cancel_requested: job.cancel_requested_at.is_some(),
    })
}

/// What a change has touched.
#[derive(PartialEq)]
enum Done {
    Nothing,
    Attempt,
    Both,
}

fn change(
    tx: &mut Tx,
    attempt: &mut AttemptRow,
    job: &mut JobRow,
    request: Option<&StartRequest>,
    change: &AttemptChange,
) -> Result<Done> {
    let (id, state) = (attempt.id, attempt.state);
    let conflict = |what: &str| {
        let message = format!("the attempt {id} is {state} and cannot {what}");
        Err(refused(ErrorKind::Conflict, "store.record", message))
    };
    let live = state.is_live();
    match change {
        AttemptChange::Ended(outcome) if live => {
            let request = request.ok_or_else(|| Fault::BadRow(format!("the attempt {id} has no start request")))?;
            end_attempt(tx, attempt, job, request, outcome)?;
            Ok(Done::Both)
        }
        // Sent again after a lost answer.
        AttemptChange::Ended(_) => Ok(Done::Nothing),
        AttemptChange::Finalised(_) if live => conflict("be finalised before it ended"),
        AttemptChange::Finalised(_) if attempt.finalised_at.is_some() => Ok(Done::Nothing),
        AttemptChange::Finalised(summary) => {
            attempt.finalised_at = Some(tx.stamp(attempt.moved_at));
            attempt.log = summary.clone();
            Ok(Done::Attempt)
        }
        _ if !live => conflict("be written about any more"),
        AttemptChange::Waiting(None) => {
            attempt.waiting = None;
            Ok(Done::Attempt)
        }
        AttemptChange::Waiting(Some(_)) if state != AttemptState::Starting => conflict("wait to be started"),
        AttemptChange::Waiting(Some((reason, message))) => {
            // Since the reason's beginning, though its message changes.
            let since = match &attempt.waiting {
                Some((known, _, since)) if known == reason => *since,
                _ => tx.stamp(attempt.moved_at),
            };
            attempt.waiting = Some((*reason, message.clone(), since));
            Ok(Done::Attempt)
        }
        AttemptChange::Prepared {
            realm,
            handle,
            image_digest,
        } => match (&attempt.handle, &attempt.realm) {
            (None, _) => {
                attempt.realm = Some(realm.clone());
                attempt.handle = Some(handle.clone());
                attempt.image_digest.clone_from(image_digest);
                Ok(Done::Attempt)
            }
            (Some(known), Some(in_realm)) if known == handle && in_realm == realm => Ok(Done::Nothing),
            _ => conflict("have a second thing in its engine"),
        },
        AttemptChange::Started { at } => {
            attempt.state = state.after(AttemptEvent::Started).unwrap_or(state);
            attempt.started_at.get_or_insert(*at);
            attempt.moved_at = tx.stamp(attempt.moved_at);
            attempt.waiting = None;
            if job.started_at.is_some() {
                return Ok(Done::Attempt);
            }
            job.started_at = Some((*at).max(job.created_at));
            Ok(Done::Both)
        }
        AttemptChange::Stopping(cause) => match state.after(AttemptEvent::StopDecided) {
            Some(to) => {
                attempt.state = to;
                attempt.stop_cause = Some(*cause);
                attempt.moved_at = tx.stamp(attempt.moved_at);
                Ok(Done::Attempt)
            }
            None if attempt.stop_cause == Some(*cause) => Ok(Done::Nothing),
            None => conflict("be stopped for another cause"),
        },
        _ => Err(refused(
            ErrorKind::Unsupported,
            "store.record",
            "this store does not know this change",
        )),
    }
}

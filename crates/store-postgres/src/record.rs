//! Writes about attempts: a group's rows are read under their locks in one statement, each write is refused or done by itself
//! in memory, and what changed is saved in one statement.

use std::collections::{BTreeSet, HashMap};

use robata_core::{
    AttemptId, Error, ErrorKind, IncarnationId, JobId,
    attempt::{AttemptChange, AttemptWrite, Written},
    request::ReadTerms,
    row::{AttemptRow, JobRow, Touched},
};

use crate::{
    attempt_row::{self, attempt_columns},
    error::{Fault, Result, refused},
    job_row::{self, job_columns, no_joins},
    lease, save,
    sql::{Read as _, q},
    tx::Tx,
};

/// Attempts with their jobs, locked.
struct Rows {
    attempts: HashMap<AttemptId, (AttemptRow, Option<ReadTerms>)>,
    jobs: HashMap<JobId, JobRow>,
    changed: BTreeSet<AttemptId>,
    jobs_changed: BTreeSet<JobId>,
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
        let made = || {
            Ok((
                attempt_row::read(row)?,
                row.json_or_none("request")?,
                job_row::read(row)?,
            ))
        };
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
    let (attempt, terms) = rows.attempts.get_mut(&write.attempt).ok_or_else(unknown)?;
    let job = rows.jobs.get_mut(&write.attempt.job).ok_or_else(unknown)?;
    let touched = attempt.write(job, terms.as_ref().map(ReadTerms::terms), write, tx)?;
    if touched != Touched::Nothing {
        rows.changed.insert(write.attempt);
    }
    if touched == Touched::Both {
        rows.jobs_changed.insert(write.attempt.job);
    }
    Ok(Written {
        state: attempt.state,
        job: job.state,
        cancel_requested: job.cancel_requested_at.is_some(),
    })
}

//! Enqueue: all enqueues of a group as one, so that many small ones cost as little as one large one.
//!
//! The same group may be sent again after a commit whose answer was lost: ids are made before the first try, so that what is
//! found under a job's own id is that job.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use robata_core::{
    Error, ErrorKind, JobId, JobState,
    job::{Enqueue, Enqueued, JobRecord, NewJob},
    row::{Deed, JobRow},
    store::Hint,
};

use crate::{
    error::{Fault, Result},
    insert::{self, New},
    job_row::{self, job_columns, job_joins},
    shared::Colours,
    sql::{Read as _, q},
    tx::Tx,
    waiting,
};

/// Key and value of a label, or app and key of an idempotency key: an index takes entries of a third of a page
/// (<https://www.postgresql.org/docs/current/btree.html>).
const INDEXED_BYTES: usize = 2_600;

/// What is known of one idempotency key.
#[derive(Clone, Copy, Debug)]
struct Known {
    seq: i64,
    request: [u8; 32],
}

/// What becomes of one job.
enum Fate {
    New(i64),
    /// Stored before: with `replayed`, as the answer tells it.
    Stored(i64, bool),
    Bad(Error),
}

/// Jobs of this group so far, and what the store has of their keys and ids.
#[derive(Default)]
struct Group<'a> {
    new: Vec<New<'a>>,
    keys: HashMap<(&'a str, &'a str), Known>,
    ids: HashMap<JobId, i64>,
    stored_keys: HashMap<(String, String), Known>,
    stored_ids: HashMap<JobId, i64>,
    fresh: Vec<i64>,
}

/// Runs a group of enqueues.
pub(crate) async fn run(tx: &mut Tx, requests: &[Enqueue]) -> Result<Vec<Result<Vec<Result<Enqueued, Error>>, Error>>> {
    let mut group = Group::default();
    find_ids(tx, requests, &mut group).await?;
    find_keys(tx, requests, &mut group).await?;
    let mut fates = Vec::with_capacity(requests.len());
    for request in requests {
        fates.push(decide_all(tx, &mut group, request)?);
    }
    insert::run(tx, &mut group.new).await?;
    for job in group.new.iter().map(|new| new.job) {
        if let Some(own) = &job.definition {
            tx.audit(&own.by, &Deed::run(job)).await?;
        }
    }
    let mut lines = HashSet::new();
    for new in &group.new {
        tx.tally.count(&new.row.line, None, Some(new.row.state), 1);
        if new.row.state == JobState::Scheduled {
            tx.tally.hint(Hint::Due(new.row.run_at.since(tx.now)));
        } else if lines.insert(&new.row.line) {
            tx.tally.hint(Hint::Line(new.row.line.clone()));
        }
    }
    let colours = waiting::recent_colours(tx).await?;
    let new: HashMap<i64, &New<'_>> = group.new.iter().map(|new| (new.row.seq, new)).collect();
    let stored = read_stored(tx, &fates).await?;
    let told = |fate| match fate {
        Fate::Bad(error) => Err(error),
        Fate::New(seq) => Ok(Enqueued {
            job: tell_new(new[&seq], &colours),
            replayed: false,
        }),
        Fate::Stored(seq, replayed) => match stored.get(&seq) {
            Some(job) => Ok(Enqueued {
                job: JobRecord::clone(job),
                replayed,
            }),
            None => {
                Err(Fault::BadRow(format!("the job {seq} of an idempotency key is gone")).to_error("store.enqueue"))
            }
        },
    };
    Ok(fates
        .into_iter()
        .map(|own| Ok(own.into_iter().map(told).collect()))
        .collect())
}

fn decide_all<'a>(tx: &Tx, group: &mut Group<'a>, request: &'a Enqueue) -> Result<Vec<Fate>> {
    let before = group.new.len();
    let mut own = Vec::with_capacity(request.jobs.len());
    for job in &request.jobs {
        own.push(decide(tx, group, job)?);
    }
    if request.atomic && own.iter().any(|fate| matches!(fate, Fate::Bad(_))) {
        for new in group.new.drain(before..) {
            group.ids.remove(&new.job.id);
            if let Some(key) = &new.job.key {
                group.keys.remove(&(new.job.app.as_str(), key.key.as_str()));
            }
        }
        for fate in &mut own {
            if !matches!(fate, Fate::Bad(_)) {
                *fate = Fate::Bad(Error::new(
                    ErrorKind::Conflict,
                    "store.enqueue",
                    "not stored: the batch is atomic and another of its jobs was refused",
                ));
            }
        }
    }
    Ok(own)
}

fn decide<'a>(tx: &Tx, group: &mut Group<'a>, job: &'a NewJob) -> Result<Fate> {
    if let Err(message) = storable(job) {
        return Ok(Fate::Bad(Error::new(ErrorKind::Invalid, "store.enqueue", message)));
    }
    // Found after a commit whose answer was lost: this very request stored it.
    let own = group.stored_ids.get(&job.id).copied().filter(|_| tx.maybe_done);
    if let Some(key) = &job.key {
        let name = (job.app.as_str(), key.key.as_str());
        let known = group
            .keys
            .get(&name)
            .or_else(|| group.stored_keys.get(&(name.0.to_owned(), name.1.to_owned())));
        if let Some(known) = known {
            return Ok(if known.request == key.request {
                Fate::Stored(known.seq, own != Some(known.seq))
            } else {
                Fate::Bad(key_reused(&key.key, "store.enqueue"))
            });
        }
    }
    // The same id on two paths, or sent again after a lost answer: insert if absent (PROTOCOL I1).
    if let Some(seq) = group.ids.get(&job.id).or_else(|| group.stored_ids.get(&job.id)) {
        return Ok(Fate::Stored(*seq, own.is_none()));
    }
    let map = |map: &BTreeMap<String, String>| (!map.is_empty()).then(|| serde_json::to_string(map)).transpose();
    let Some(seq) = group.fresh.pop() else {
        return Err(Fault::BadRow("the sequence of jobs gave too few numbers".to_owned()));
    };
    group.new.push(New {
        row: JobRow::new(seq, job, tx),
        job,
        labels: map(&job.labels)?,
        definition: job
            .definition
            .as_ref()
            .map(|own| serde_json::to_string(&own.definition))
            .transpose()?,
        env: map(&job.env)?,
    });
    group.ids.insert(job.id, seq);
    if let Some(key) = &job.key {
        let known = Known {
            seq,
            request: key.request,
        };
        group.keys.insert((job.app.as_str(), key.key.as_str()), known);
    }
    Ok(Fate::New(seq))
}

pub(crate) fn key_reused(key: &str, operation: &'static str) -> Error {
    let message = format!("the idempotency key {key:?} was used with a different request");
    Error::new(ErrorKind::KeyReused, operation, message)
}

/// What the database would refuse, said of the one job that it is about.
fn storable(job: &NewJob) -> std::result::Result<(), String> {
    let labels = job
        .labels
        .iter()
        .map(|(key, value)| ("a label", key.as_str(), value.as_str()));
    let key = job
        .key
        .as_ref()
        .map(|key| ("the idempotency key", job.app.as_str(), key.key.as_str()));
    for (what, first, second) in labels.chain(key) {
        if first.contains('\0') || second.contains('\0') {
            return Err(format!("{what} has a NUL character, which this store cannot keep"));
        }
        if first.len() + second.len() > INDEXED_BYTES {
            return Err(format!("{what} is longer than {INDEXED_BYTES} bytes"));
        }
    }
    if job.traceparent.as_ref().is_some_and(|text| text.contains('\0')) {
        return Err("traceparent has a NUL character".to_owned());
    }
    Ok(())
}

/// Ids that are there already, and a number for each that is not.
async fn find_ids(tx: &mut Tx, requests: &[Enqueue], group: &mut Group<'_>) -> Result<()> {
    let jobs = requests.iter().flat_map(|request| &request.jobs);
    let rows = q("SELECT v.id, j.seq AS stored, nextval('robata.job_seq') AS fresh
                  FROM unnest($1::uuid[]) AS v (id) LEFT JOIN robata.jobs j ON j.id = v.id")
    .bind(jobs.map(|job| job.id.uuid()).collect::<Vec<_>>())
    .fetch_all(tx.conn())
    .await?;
    for row in rows {
        group.fresh.push(row.col("fresh")?);
        if let Some(seq) = row.col("stored")? {
            group.stored_ids.insert(row.job_id("id")?, seq);
        }
    }
    // The smallest is taken first: the order of storing.
    group.fresh.sort_unstable_by(|a, b| b.cmp(a));
    Ok(())
}

async fn find_keys(tx: &mut Tx, requests: &[Enqueue], group: &mut Group<'_>) -> Result<()> {
    let (apps, keys): (Vec<_>, Vec<_>) = requests
        .iter()
        .flat_map(|request| &request.jobs)
        .filter(|job| storable(job).is_ok())
        .filter_map(|job| Some((job.app.as_str(), job.key.as_ref()?.key.as_str())))
        .unzip();
    if keys.is_empty() {
        return Ok(());
    }
    let rows = q(
        "SELECT k.app, k.key, k.seq, k.request FROM unnest($1::text[], $2::text[]) AS v (app, key)
                  JOIN robata.keys k ON k.app = v.app AND k.key = v.key",
    )
    .bind(apps)
    .bind(keys)
    .fetch_all(tx.conn())
    .await?;
    for row in rows {
        let request: &[u8] = row.col("request")?;
        let request = request.try_into().map_err(|_| Fault::BadRow("a key's hash".into()))?;
        let known = Known {
            seq: row.col("seq")?,
            request,
        };
        group.stored_keys.insert((row.col("app")?, row.col("key")?), known);
    }
    Ok(())
}

fn tell_new(new: &New<'_>, colours: &Colours) -> JobRecord {
    let waiting = waiting::why(&new.row, colours, false);
    new.row.clone().tell(waiting)
}

/// Jobs that were stored before, or earlier in this group, as they stand now.
async fn read_stored(tx: &mut Tx, fates: &[Vec<Fate>]) -> Result<HashMap<i64, JobRecord>> {
    let seqs: BTreeSet<i64> = fates
        .iter()
        .flatten()
        .filter_map(|fate| match fate {
            Fate::Stored(seq, _) => Some(*seq),
            _ => None,
        })
        .collect();
    if seqs.is_empty() {
        return Ok(HashMap::new());
    }
    stored_jobs(tx, seqs).await
}

/// Jobs by their numbers, as they stand now.
pub(crate) async fn stored_jobs(tx: &mut Tx, seqs: BTreeSet<i64>) -> Result<HashMap<i64, JobRecord>> {
    let rows = q(concat!(
        "SELECT ",
        job_columns!(),
        " FROM robata.jobs j",
        job_joins!(),
        "WHERE j.seq = ANY($1)"
    ))
    .bind(seqs.into_iter().collect::<Vec<_>>())
    .fetch_all(tx.conn())
    .await?;
    let mut read = Vec::with_capacity(rows.len());
    for row in &rows {
        read.extend(tx.shared.readable(row, job_row::read(row))?);
    }
    let rows = read;
    let seqs: Vec<_> = rows.iter().map(|row| row.seq).collect();
    let told = waiting::tell_all(tx, rows).await?;
    Ok(seqs.into_iter().zip(told).collect())
}

//! Enqueue: all enqueues of a group as one, so that many small ones cost as little as one large one.

use std::collections::{BTreeSet, HashMap, HashSet};

use robata_core::{
    Error, ErrorKind, ExecutorName, JobId, JobState, Timestamp,
    job::{Enqueue, Enqueued, JobRecord, NewJob},
    row::{Deed, JobRow, number},
    store::Hint,
};

use crate::{
    error::{Fault, Result},
    job_row::{self, job_attempt, job_columns},
    sql::{Read as _, hex_ids},
    tx::Tx,
    waiting,
    writer::Enqueueing,
};

/// What is known of one idempotency key.
#[derive(Clone, Copy, Debug)]
struct Known {
    seq: i64,
    request: [u8; 32],
}

/// What becomes of one job.
enum Fate {
    New(usize),
    Replayed(i64),
    Bad(Error),
}

/// A job to be inserted.
struct New<'a> {
    row: JobRow,
    job: &'a NewJob,
    labels: Option<String>,
    definition: Option<String>,
    env: Option<String>,
}

/// Jobs of this group so far, and what the store has of their keys and ids.
#[derive(Default)]
struct Group<'a> {
    new: Vec<New<'a>>,
    keys: HashMap<(&'a str, &'a str), Known>,
    ids: HashMap<JobId, i64>,
}

pub(crate) async fn run(tx: &mut Tx, enqueues: Vec<&mut Enqueueing>) -> Result<()> {
    if enqueues.is_empty() {
        return Ok(());
    }
    let requests: Vec<_> = enqueues.iter().map(|enqueue| &enqueue.request).collect();
    let results = all(tx, &requests).await?;
    for (enqueue, results) in enqueues.into_iter().zip(results) {
        enqueue.results = results;
    }
    Ok(())
}

/// Enqueues these; answers for each request what became of its jobs.
pub(crate) async fn all(tx: &mut Tx, requests: &[&Enqueue]) -> Result<Vec<Vec<Result<Enqueued, Error>>>> {
    let stored_keys = find_keys(tx, requests).await?;
    let stored_ids = find_ids(tx, requests).await?;
    let mut group = Group::default();
    let mut fates = Vec::with_capacity(requests.len());
    for request in requests {
        let before = (group.new.len(), tx.next_seq);
        let mut own_keys = HashSet::new();
        let mut own_ids = HashSet::new();
        let mut own = Vec::with_capacity(request.jobs.len());
        for job in &request.jobs {
            let fate = decide(tx, &mut group, &stored_keys, &stored_ids, job)?;
            if let Fate::New(_) = fate {
                own_ids.insert(job.id);
                own_keys.extend(job.key.as_ref().map(|key| (job.app.as_str(), key.key.as_str())));
            }
            own.push(fate);
        }
        if request.atomic && own.iter().any(|fate| matches!(fate, Fate::Bad(_))) {
            group.new.truncate(before.0);
            tx.next_seq = before.1;
            group.keys.retain(|key, _| !own_keys.contains(key));
            group.ids.retain(|id, _| !own_ids.contains(id));
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
        fates.push(own);
    }
    insert(tx, &group.new).await?;
    for job in group.new.iter().map(|new| new.job) {
        if let Some(own) = &job.definition {
            tx.audit(&own.by, &Deed::run(job)).await?;
        }
    }
    let executors = tx.shared.live_executors();
    let told: HashMap<i64, _> = read_replayed(tx, &fates, &group).await?;
    let mut results = Vec::with_capacity(fates.len());
    for own in fates {
        let own = own.into_iter().map(|fate| match fate {
            Fate::Bad(error) => Err(error),
            Fate::New(at) => Ok(Enqueued {
                job: tell_new(tx, &group.new[at], &executors),
                replayed: false,
            }),
            Fate::Replayed(seq) => match told.get(&seq) {
                Some(job) => Ok(Enqueued {
                    job: JobRecord::clone(job),
                    replayed: true,
                }),
                None => Err(Fault::BadRow(format!("the job {seq} of an idempotency key")).to_error("store.enqueue")),
            },
        });
        results.push(own.collect());
    }
    Ok(results)
}

fn decide<'a>(
    tx: &mut Tx,
    group: &mut Group<'a>,
    stored_keys: &HashMap<(String, String), Known>,
    stored_ids: &HashMap<JobId, i64>,
    job: &'a NewJob,
) -> Result<Fate> {
    if let Some(key) = &job.key {
        let name = (job.app.as_str(), key.key.as_str());
        let known = group
            .keys
            .get(&name)
            .or_else(|| stored_keys.get(&(name.0.to_owned(), name.1.to_owned())));
        if let Some(known) = known {
            return Ok(if known.request == key.request {
                Fate::Replayed(known.seq)
            } else {
                Fate::Bad(key_reused(&key.key, "store.enqueue"))
            });
        }
    }
    // The same id on two paths, or sent again after a lost answer: insert if absent (PROTOCOL I1).
    if let Some(seq) = group.ids.get(&job.id).or_else(|| stored_ids.get(&job.id)) {
        return Ok(Fate::Replayed(*seq));
    }
    let map = |map: &std::collections::BTreeMap<String, String>| {
        (!map.is_empty()).then(|| serde_json::to_string(map)).transpose()
    };
    let seq = tx.next_seq;
    tx.next_seq += 1;
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
    Ok(Fate::New(group.new.len() - 1))
}

pub(crate) fn key_reused(key: &str, operation: &'static str) -> Error {
    let message = format!("the idempotency key {key:?} was used with a different request");
    Error::new(ErrorKind::KeyReused, operation, message)
}

async fn find_keys(tx: &mut Tx, requests: &[&Enqueue]) -> Result<HashMap<(String, String), Known>> {
    let keys: Vec<(&str, &str)> = requests
        .iter()
        .flat_map(|request| &request.jobs)
        .filter_map(|job| Some((job.app.as_str(), job.key.as_ref()?.key.as_str())))
        .collect();
    let mut found = HashMap::new();
    if keys.is_empty() {
        return Ok(found);
    }
    let rows = sqlx::query(
        "SELECT k.app, k.key, k.seq, k.request FROM json_each(?) v
         CROSS JOIN keys k ON k.app = v.value ->> 0 AND k.key = v.value ->> 1",
    )
    .bind(serde_json::to_string(&keys)?)
    .fetch_all(&mut tx.conn)
    .await?;
    for row in rows {
        let request: &[u8] = row.col("request")?;
        let request = request.try_into().map_err(|_| Fault::BadRow("a key's hash".into()))?;
        let known = Known {
            seq: row.col("seq")?,
            request,
        };
        found.insert((row.col("app")?, row.col("key")?), known);
    }
    Ok(found)
}

async fn find_ids(tx: &mut Tx, requests: &[&Enqueue]) -> Result<HashMap<JobId, i64>> {
    let jobs = requests.iter().flat_map(|request| &request.jobs);
    let rows = sqlx::query("SELECT j.id, j.seq FROM json_each(?) v CROSS JOIN jobs j ON j.id = unhex(v.value)")
        .bind(hex_ids(jobs.map(|job| job.id.as_bytes())))
        .fetch_all(&mut tx.conn)
        .await?;
    rows.iter()
        .map(|row| Ok((row.job_id("id")?, row.col("seq")?)))
        .collect()
}

async fn insert(tx: &mut Tx, new: &[New<'_>]) -> Result<()> {
    let now = tx.now.as_millis();
    tx.inserts
        .run(
            &mut tx.conn,
            "INSERT INTO jobs (seq, id, app, job, queue, executor, queue_chosen, state, rank, max_attempts, labels, \
             idempotency_key, created_at, run_at, expires_at, moved_at)",
            16,
            new,
            |values, new| {
                let job = new.job;
                values
                    .add(new.row.seq)
                    .add(&job.id.as_bytes()[..])
                    .add(job.app.as_str())
                    .add(job.job.as_str())
                    .add(new.row.line.queue.as_str())
                    .add(new.row.line.executor.as_str())
                    .add(job.queue_chosen)
                    .add(number::of_job(new.row.state))
                    .add(-i64::from(job.priority))
                    .add(i64::from(job.max_attempts))
                    .add(new.labels.as_deref())
                    .add(job.key.as_ref().map(|key| key.key.as_str()))
                    .add(now)
                    .add(new.row.run_at.as_millis())
                    .add(new.row.expires_at.map(Timestamp::as_millis))
                    .add(now);
            },
        )
        .await?;
    tx.inserts
        .run(
            &mut tx.conn,
            "INSERT INTO job_data (seq, payload, env, definition, traceparent)",
            5,
            new,
            |values, new| {
                values
                    .add(new.row.seq)
                    .add(&new.job.payload.bytes()[..])
                    .add(new.env.as_deref())
                    .add(new.definition.as_deref())
                    .add(new.job.traceparent.as_deref());
            },
        )
        .await?;
    let labels: Vec<_> = new
        .iter()
        .flat_map(|new| new.job.labels.iter().map(|(key, value)| (key, value, new.row.seq)))
        .collect();
    tx.inserts
        .run(
            &mut tx.conn,
            "INSERT INTO labels (key, value, seq)",
            3,
            &labels,
            |values, (key, value, seq)| {
                values.add(key.as_str()).add(value.as_str()).add(*seq);
            },
        )
        .await?;
    let keyed: Vec<_> = new
        .iter()
        .filter_map(|new| Some((new.job.app.as_str(), new.job.key.as_ref()?, new.row.seq)))
        .collect();
    tx.inserts
        .run(
            &mut tx.conn,
            "INSERT INTO keys (app, key, seq, request)",
            4,
            &keyed,
            |values, (app, key, seq)| {
                values.add(*app).add(key.key.as_str()).add(*seq).add(&key.request[..]);
            },
        )
        .await?;
    let mut lines = HashSet::new();
    for new in new {
        tx.tally.count(&new.row.line, None, Some(new.row.state), 1);
        if new.row.state == JobState::Scheduled {
            tx.tally.hint(Hint::Due(new.row.run_at.since(tx.now)));
        } else if lines.insert(&new.row.line) {
            tx.tally.hint(Hint::Line(new.row.line.clone()));
        }
    }
    Ok(())
}

fn tell_new(tx: &Tx, new: &New<'_>, executors: &BTreeSet<ExecutorName>) -> JobRecord {
    let line = &new.row.line;
    let waiting = new
        .row
        .waiting(tx.paused.get(&line.queue), executors.contains(&line.executor), false);
    new.row.clone().tell(waiting)
}

/// Jobs of replayed keys, of this group too, as they stand now.
async fn read_replayed(tx: &mut Tx, fates: &[Vec<Fate>], group: &Group<'_>) -> Result<HashMap<i64, JobRecord>> {
    let seqs: BTreeSet<i64> = fates
        .iter()
        .flatten()
        .filter_map(|fate| match fate {
            Fate::Replayed(seq) => Some(*seq),
            _ => None,
        })
        .collect();
    if seqs.is_empty() {
        return Ok(HashMap::new());
    }
    debug_assert!(
        group.new.len() <= group.ids.len(),
        "every new job has its id in the group"
    );
    let rows = sqlx::query(concat!(
        "SELECT ",
        job_columns!(),
        " FROM json_each(?) v CROSS JOIN jobs j ON j.seq = v.value",
        job_attempt!()
    ))
    .bind(crate::sql::numbers(seqs))
    .fetch_all(&mut tx.conn)
    .await?;
    let mut read = Vec::with_capacity(rows.len());
    for row in &rows {
        read.extend(tx.shared.readable(row, job_row::read(row))?);
    }
    let rows = read;
    let seqs: Vec<_> = rows.iter().map(|row| row.seq).collect();
    let told = waiting::tell_all(&mut tx.conn, &tx.shared, rows).await?;
    Ok(seqs.into_iter().zip(told).collect())
}

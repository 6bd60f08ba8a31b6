//! New jobs in one statement: jobs, data, outbox, labels and keys, from arrays (`unnest`).

use robata_core::{
    Timestamp,
    job::NewJob,
    row::{JobRow, number},
};
use sqlx::Row as _;

use crate::{
    error::{Fault, Result},
    sql::q,
    tx::Tx,
};

/// A job to be inserted.
pub(crate) struct New<'a> {
    pub(crate) row: JobRow,
    pub(crate) job: &'a NewJob,
    pub(crate) labels: Option<String>,
    pub(crate) definition: Option<String>,
    pub(crate) env: Option<String>,
}

/// Inserts jobs, in the order of their ids and keys so that no two groups wait for each other. `Raced` where somebody
/// stored one of the ids or keys since they were looked for.
pub(crate) async fn run(tx: &mut Tx, new: &mut [New<'_>]) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    new.sort_unstable_by_key(|new| new.job.id);
    let mut keyed: Vec<_> = new
        .iter()
        .filter_map(|new| Some((new.job.app.as_str(), new.job.key.as_ref()?, new.row.seq)))
        .collect();
    keyed.sort_unstable_by_key(|(app, key, _)| (*app, key.key.as_str()));
    let labels: Vec<_> = new
        .iter()
        .flat_map(|new| {
            new.job
                .labels
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str(), new.row.seq))
        })
        .collect();
    macro_rules! each {
        ($rows:expr, $of:expr) => {
            $rows.iter().map($of).collect::<Vec<_>>()
        };
    }
    let row = q(
        "WITH v AS (
             SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::boolean[],
                 $8::smallint[], $9::smallint[], $10::bigint[], $11::text[], $12::text[], $13::bigint[], $14::bigint[],
                 $15::bytea[], $16::text[], $17::text[], $18::text[])
             AS v (seq, id, app, job, queue, executor, queue_chosen, state, rank, max_attempts, labels, idempotency_key,
                   run_at, expires_at, payload, env, definition, traceparent)),
         k AS (
             INSERT INTO robata.keys (app, key, seq, request)
             SELECT * FROM unnest($20::text[], $21::text[], $22::bigint[], $23::bytea[])
             ON CONFLICT DO NOTHING RETURNING 1),
         j AS (
             INSERT INTO robata.jobs (seq, id, app, job, queue, executor, queue_chosen, one_off, state, rank, max_attempts,
                 labels, idempotency_key, created_at, run_at, expires_at, moved_at)
             SELECT seq, id, app, job, queue, executor, queue_chosen, definition IS NOT NULL, state, rank, max_attempts,
                 labels, idempotency_key, $19, run_at, expires_at, $19 FROM v
             ON CONFLICT DO NOTHING RETURNING 1),
         d AS (
             INSERT INTO robata.job_data (seq, payload, env, definition, traceparent)
             SELECT seq, payload, env, definition, traceparent FROM v),
         z AS (
             INSERT INTO robata.queued (id, seq, queue, executor, rank, app, job, attempt)
             SELECT id, seq, queue, executor, rank, app, job, 1 FROM v WHERE state = 1 ON CONFLICT DO NOTHING),
         l AS (
             INSERT INTO robata.labels (key, value, seq)
             SELECT * FROM unnest($24::text[], $25::text[], $26::bigint[]))
         SELECT (SELECT count(*) FROM j) AS jobs, (SELECT count(*) FROM k) AS keys",
    )
    .bind(each!(new, |new| new.row.seq))
    .bind(each!(new, |new| new.job.id.uuid()))
    .bind(each!(new, |new| new.job.app.as_str()))
    .bind(each!(new, |new| new.job.job.as_str()))
    .bind(each!(new, |new| new.row.line.queue.as_str()))
    .bind(each!(new, |new| new.row.line.executor.as_str()))
    .bind(each!(new, |new| new.job.queue_chosen))
    .bind(each!(new, |new| number::of_job(new.row.state)))
    .bind(each!(new, |new| -i16::from(new.job.priority)))
    .bind(each!(new, |new| i64::from(new.job.max_attempts)))
    .bind(each!(new, |new| new.labels.as_deref()))
    .bind(each!(new, |new| new.job.key.as_ref().map(|key| key.key.as_str())))
    .bind(each!(new, |new| new.row.run_at.as_millis()))
    .bind(each!(new, |new| new.row.expires_at.map(Timestamp::as_millis)))
    .bind(each!(new, |new| &new.job.payload.bytes()[..]))
    .bind(each!(new, |new| new.env.as_deref()))
    .bind(each!(new, |new| new.definition.as_deref()))
    .bind(each!(new, |new| new.job.traceparent.as_deref()))
    .bind(tx.now.as_millis())
    .bind(each!(keyed, |(app, ..)| *app))
    .bind(each!(keyed, |(_, key, _)| key.key.as_str()))
    .bind(each!(keyed, |(.., seq)| *seq))
    .bind(each!(keyed, |(_, key, _)| &key.request[..]))
    .bind(each!(labels, |(key, ..)| *key))
    .bind(each!(labels, |(_, value, _)| *value))
    .bind(each!(labels, |(.., seq)| *seq))
    .fetch_one(tx.conn())
    .await?;
    let (jobs, keys): (i64, i64) = (row.try_get("jobs")?, row.try_get("keys")?);
    if usize::try_from(jobs) != Ok(new.len()) || usize::try_from(keys) != Ok(keyed.len()) {
        return Err(Fault::Raced);
    }
    Ok(())
}

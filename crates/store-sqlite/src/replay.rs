//! The first jobs of idempotency keys, without storing anything.

use std::collections::{BTreeSet, HashMap};

use robata_core::{
    AppName,
    job::{JobRecord, Key},
};
use sqlx::SqliteConnection;

use crate::{
    enqueue::key_reused,
    error::{Fault, Result},
    job_row::{self, job_attempt, job_columns},
    shared::Shared,
    sql::{Read as _, numbers},
    waiting,
};

pub(crate) async fn replays(
    conn: &mut SqliteConnection,
    shared: &Shared,
    keys: &[(AppName, Key)],
) -> Result<Vec<robata_core::Result<Option<JobRecord>>>> {
    let names: Vec<_> = keys.iter().map(|(app, key)| (app.as_str(), &*key.key)).collect();
    let rows = sqlx::query(
        "SELECT v.key AS asked, k.seq, k.request FROM json_each(?) v
         CROSS JOIN keys k ON k.app = v.value ->> 0 AND k.key = v.value ->> 1",
    )
    .bind(serde_json::to_string(&names)?)
    .fetch_all(&mut *conn)
    .await?;
    let mut known: HashMap<i64, (i64, &[u8])> = HashMap::with_capacity(rows.len());
    for row in &rows {
        known.insert(row.col("asked")?, (row.col("seq")?, row.col("request")?));
    }
    let seqs: BTreeSet<i64> = known.values().map(|(seq, _)| *seq).collect();
    let jobs = jobs(conn, shared, seqs).await?;
    let answer = |(asked, (_, key)): (i64, &(AppName, Key))| match known.get(&asked) {
        None => Ok(Ok(None)),
        Some((_, request)) if **request != key.request => Ok(Err(key_reused(&key.key, "store.replays"))),
        Some((seq, _)) => match jobs.get(seq) {
            Some(job) => Ok(Ok(Some(JobRecord::clone(job)))),
            None => Err(Fault::BadRow(format!("the job {seq} of an idempotency key is gone"))),
        },
    };
    (0..).zip(keys).map(answer).collect()
}

/// Jobs as they stand now.
async fn jobs(conn: &mut SqliteConnection, shared: &Shared, seqs: BTreeSet<i64>) -> Result<HashMap<i64, JobRecord>> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        job_columns!(),
        " FROM json_each(?) v CROSS JOIN jobs j ON j.seq = v.value",
        job_attempt!()
    ))
    .bind(numbers(seqs))
    .fetch_all(&mut *conn)
    .await?;
    let rows: Vec<_> = rows.iter().map(job_row::read).collect::<Result<_>>()?;
    let seqs: Vec<_> = rows.iter().map(|row| row.seq).collect();
    let told = waiting::tell_all(conn, shared, rows).await?;
    Ok(seqs.into_iter().zip(told).collect())
}

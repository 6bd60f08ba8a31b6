//! The first jobs of idempotency keys, without storing anything.

use std::collections::{BTreeSet, HashMap};

use robata_core::{
    AppName,
    job::{JobRecord, Key},
};

use crate::{
    enqueue::{key_reused, stored_jobs},
    error::{Fault, Result},
    sql::{Read as _, q},
    tx::Tx,
};

pub(crate) async fn replays(
    tx: &mut Tx,
    keys: &[(AppName, Key)],
) -> Result<Vec<robata_core::Result<Option<JobRecord>>>> {
    // What the database cannot hold, it does not know.
    let (places, (apps, names)): (Vec<_>, (Vec<_>, Vec<_>)) = (0_i64..)
        .zip(keys)
        .filter(|(_, (_, key))| !key.key.contains('\0'))
        .map(|(place, (app, key))| (place, (app.as_str(), key.key.as_str())))
        .unzip();
    let rows = q(
        "SELECT v.place, k.seq, k.request FROM unnest($1::bigint[], $2::text[], $3::text[]) AS v (place, app, key)
                  JOIN robata.keys k ON k.app = v.app AND k.key = v.key",
    )
    .bind(places)
    .bind(apps)
    .bind(names)
    .fetch_all(tx.conn())
    .await?;
    let mut known: HashMap<i64, (i64, &[u8])> = HashMap::with_capacity(rows.len());
    for row in &rows {
        known.insert(row.col("place")?, (row.col("seq")?, row.col("request")?));
    }
    let seqs: BTreeSet<i64> = known.values().map(|(seq, _)| *seq).collect();
    let jobs = stored_jobs(tx, seqs).await?;
    let answer = |(place, (_, key)): (i64, &(AppName, Key))| match known.get(&place) {
        None => Ok(Ok(None)),
        Some((_, request)) if **request != key.request => Ok(Err(key_reused(&key.key, "store.replays"))),
        Some((seq, _)) => match jobs.get(seq) {
            Some(job) => Ok(Ok(Some(JobRecord::clone(job)))),
            None => Err(Fault::BadRow(format!("the job {seq} of an idempotency key is gone"))),
        },
    };
    (0..).zip(keys).map(answer).collect()
}

//! What goes out to the broker, and what is void there (PROTOCOL O2 to O4).

use std::time::Duration;

use robata_core::{
    job::Line,
    store::{Hint, LineRecord, Published, Void},
};
use uuid::Uuid;

use crate::{
    error::Result,
    sql::{Read as _, limit, q},
    tx::Tx,
};

pub(crate) async fn lines(tx: &mut Tx, (): &()) -> Result<Vec<LineRecord>> {
    let rows = q("SELECT c.queue, c.executor, c.queued, c.out,
                      (SELECT min(z.published_at) FROM robata.queued z
                       WHERE z.queue = c.queue AND z.executor = c.executor AND z.published_at IS NOT NULL) AS oldest
                  FROM (SELECT queue, executor, sum(queued)::bigint AS queued, sum(out)::bigint AS out
                        FROM robata.counters GROUP BY queue, executor) c
                  WHERE c.queued > 0 ORDER BY c.queue, c.executor")
    .fetch_all(tx.conn())
    .await?;
    let now = tx.now;
    rows.iter()
        .map(|row| {
            Ok(LineRecord {
                line: row.line()?,
                queued: u64::try_from(row.col::<i64>("queued")?).unwrap_or_default(),
                published: u64::try_from(row.col::<i64>("out")?).unwrap_or_default(),
                oldest_publication: row.time_or_none("oldest")?.map(|at| now.since(at)),
            })
        })
        .collect()
}

/// A compare-and-set on (job, attempt, `queued`) and line. What somebody claims or moves right now is skipped: at worst it
/// goes out twice. What a claim has used up in the meantime is not out, nor what was written in a newer format than the one
/// in use: it goes out again.
pub(crate) async fn published(tx: &mut Tx, published: &Published) -> Result<()> {
    let (ids, numbers): (Vec<Uuid>, Vec<i32>) = published
        .references
        .iter()
        .map(|reference| {
            (
                reference.job.uuid(),
                i32::try_from(reference.attempt).unwrap_or(i32::MAX),
            )
        })
        .unzip();
    // By their ids, and in no way that a planner could mistake (see `db::PLANS`).
    let rows = q(
        "WITH l AS (SELECT w.id FROM unnest($3::uuid[], $4::integer[]) AS v (id, attempt) CROSS JOIN LATERAL (
             SELECT z.id FROM robata.queued z WHERE z.id = v.id AND z.attempt = v.attempt
                 AND CASE WHEN z.published_at IS NULL AND z.queue = $5 AND z.executor = $6 THEN true ELSE false END
             FOR UPDATE SKIP LOCKED) w)
         UPDATE robata.queued z SET published_at = CASE WHEN z.used_up = 0 AND $7 THEN $1 END,
             broker_key = CASE WHEN z.used_up = 0 AND $7 THEN $2 END,
             publications = z.publications + CASE WHEN z.used_up = 0 AND $7 THEN 1 ELSE 0 END,
             used_up = greatest(z.used_up - 1, 0), given_to = NULL, given_until = NULL
         WHERE z.id = ANY(ARRAY(SELECT id FROM l)) RETURNING z.published_at IS NOT NULL AS out",
    )
    .bind(tx.now.as_millis())
    .bind(published.broker_key.0.as_str())
    .bind(ids)
    .bind(numbers)
    .bind(published.line.queue.as_str())
    .bind(published.line.executor.as_str())
    .bind(published.format <= tx.format)
    .fetch_all(tx.conn())
    .await?;
    let mut out = 0;
    for row in &rows {
        if row.col("out")? {
            out += 1;
        } else {
            tx.tally.hint(Hint::Line(published.line.clone()));
        }
    }
    tx.tally.count_out(&published.line, out);
    Ok(())
}

pub(crate) async fn void(tx: &mut Tx, (line, what): &(Line, Void)) -> Result<usize> {
    let query = match what {
        // Gone with their broker: how often they went out before says nothing about the new one.
        Void::OtherKey(key) => q(
            "WITH l AS (
                 SELECT id FROM robata.queued
                 WHERE queue = $1 AND executor = $2 AND published_at IS NOT NULL AND broker_key IS DISTINCT FROM $3
                 ORDER BY id FOR UPDATE SKIP LOCKED)
             UPDATE robata.queued z SET published_at = NULL, broker_key = NULL, publications = 0 FROM l WHERE z.id = l.id",
        )
        .bind(line.queue.as_str())
        .bind(line.executor.as_str())
        .bind(key.0.clone()),
        Void::OlderThan { age, max } => q(
            "WITH l AS (
                 SELECT id FROM robata.queued
                 WHERE queue = $1 AND executor = $2 AND published_at IS NOT NULL AND published_at <= $3 - $4
                   AND published_at <= $3 - ($4 << least(greatest(publications - 1, 0), 20))
                 ORDER BY published_at LIMIT $5 FOR UPDATE SKIP LOCKED)
             UPDATE robata.queued z SET published_at = NULL, broker_key = NULL FROM l WHERE z.id = l.id",
        )
        .bind(line.queue.as_str())
        .bind(line.executor.as_str())
        .bind(tx.now.as_millis())
        .bind(millis(*age))
        .bind(limit(*max)),
    };
    let done = query.execute(tx.conn()).await?.rows_affected();
    let n = i64::try_from(done).unwrap_or(i64::MAX);
    tx.tally.count_out(line, -n);
    if n > 0 {
        tx.tally.hint(Hint::Line(line.clone()));
    }
    Ok(usize::try_from(done).unwrap_or(usize::MAX))
}

/// Bounded so that it can be doubled without overflow.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(1 << 40)
}

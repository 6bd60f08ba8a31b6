//! What goes out to the broker, and what is void there (PROTOCOL O2 to O4).

use std::time::Duration;

use robata_core::{
    Timestamp,
    job::Line,
    store::{Hint, LineRecord, Published, Void},
};
use sqlx::{SqliteConnection, sqlite::SqliteRow};

use crate::{
    error::Result,
    shared::Shared,
    sql::{Read as _, push_hex},
    tx::Tx,
};

pub(crate) async fn lines(conn: &mut SqliteConnection, shared: &Shared) -> Result<Vec<LineRecord>> {
    let rows = sqlx::query(
        "SELECT c.queue, c.executor, c.queued, c.out,
                (SELECT min(published_at) FROM jobs INDEXED BY jobs_out
                 WHERE queue = c.queue AND executor = c.executor AND state = 1 AND published_at IS NOT NULL) AS oldest
         FROM counters c WHERE c.queued > 0",
    )
    .fetch_all(conn)
    .await?;
    let mut lines = Vec::with_capacity(rows.len());
    for row in &rows {
        lines.extend(shared.readable(row, record(row, shared.wall()))?);
    }
    Ok(lines)
}

fn record(row: &SqliteRow, now: Timestamp) -> Result<LineRecord> {
    Ok(LineRecord {
        line: row.line()?,
        queued: u64::try_from(row.col::<i64>("queued")?).unwrap_or_default(),
        published: u64::try_from(row.col::<i64>("out")?).unwrap_or_default(),
        oldest_publication: row.time_or_none("oldest")?.map(|at| now.since(at)),
    })
}

/// A compare-and-set on (job, attempt, `queued`) and line. What a claim has used up in the meantime is not out,
/// nor what was written in a newer format than the one in use: it goes out again.
pub(crate) async fn published(tx: &mut Tx, published: &Published) -> Result<()> {
    let mut references = "[".to_owned();
    for (at, reference) in published.references.iter().enumerate() {
        references.push_str(if at == 0 { "[\"" } else { ",[\"" });
        push_hex(&mut references, reference.job.as_bytes());
        references.push_str(&format!("\",{}]", reference.attempt));
    }
    references.push(']');
    // The `+` keeps these columns out of the choice of an index: else every queued job is compared with every reference.
    let rows = sqlx::query(
        "UPDATE jobs SET published_at = iif(used_up OR NOT ?6, NULL, max(?1, created_at)),
             broker_key = iif(used_up OR NOT ?6, NULL, ?2), publications = publications + (used_up = 0 AND ?6), used_up = max(used_up - 1, 0)
         FROM (SELECT unhex(value ->> 0) AS id, value ->> 1 AS number FROM json_each(?3)) v
         WHERE jobs.id = v.id AND jobs.attempt = v.number - 1 AND +jobs.state = 1 AND jobs.published_at IS NULL
           AND +jobs.queue = ?4 AND +jobs.executor = ?5
         RETURNING published_at IS NOT NULL AS out",
    )
    .bind(tx.now.as_millis())
    .bind(published.broker_key.0.as_str())
    .bind(references)
    .bind(published.line.queue.as_str())
    .bind(published.line.executor.as_str())
    .bind(published.format <= tx.format)
    .fetch_all(&mut tx.conn)
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

pub(crate) async fn void(tx: &mut Tx, request: &(Line, Void)) -> Result<usize> {
    let (line, what) = request;
    let query = match what {
        // Gone with their broker: how often they went out before says nothing about the new one.
        Void::OtherKey(key) => sqlx::query(
            "UPDATE jobs INDEXED BY jobs_out SET published_at = NULL, broker_key = NULL, publications = 0
             WHERE queue = ?1 AND executor = ?2 AND state = 1 AND published_at IS NOT NULL AND broker_key IS NOT ?3",
        )
        .bind(line.queue.as_str())
        .bind(line.executor.as_str())
        .bind(key.0.clone()),
        Void::OlderThan { age, max } => sqlx::query(
            "UPDATE jobs SET published_at = NULL, broker_key = NULL WHERE seq IN (
                 SELECT seq FROM jobs INDEXED BY jobs_out
                 WHERE queue = ?1 AND executor = ?2 AND state = 1 AND published_at IS NOT NULL AND published_at <= ?3 - ?4
                   AND published_at <= ?3 - (?4 << min(max(publications - 1, 0), 20))
                 ORDER BY published_at LIMIT ?5)",
        )
        .bind(line.queue.as_str())
        .bind(line.executor.as_str())
        .bind(tx.now.as_millis())
        .bind(millis(*age))
        .bind(i64::try_from(*max).unwrap_or(i64::MAX)),
    };
    let done = query.execute(&mut tx.conn).await?.rows_affected();
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

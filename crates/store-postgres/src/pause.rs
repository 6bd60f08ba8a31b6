//! Paused queues. A claim and a pause exclude each other by a lock, so that from a pause's answer on no claim takes a job of it.

use std::collections::{BTreeMap, BTreeSet};

use robata_core::{
    QueueName,
    row::Deed,
    store::{Hint, Pause},
};

use crate::{
    conn::Conn,
    error::Result,
    sql::{Read as _, q, text},
    tx::{After, Tx},
};

/// The space of our advisory locks on queues; the other half of the key is the queue's hash. Two queues of one hash only wait
/// for each other.
const SPACE: i32 = 0x0072_6f62;

/// A pause or the end of one.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) queue: QueueName,
    pub(crate) reason: Option<String>,
    pub(crate) by: String,
}

/// Keeps pauses of these queues out until the transaction's end.
pub(crate) async fn hold_off(conn: &mut Conn, queues: BTreeSet<&str>) -> Result<()> {
    let queues: Vec<_> = queues.into_iter().collect();
    q("SELECT pg_advisory_xact_lock_shared($1, h) FROM (
           SELECT DISTINCT hashtext(queue) AS h FROM unnest($2::text[]) AS v (queue) ORDER BY h) AS v")
    .bind(SPACE)
    .bind(queues)
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn all(conn: &mut Conn) -> Result<BTreeMap<QueueName, Pause>> {
    let rows = q("SELECT queue, reason, by, since FROM robata.pauses")
        .fetch_all(conn)
        .await?;
    rows.iter()
        .map(|row| {
            let pause = Pause {
                reason: row.col("reason")?,
                by: row.col("by")?,
                since: row.time("since")?,
            };
            Ok((row.word("queue")?, pause))
        })
        .collect()
}

pub(crate) async fn change(tx: &mut Tx, change: &Change) -> Result<bool> {
    q("SELECT pg_advisory_xact_lock($1, hashtext($2))")
        .bind(SPACE)
        .bind(change.queue.as_str())
        .execute(tx.conn())
        .await?;
    let now = tx.now.as_millis();
    let done = match &change.reason {
        Some(reason) => {
            q(
                "INSERT INTO robata.pauses AS p (queue, reason, by, since) VALUES ($1, $2, $3, $4)
               ON CONFLICT (queue) DO UPDATE SET reason = excluded.reason, by = excluded.by
               WHERE p.reason <> excluded.reason",
            )
            .bind(change.queue.as_str())
            .bind(text(reason))
            .bind(text(&change.by))
            .bind(now)
            .execute(tx.conn())
            .await?
        }
        None => {
            q("DELETE FROM robata.pauses WHERE queue = $1")
                .bind(change.queue.as_str())
                .execute(tx.conn())
                .await?
        }
    };
    let changed = done.rows_affected() > 0;
    if changed {
        let deed = if change.reason.is_some() {
            Deed::pause(&change.queue)
        } else {
            Deed::resume(&change.queue)
        };
        tx.audit(&change.by, &deed).await?;
        tx.after(After::Colours);
        let rows = q("SELECT DISTINCT queue, executor FROM robata.counters WHERE queue = $1")
            .bind(change.queue.as_str())
            .fetch_all(tx.conn())
            .await?;
        for row in rows {
            let line = row.line()?;
            tx.tally.hint(Hint::Line(line));
        }
    }
    Ok(changed)
}

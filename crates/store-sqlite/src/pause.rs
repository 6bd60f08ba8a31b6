//! Pausing and resuming queues. Which are paused is kept in memory beside the catalog: every claim asks.

use std::{collections::BTreeMap, sync::Arc};

use robata_core::{
    QueueName,
    row::Deed,
    store::{Hint, Pause},
};
use sqlx::SqliteConnection;

use crate::{
    error::Result,
    sql::Read as _,
    tx::{After, Tx},
};

/// The paused queues.
pub(crate) type Paused = BTreeMap<QueueName, Pause>;

/// A request to pause a queue, or to resume it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) queue: QueueName,
    pub(crate) reason: Option<String>,
    pub(crate) by: String,
}

pub(crate) async fn load(conn: &mut SqliteConnection) -> Result<Paused> {
    let rows = sqlx::query("SELECT queue, reason, by, since FROM paused")
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

pub(crate) async fn pause(tx: &mut Tx, request: &Request) -> Result<bool> {
    let mut paused = Paused::clone(&tx.paused);
    let before = paused.remove(&request.queue);
    match (&request.reason, &before) {
        (None, None) => return Ok(false),
        (Some(reason), Some(pause)) if pause.reason == *reason => return Ok(false),
        (Some(reason), _) => {
            let since = before.map_or(tx.now, |pause| pause.since);
            sqlx::query("INSERT OR REPLACE INTO paused (queue, reason, by, since) VALUES (?, ?, ?, ?)")
                .bind(request.queue.as_str())
                .bind(reason.as_str())
                .bind(request.by.as_str())
                .bind(since.as_millis())
                .execute(&mut tx.conn)
                .await?;
            let pause = Pause {
                reason: reason.clone(),
                by: request.by.clone(),
                since,
            };
            paused.insert(request.queue.clone(), pause);
        }
        (None, Some(_)) => {
            sqlx::query("DELETE FROM paused WHERE queue = ?")
                .bind(request.queue.as_str())
                .execute(&mut tx.conn)
                .await?;
            hint_lines(tx, &request.queue).await?;
        }
    }
    let deed = if request.reason.is_some() {
        Deed::pause(&request.queue)
    } else {
        Deed::resume(&request.queue)
    };
    tx.audit(&request.by, &deed).await?;
    // The rest of this group claims by it already.
    tx.paused = Arc::new(paused);
    tx.after(After::Paused(Arc::clone(&tx.paused)));
    Ok(true)
}

/// What waited goes out again.
async fn hint_lines(tx: &mut Tx, queue: &QueueName) -> Result<()> {
    let rows = sqlx::query("SELECT queue, executor FROM counters WHERE queue = ? AND queued > 0")
        .bind(queue.as_str())
        .fetch_all(&mut tx.conn)
        .await?;
    for row in rows {
        tx.tally.hint(Hint::Line(row.line()?));
    }
    Ok(())
}

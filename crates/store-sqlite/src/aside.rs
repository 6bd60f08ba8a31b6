//! Messages that could not be taken in, kept with their reasons for people to look at.

use robata_core::{
    job::Line,
    store::{SetAside, SetAsideRecord},
};
use sqlx::SqliteConnection;

use crate::{
    error::Result,
    sql::{Read as _, Values},
    tx::Tx,
};

/// A page has at most so many.
const MAX_PAGE: usize = 500;
/// The newest so many are kept: whoever writes nonsense into a broker must not fill the disk. Of what came by `accept`, where
/// masters alone write, all is kept: somebody was told that it is accepted.
const KEPT: i64 = 10_000;

pub(crate) async fn keep(tx: &mut Tx, messages: &[SetAside]) -> Result<()> {
    let mut rows = Vec::with_capacity(messages.len());
    for message in messages {
        rows.push((message, serde_json::to_string(&message.attributes)?));
    }
    let now = tx.now.as_millis();
    tx.inserts
        .run(
            &mut tx.conn,
            "INSERT INTO set_aside (at, source, reason, body, attributes)",
            5,
            &rows,
            |values: &mut Values, (message, attributes)| {
                values
                    .add(now)
                    .add(message.source.as_str())
                    .add(message.reason.as_str())
                    .add(&message.body[..])
                    .add(attributes.as_str());
            },
        )
        .await?;
    sqlx::query("DELETE FROM set_aside WHERE seq <= (SELECT max(seq) FROM set_aside) - ? AND source <> ?")
        .bind(KEPT)
        .bind(Line::accept().to_string())
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

pub(crate) async fn list(
    conn: &mut SqliteConnection,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<SetAsideRecord>> {
    let rows = sqlx::query("SELECT * FROM set_aside WHERE seq < ? ORDER BY seq DESC LIMIT ?")
        .bind(before.map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX)))
        .bind(i64::try_from(limit.clamp(1, MAX_PAGE)).unwrap_or(i64::MAX))
        .fetch_all(conn)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(SetAsideRecord {
                seq: u64::try_from(row.col::<i64>("seq")?).unwrap_or_default(),
                at: row.time("at")?,
                message: SetAside {
                    source: row.col("source")?,
                    reason: row.col("reason")?,
                    body: row.col::<Vec<u8>>("body")?.into(),
                    attributes: row.json("attributes")?,
                },
            })
        })
        .collect()
}

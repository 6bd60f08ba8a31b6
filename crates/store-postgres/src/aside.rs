//! Messages that could not be taken in, kept with their reasons for people to look at.

use robata_core::{
    job::Line,
    store::{SetAside, SetAsideRecord},
};

use crate::{
    error::Result,
    sql::{Read as _, limit, q, text},
    tx::Tx,
};

/// A page has at most so many.
const MAX_PAGE: usize = 500;
/// The newest so many are kept: whoever writes nonsense into a broker must not fill the disk. Of what came by `accept`, where
/// masters alone write, all is kept: somebody was told that it is accepted.
const KEPT: i64 = 10_000;

pub(crate) async fn keep(tx: &mut Tx, messages: &[SetAside]) -> Result<()> {
    if messages.is_empty() {
        return Ok(());
    }
    let attributes = messages
        .iter()
        .map(|message| serde_json::to_string(&message.attributes))
        .collect::<Result<Vec<_>, _>>()?;
    q("INSERT INTO robata.set_aside (at, source, reason, body, attributes)
       SELECT $1, v.* FROM unnest($2::text[], $3::text[], $4::bytea[], $5::text[]) AS v")
    .bind(tx.now.as_millis())
    .bind(messages.iter().map(|message| text(&message.source)).collect::<Vec<_>>())
    .bind(messages.iter().map(|message| text(&message.reason)).collect::<Vec<_>>())
    .bind(messages.iter().map(|message| &message.body[..]).collect::<Vec<_>>())
    .bind(attributes)
    .execute(tx.conn())
    .await?;
    q("DELETE FROM robata.set_aside WHERE seq <= (SELECT max(seq) FROM robata.set_aside) - $1 AND source <> $2")
        .bind(KEPT)
        .bind(Line::accept().to_string())
        .execute(tx.conn())
        .await?;
    Ok(())
}

pub(crate) async fn list(tx: &mut Tx, (before, max): &(Option<u64>, usize)) -> Result<Vec<SetAsideRecord>> {
    let rows = q("SELECT * FROM robata.set_aside WHERE seq < $1 ORDER BY seq DESC LIMIT $2")
        .bind(before.map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX)))
        .bind(limit((*max).clamp(1, MAX_PAGE)))
        .fetch_all(tx.conn())
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

//! The format in use (PROTOCOL V1): kept in the store, lowered at once by whoever announces an older one, and raised by
//! judging once all live daemons announce a newer. Claims and publications share a lock that whoever changes it has alone.

use std::collections::HashMap;

use robata_core::{
    Format, IncarnationId,
    job::Line,
    store::{Formats, Hint, LEASE, Mark, MasterRecord},
};
use sqlx::postgres::PgRow;

use crate::{
    catalog::set_meta,
    error::{Fault, Result},
    lease,
    sql::{Read as _, q},
    tx::{After, Tx},
};

/// Taken as a transaction begins that writes in the format in use, and read under it. The key is "robataf" in ASCII.
pub(crate) const SHARE: &str = "SELECT pg_advisory_xact_lock_shared(32210615677509990); ";
/// Claims and publications wait behind whoever waits for it, so that nobody waits long: not for a process that was stopped in
/// the midst of a claim.
const ALONE: &str = "SET LOCAL lock_timeout = '1s'; SELECT pg_advisory_xact_lock(32210615677509990)";
/// A lease in milliseconds: as long a mark is fresh.
const FRESH: i64 = LEASE.as_millis() as i64;
/// Marks as old as this are removed.
const OLD: i64 = 3_600_000;

/// The format that a row tells as text.
pub(crate) fn read(row: &PgRow) -> Result<Format> {
    let number = row.col::<&str>("format")?.parse();
    number
        .map(Format::new)
        .map_err(|_| Fault::BadRow("the format in use is no number".to_owned()))
}

/// The format of a column.
pub(crate) fn column(row: &PgRow, name: &str) -> Result<Format> {
    Ok(Format::new(u8::try_from(row.col::<i16>(name)?).unwrap_or(u8::MAX)))
}

async fn in_use(tx: &mut Tx) -> Result<Format> {
    let row = q("SELECT value AS format FROM robata.meta WHERE name = 'format'")
        .fetch_one(tx.conn())
        .await?;
    read(&row)
}

/// Takes note of the format of a worker that registers, before its row is written: what rises is judged by the row, and
/// nothing rises while this transaction has its part of the lock.
pub(crate) async fn register(tx: &mut Tx, announced: Format) -> Result<()> {
    if announced < in_use(tx).await? {
        sqlx::raw_sql(ALONE).execute(tx.conn()).await?;
    } else {
        sqlx::raw_sql(SHARE).execute(tx.conn()).await?;
        if announced < in_use(tx).await? {
            // It rose in between.
            return Err(Fault::Raced);
        }
    }
    let before = in_use(tx).await?;
    put(tx, before, before.min(announced)).await
}

/// The oldest format that a live daemon announces, beside this one of a master, and the one in use.
async fn oldest(tx: &mut Tx, announced: Format) -> Result<(Format, Format)> {
    let now = tx.now.as_millis();
    let row = q("SELECT least($1::smallint,
                     (SELECT min(format) FROM robata.workers WHERE ended_at IS NULL),
                     (SELECT min(format) FROM robata.masters WHERE marked_at BETWEEN $2 AND $3)) AS oldest,
                     (SELECT value FROM robata.meta WHERE name = 'format') AS format")
    .bind(i16::from(announced.number()))
    .bind(now - FRESH)
    .bind(now + FRESH)
    .fetch_one(tx.conn())
    .await?;
    Ok((column(&row, "oldest")?, read(&row)?))
}

/// Whether another format is to be in use; `may_rise`: marks came without a gap for long enough that every live daemon has
/// announced its own.
fn changes(oldest: Format, before: Format, may_rise: bool) -> bool {
    oldest < before || may_rise && oldest > before
}

/// Writes a master's mark; answers the format in use, and whether it is to be changed.
pub(crate) async fn mark(tx: &mut Tx, mark: &Mark, may_rise: bool) -> Result<(Format, bool)> {
    let now = tx.now.as_millis();
    q(
        "WITH old AS (DELETE FROM robata.masters WHERE marked_at < $4 AND id <> $1)
       INSERT INTO robata.masters AS m (id, format, marked_at) VALUES ($1, $2, $3)
       ON CONFLICT (id) DO UPDATE SET format = excluded.format, marked_at = excluded.marked_at",
    )
    .bind(mark.master.uuid())
    .bind(i16::from(mark.format.number()))
    .bind(now)
    .bind(now - OLD)
    .execute(tx.conn())
    .await?;
    let (oldest, before) = oldest(tx, mark.format).await?;
    tx.after(After::Format(before));
    Ok((before, changes(oldest, before, may_rise)))
}

/// Puts the right format in use, in a transaction of its own: no mark waits for the lock. Under it nobody registers, and what
/// is seen holds until the commit.
pub(crate) async fn change(tx: &mut Tx, mark: &Mark) -> Result<Format> {
    sqlx::raw_sql(ALONE).execute(tx.conn()).await?;
    let may_rise = lease::is_unbroken(tx).await?;
    let (oldest, before) = oldest(tx, mark.format).await?;
    let after = if changes(oldest, before, may_rise) {
        oldest
    } else {
        before
    };
    put(tx, before, after).await?;
    Ok(after)
}

/// Puts a format in use. Where it falls, what is out was written for newer daemons: it goes out again.
async fn put(tx: &mut Tx, before: Format, after: Format) -> Result<()> {
    tx.after(After::Format(after));
    if after == before {
        return Ok(());
    }
    set_meta(tx.conn(), "format", &after.to_string()).await?;
    if after > before {
        tracing::info!(%before, %after, "every live daemon reads a newer format: it is in use");
        return Ok(());
    }
    let void = q(
        "WITH l AS (SELECT id FROM robata.queued WHERE published_at IS NOT NULL ORDER BY id FOR UPDATE)
                  UPDATE robata.queued z SET published_at = NULL, broker_key = NULL, publications = 0
                  FROM l WHERE z.id = l.id RETURNING z.queue, z.executor",
    )
    .fetch_all(tx.conn())
    .await?;
    tracing::warn!(%before, %after, again = void.len(), "a daemon of an earlier release is there: the older format is in use");
    let mut lines: HashMap<Line, i64> = HashMap::new();
    for row in &void {
        *lines.entry(row.line()?).or_default() += 1;
    }
    for (line, count) in lines {
        tx.tally.count_out(&line, -count);
        tx.tally.hint(Hint::Line(line));
    }
    Ok(())
}

pub(crate) async fn formats(tx: &mut Tx, (): &()) -> Result<Formats> {
    let now = tx.now.as_millis();
    let rows =
        q("SELECT id, format AS own, marked_at FROM robata.masters WHERE marked_at BETWEEN $1 AND $2 ORDER BY id")
            .bind(now - FRESH)
            .bind(now + FRESH)
            .fetch_all(tx.conn())
            .await?;
    let mut masters = Vec::with_capacity(rows.len());
    for row in &rows {
        masters.push(MasterRecord {
            mark: Mark {
                master: IncarnationId::from_bytes(row.id_bytes("id")?),
                format: column(row, "own")?,
            },
            marked_at: row.time("marked_at")?,
        });
    }
    Ok(Formats {
        in_use: in_use(tx).await?,
        masters,
    })
}

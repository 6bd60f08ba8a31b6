//! The format in use (PROTOCOL V1). One process holds the folder, and when it ends nobody is left who announces anything; what
//! was in use stays in the database, for an older release that opens it next: to it what is out in a durable broker is void.

use std::collections::HashMap;

use robata_core::{
    Format,
    format::in_use,
    job::Line,
    store::{Formats, Hint, Mark},
};

use sqlx::SqliteConnection;

use crate::{
    catalog::set_meta,
    error::Result,
    shared::Shared,
    sql::Read as _,
    tx::{After, Tx},
};

/// The format that was in use when the folder was last held.
pub(crate) async fn load(conn: &mut SqliteConnection) -> Result<Format> {
    let row = sqlx::query("SELECT value FROM meta WHERE name = 'format'")
        .fetch_optional(conn)
        .await?;
    let stored = row.map(|row| row.json::<Format>("value")).transpose()?;
    Ok(stored.unwrap_or(Format::PREVIOUS).max(Format::PREVIOUS))
}

/// Takes note of the format of a worker that registers.
pub(crate) async fn register(tx: &mut Tx, announced: Format) -> Result<()> {
    let format = tx.format.min(announced);
    put(tx, format).await
}

/// Notes a master's mark and puts the right format in use; `may_rise`: marks came without a gap for a lease.
pub(crate) async fn judge(tx: &mut Tx, mark: Mark, may_rise: bool) -> Result<Format> {
    let (boot, now) = (tx.boot, tx.now);
    let announced = {
        let mut leases = tx.shared.leases();
        leases.announce(mark, boot, now);
        leases.announced(boot)
    };
    // Who registers in this very group is not in memory before its commit.
    let oldest = in_use(announced.into_iter().chain(tx.registering())).unwrap_or(mark.format);
    if oldest < tx.format || may_rise && oldest > tx.format {
        put(tx, oldest).await?;
    }
    Ok(tx.format)
}

/// Puts a format in use. Where it falls, what is out was written for newer daemons: it goes out again.
async fn put(tx: &mut Tx, after: Format) -> Result<()> {
    let before = std::mem::replace(&mut tx.format, after);
    tx.after(After::Format(after));
    if after == before {
        return Ok(());
    }
    set_meta(&mut tx.conn, "format", &after.to_string()).await?;
    if after > before {
        tracing::info!(%before, %after, "every live daemon reads a newer format: it is in use");
        return Ok(());
    }
    let void = sqlx::query(
        "UPDATE jobs INDEXED BY jobs_out SET published_at = NULL, broker_key = NULL, publications = 0
         WHERE state = 1 AND published_at IS NOT NULL RETURNING queue, executor",
    )
    .fetch_all(&mut tx.conn)
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

/// The format in use, and the masters that announce theirs.
pub(crate) fn formats(shared: &Shared) -> Formats {
    Formats {
        in_use: shared.format.get(),
        masters: shared.leases().masters(shared.boot()),
    }
}

//! What a server and its database are like, for whoever looks before anything is opened (`robata doctor`).

use std::time::Duration;

use robata_core::{Error, Timestamp, store::LEASE};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row as _};
use tokio::time::timeout;

use crate::{
    error::{Fault, Result},
    migrate,
    sql::q,
};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// The server's version, as `15.6`.
    pub server: String,
    /// The number of the database's schema; 0: there is none yet.
    pub schema: i32,
    /// The number that this release needs.
    pub needed: i32,
    /// How many connections the server takes.
    pub max_connections: u32,
    /// Of these, how many are open, as far as this user sees.
    pub connections: u32,
    /// The server's clock.
    pub now: Timestamp,
    /// The format in use (PROTOCOL V1), and the oldest and the newest that live daemons announce; `None` where the tables
    /// tell nothing of it yet.
    pub formats: Option<[u8; 3]>,
}

/// The schema's number from which on the tables tell formats.
const FORMATS: i32 = 4;

/// See [`Facts::formats`].
async fn formats(conn: &mut PgConnection) -> Result<[u8; 3]> {
    let fresh = i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX);
    let row = q(
        "SELECT (SELECT value FROM robata.meta WHERE name = 'format')::smallint AS in_use,
                     min(d.format) AS oldest, max(d.format) AS newest
                 FROM (SELECT format FROM robata.workers WHERE ended_at IS NULL UNION ALL
                       SELECT format FROM robata.masters WHERE marked_at >= robata.millis() - $1) d",
    )
    .bind(fresh)
    .fetch_one(conn)
    .await?;
    let in_use: i16 = row.try_get("in_use")?;
    let mut formats = [in_use; 3];
    for (place, name) in ["oldest", "newest"].into_iter().enumerate() {
        // Nobody is there.
        formats[place + 1] = row.try_get::<Option<i16>, _>(name)?.unwrap_or(in_use);
    }
    Ok(formats.map(|format| u8::try_from(format).unwrap_or(u8::MAX)))
}

/// Looks at the database at `url`, and changes nothing.
///
/// `Unsupported` where it cannot hold the store, `Unavailable` where it does not answer within `limit`.
pub async fn facts(url: &str, limit: Duration) -> Result<Facts, Error> {
    let options = migrate::options(url)?;
    let looked = async {
        let mut conn = options.connect().await?;
        // One transaction is one connection, through a pooler, too.
        let mut tx = conn.begin().await?;
        migrate::suits(&mut tx).await?;
        let schema = migrate::schema(&mut tx).await?;
        let row = q("SELECT current_setting('server_version') AS server,
                            current_setting('max_connections')::bigint AS max_connections,
                            (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
                            (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now")
            .fetch_one(&mut *tx)
            .await?;
        let formats = match schema >= FORMATS {
            true => Some(formats(&mut tx).await?),
            false => None,
        };
        tx.rollback().await?;
        let count =
            |column: &str| -> Result<u32> { Ok(u32::try_from(row.try_get::<i64, _>(column)?).unwrap_or(u32::MAX)) };
        let facts = Facts {
            server: row.try_get("server")?,
            schema,
            needed: migrate::newest(),
            max_connections: count("max_connections")?,
            connections: count("connections")?,
            now: Timestamp::from_millis(row.try_get("now")?),
            formats,
        };
        // The server ends the connection, if it does not end well.
        let _ = conn.close().await;
        Ok(facts)
    };
    match timeout(limit, looked).await {
        Ok(looked) => looked,
        Err(_) => Err(Fault::Slow(limit)),
    }
    .map_err(|fault: Fault| fault.to_error("store.facts"))
}

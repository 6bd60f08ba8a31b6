//! What a server and its database are like, for whoever looks before anything is opened (`robata doctor`).

use std::time::Duration;

use robata_core::{Error, Timestamp};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
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

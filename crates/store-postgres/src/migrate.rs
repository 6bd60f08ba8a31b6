//! The schema: migrations in one transaction under a lock that ends with it, so that any number of processes may run them at
//! once, through a pooler, too. They only add: the previous release goes on while they run.

use std::time::Duration;

use robata_core::{Error, ErrorKind};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _, postgres::PgConnectOptions};
use tokio::time::{sleep, timeout};

use crate::{
    error::{Fault, Result},
    sql::q,
};

/// Number, name and text of each, in order.
const MIGRATIONS: &[(i32, &str, &str)] = &[
    (1, "first", include_str!("../migrations/0001_first.sql")),
    (2, "access", include_str!("../migrations/0002_access.sql")),
    (3, "accept", include_str!("../migrations/0003_accept.sql")),
    (4, "formats", include_str!("../migrations/0004_formats.sql")),
    #[cfg(feature = "next-format")]
    (5, "next", include_str!("../next/0005_next.sql")),
];
/// The key of the lock: "robata" in ASCII.
const LOCK: i64 = 0x726f_6261_7461;
/// How long all of them may take, and wait for each other.
const LIMIT: Duration = Duration::from_secs(600);
/// How long a table may be waited for: whoever comes to it meanwhile waits, too.
const TABLE: &str = "2s";
/// Between two tries, where somebody reads a table for long.
const PAUSE: Duration = Duration::from_secs(5);
/// PostgreSQL 14.
const OLDEST: i32 = 140_000;

/// What a migration did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migrated {
    /// Those that were run now, by number and name.
    pub applied: Vec<String>,
    /// The schema's number now; a later release's is higher than this release's own.
    pub version: i32,
}

/// Brings the schema at `url` up to date; safe from many processes at once, and while the previous release runs.
///
/// `Unsupported` where the server is older than PostgreSQL 14 or the database is not in UTF-8, `Unavailable` where the server
/// cannot be reached.
pub async fn migrate(url: &str) -> Result<Migrated, Error> {
    let options = options(url)?;
    run(&options, Duration::from_secs(10))
        .await
        .map_err(|fault| fault.to_error("store.migrate"))
}

/// The options of an address.
pub(crate) fn options(url: &str) -> Result<PgConnectOptions, Error> {
    // Without the address: it has a password.
    let wrong = |why: String| {
        let message =
            format!("the address of the database (postgres://USER:PASSWORD@HOST:PORT/DATABASE) cannot be read: {why}");
        Error::new(ErrorKind::Invalid, "store.open", message)
    };
    if !["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
    {
        return Err(wrong("it does not begin with postgres://".to_owned()));
    }
    let options: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| wrong(error.to_string()))?;
    // Nothing that a pooler in transaction mode does not let through: no float digits, no named statements.
    Ok(options
        .extra_float_digits(None)
        .statement_cache_capacity(0)
        .disable_statement_logging())
}

/// A connection, in bounded time.
pub(crate) async fn connect(options: &PgConnectOptions, limit: Duration) -> Result<PgConnection> {
    match timeout(limit, options.connect()).await {
        Ok(conn) => Ok(conn?),
        Err(_) => Err(Fault::Slow(limit)),
    }
}

pub(crate) async fn run(options: &PgConnectOptions, limit: Duration) -> Result<Migrated> {
    let mut conn = connect(options, limit).await?;
    let migrated = match timeout(LIMIT, apply_when_free(&mut conn)).await {
        Ok(done) => done,
        Err(_) => Err(Fault::Slow(LIMIT)),
    };
    // Without COMMIT the server rolls back.
    let _ = timeout(limit, conn.close()).await;
    migrated
}

/// Again and again while somebody (a backup) reads a table that is to be changed.
async fn apply_when_free(conn: &mut PgConnection) -> Result<Migrated> {
    loop {
        match apply(conn).await {
            Err(fault) if fault.is_lock_timeout() => {
                tracing::warn!(error = %fault, again_in = ?PAUSE, "a table is in long use (by a backup?): it is not changed yet");
                sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

async fn apply(conn: &mut PgConnection) -> Result<Migrated> {
    let mut tx = conn.begin().await?;
    suits(&mut tx).await?;
    sqlx::raw_sql("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
        .execute(&mut *tx)
        .await?;
    q("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *tx)
        .await?;
    // For each other they wait long, for a table not: all that comes to the table after them would wait behind them.
    sqlx::raw_sql(AssertSqlSafe(format!("SET LOCAL lock_timeout = '{TABLE}'")))
        .execute(&mut *tx)
        .await?;
    sqlx::raw_sql(
        "CREATE SCHEMA IF NOT EXISTS robata;
         CREATE TABLE IF NOT EXISTS robata.migrations (
             version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())",
    )
    .execute(&mut *tx)
    .await?;
    let mut version = version(&mut tx).await?;
    let mut applied = Vec::new();
    for (number, name, text) in MIGRATIONS {
        if *number <= version {
            continue;
        }
        sqlx::raw_sql(*text).execute(&mut *tx).await?;
        q("INSERT INTO robata.migrations (version, name) VALUES ($1, $2)")
            .bind(number)
            .bind(*name)
            .execute(&mut *tx)
            .await?;
        version = *number;
        applied.push(format!("{number:04}_{name}"));
    }
    tx.commit().await?;
    Ok(Migrated { applied, version })
}

async fn version(conn: &mut PgConnection) -> Result<i32> {
    let row = q("SELECT coalesce(max(version), 0) AS version FROM robata.migrations")
        .fetch_one(conn)
        .await?;
    Ok(row.try_get("version")?)
}

/// Answers an error where a migration is missing. A newer schema is the next release's: migrations only add.
pub(crate) async fn check(options: &PgConnectOptions, limit: Duration) -> Result<(), Fault> {
    let mut conn = connect(options, limit).await?;
    let mut tx = conn.begin().await?;
    suits(&mut tx).await?;
    let version = schema(&mut tx).await?;
    tx.rollback().await?;
    let _ = timeout(limit, conn.close()).await;
    let newest = newest();
    if version >= newest {
        return Ok(());
    }
    let message = format!(
        "the database's schema has number {version} and this release needs {newest}; run `robata store migrate`, or let it migrate by itself"
    );
    Err(Fault::Refused(Error::new(ErrorKind::Conflict, "store.open", message)))
}

/// The number that this release needs.
pub(crate) fn newest() -> i32 {
    MIGRATIONS.last().map_or(0, |(number, ..)| *number)
}

/// The schema's number; 0 where there is none.
pub(crate) async fn schema(conn: &mut PgConnection) -> Result<i32> {
    let there: bool = q("SELECT to_regclass('robata.migrations') IS NOT NULL AS there")
        .fetch_one(&mut *conn)
        .await?
        .try_get("there")?;
    if there { version(conn).await } else { Ok(0) }
}

/// Whether server and database can hold the store.
pub(crate) async fn suits(conn: &mut PgConnection) -> Result<()> {
    let row = q(
        "SELECT current_setting('server_version_num')::integer AS version, current_setting('server_version') AS words,
                        current_setting('server_encoding') AS encoding",
    )
    .fetch_one(conn)
    .await?;
    let (version, words, encoding): (i32, String, String) =
        (row.try_get("version")?, row.try_get("words")?, row.try_get("encoding")?);
    let wrong = |message: String| {
        Err(Fault::Refused(Error::new(
            ErrorKind::Unsupported,
            "store.open",
            message,
        )))
    };
    if version < OLDEST {
        return wrong(format!("the server is PostgreSQL {words}; 14 or later is needed"));
    }
    if encoding != "UTF8" {
        return wrong(format!("the database's encoding is {encoding}; UTF8 is needed"));
    }
    Ok(())
}

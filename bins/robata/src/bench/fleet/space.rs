//! A database of the bench's own, and keys of its own: nothing of an installation on the same servers is touched, and nothing
//! of the bench is left there.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};

use super::link;
use crate::fault::Coded;

/// Begins the names of databases and keys that the bench makes.
const PREFIX: &str = "robata_bench_";
/// A database is dropped while daemons that were killed may still be on their way out of it.
const DROPS: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(250);

/// Where one fleet works.
#[derive(Debug)]
pub(super) struct Space {
    name: String,
    /// Its database.
    pub(super) url: String,
    server: PgConnectOptions,
    queue_url: String,
}

/// The prefix of the keys of what is done by hand for this database.
pub(super) fn keys_by_hand(database: &str) -> String {
    format!("{{{database}}}:")
}

/// Fails where the server cannot be reached, or lets us make no database.
pub(super) async fn reach(server: &str) -> anyhow::Result<()> {
    let mut connection = connect(&options(server)?).await?;
    let may: bool = sqlx::query_scalar("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    if may {
        return Ok(());
    }
    let message = "the role of --store-url may not make databases, and the bench works in one of its own: \
                   ALTER ROLE … CREATEDB, or name another role";
    Err(Coded {
        code: "store",
        message: message.to_owned(),
    }
    .into())
}

impl Space {
    pub(super) async fn make(server_url: &str, queue_url: &str) -> anyhow::Result<Self> {
        let server = options(server_url)?;
        let random = uuid::Uuid::new_v4().simple().to_string();
        let name = format!("{PREFIX}{}", &random[..12]);
        let url = database_url(server_url, &name).context("--store-url is no address of a PostgreSQL server")?;
        // What stands behind the question mark could name another database after all.
        ensure!(
            options(&url)?.get_database() == Some(name.as_str()),
            "--store-url names its database in a way that the bench cannot replace by its own"
        );
        let mut connection = connect(&server).await?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .context("cannot make a database for the bench")?;
        connection.close().await?;
        Ok(Self {
            name,
            url,
            server,
            queue_url: queue_url.to_owned(),
        })
    }

    /// Removes everything, whatever state it is in. Its daemons are gone, or going.
    pub(super) async fn remove(self) -> anyhow::Result<()> {
        let installation = self.installation().await;
        let dropped = self.drop_database().await;
        link::delete(&self.queue_url, &keys_by_hand(&self.name)).await?;
        if let Some(installation) = installation? {
            // As queue-redis names its keys.
            link::delete(&self.queue_url, &format!("{{robata:{installation}}}:")).await?;
        }
        dropped
    }

    /// Where there is no installation in it yet, there are no keys of it either.
    async fn installation(&self) -> anyhow::Result<Option<String>> {
        let mut connection = connect(&options(&self.url)?).await?;
        let made: bool = sqlx::query_scalar("SELECT to_regclass('robata.meta') IS NOT NULL")
            .fetch_one(&mut connection)
            .await?;
        let mut found = None;
        if made {
            found = sqlx::query_scalar("SELECT value FROM robata.meta WHERE name = 'installation'")
                .fetch_optional(&mut connection)
                .await?;
        }
        connection.close().await?;
        Ok(found)
    }

    async fn drop_database(&self) -> anyhow::Result<()> {
        let text = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let mut connection = connect(&self.server).await?;
        let mut tries = 1;
        loop {
            let dropped = sqlx::query(AssertSqlSafe(text.as_str())).execute(&mut connection).await;
            match dropped {
                Ok(_) => break,
                Err(_) if tries < DROPS => tokio::time::sleep(BETWEEN).await,
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot drop the bench's database {}", self.name));
                }
            }
            tries += 1;
        }
        connection.close().await?;
        Ok(())
    }
}

fn options(url: &str) -> anyhow::Result<PgConnectOptions> {
    let options: PgConnectOptions = url
        .parse()
        .context("--store-url is no address of a PostgreSQL server")?;
    Ok(options.application_name("robata-bench"))
}

async fn connect(options: &PgConnectOptions) -> anyhow::Result<PgConnection> {
    options
        .connect()
        .await
        .context("PostgreSQL is not reached (--store-url)")
}

/// The same address with another database.
fn database_url(server: &str, database: &str) -> Option<String> {
    let (scheme, rest) = server.split_once("://")?;
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
    let authority = rest.split('/').next()?;
    let mark = if query.is_empty() { "" } else { "?" };
    Some(format!("{scheme}://{authority}/{database}{mark}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_the_benchs_own_database() {
        let of = |server| database_url(server, "own").unwrap();
        assert_eq!(of("postgres://u:p@h:5432/live"), "postgres://u:p@h:5432/own");
        assert_eq!(of("postgres://h"), "postgres://h/own");
        assert_eq!(
            of("postgres:///live?host=/run/postgresql"),
            "postgres:///own?host=/run/postgresql"
        );
        assert_eq!(database_url("nonsense", "own"), None);
    }

    #[tokio::test]
    async fn an_address_that_would_lead_to_another_database_is_refused() {
        let error = Space::make("postgres://127.0.0.1:1/live?dbname=live", "redis://127.0.0.1:1")
            .await
            .unwrap_err();
        assert!(error.to_string().contains("replace"), "{error}");
    }
}

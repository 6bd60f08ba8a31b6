//! A database of its own for each test, made from a template that is migrated once, and dropped at the test's end.

#![expect(dead_code, reason = "each test binary uses a part of it")]

use std::{
    str::FromStr as _,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use robata_core::store::Store;
use robata_store_postgres::{Listen, PostgresConfig, PostgresStore};
use robata_testkit::store::Harness;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

/// The key of the lock under which the template is made; tests run in processes of their own.
const LOCK: i64 = 0x7465_7374;

/// The server's address: a superuser's, or one's who may make databases.
pub(crate) fn url() -> Result<String> {
    std::env::var("ROBATA_TEST_POSTGRES_URL").context(
        "ROBATA_TEST_POSTGRES_URL is not set: this test needs a PostgreSQL server and a user who may make databases, \
         as postgres://robata:secret@127.0.0.1:5432/postgres",
    )
}

/// The address of a PgBouncer in transaction mode, in front of the same server, for any database.
pub(crate) fn bouncer_url() -> Result<String> {
    std::env::var("ROBATA_TEST_PGBOUNCER_URL").context(
        "ROBATA_TEST_PGBOUNCER_URL is not set: this test needs a PgBouncer with pool_mode = transaction and a database * that \
         leads to the server of ROBATA_TEST_POSTGRES_URL",
    )
}

pub(crate) fn at(url: &str, database: &str) -> Result<String> {
    let (head, tail) = url.split_once("://").context("no scheme")?;
    let (host, rest) = tail.split_once('/').unwrap_or((tail, ""));
    let query = rest
        .split_once('?')
        .map_or(String::new(), |(_, query)| format!("?{query}"));
    Ok(format!("{head}://{host}/{database}{query}"))
}

pub(crate) async fn connect(url: &str) -> Result<PgConnection> {
    let options = PgConnectOptions::from_str(url)?.disable_statement_logging();
    Ok(options.connect().await?)
}

pub(crate) async fn run(conn: &mut PgConnection, sql: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await?;
    Ok(())
}

/// A database, dropped at the end.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) name: String,
    server: String,
}

impl Database {
    /// A new one with the schema in it.
    pub(crate) async fn migrated() -> Result<Self> {
        Self::on(&url()?).await
    }

    /// The same on another server.
    pub(crate) async fn on(server: &str) -> Result<Self> {
        // By the migrations' own text, so that a changed one gets a new template.
        let text = concat!(
            include_str!("../../migrations/0001_first.sql"),
            include_str!("../../migrations/0002_access.sql"),
            include_str!("../../migrations/0003_accept.sql"),
            include_str!("../../migrations/0004_formats.sql"),
        );
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let template = format!("robata_template_{hash:016x}");
        let mut conn = connect(server).await?;
        sqlx::query("SELECT pg_advisory_lock($1)")
            .bind(LOCK)
            .execute(&mut conn)
            .await?;
        let there = sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1")
            .bind(&template)
            .fetch_optional(&mut conn)
            .await?;
        if there.is_none() {
            let making = format!("{template}_making");
            run(&mut conn, format!("DROP DATABASE IF EXISTS {making}")).await?;
            run(
                &mut conn,
                format!("CREATE DATABASE {making} TEMPLATE template0 ENCODING 'UTF8'"),
            )
            .await?;
            robata_store_postgres::migrate(&at(server, &making)?).await?;
            run(&mut conn, format!("ALTER DATABASE {making} RENAME TO {template}")).await?;
        }
        let made = Self::copy(&mut conn, server, &template).await;
        sqlx::query("SELECT pg_advisory_unlock($1)")
            .bind(LOCK)
            .execute(&mut conn)
            .await?;
        conn.close().await?;
        made
    }

    /// A new one with nothing in it.
    pub(crate) async fn empty() -> Result<Self> {
        let server = url()?;
        let mut conn = connect(&server).await?;
        Self::copy(&mut conn, &server, "template0").await
    }

    /// A copy of this one as it stands: nobody may be connected to it.
    pub(crate) async fn copied(&self) -> Result<Self> {
        let mut conn = connect(&self.server).await?;
        Self::copy(&mut conn, &self.server, &self.name).await
    }

    async fn copy(conn: &mut PgConnection, server: &str, template: &str) -> Result<Self> {
        let name = format!("robata_test_{}", Uuid::new_v4().simple());
        run(
            conn,
            format!("CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8'"),
        )
        .await?;
        Ok(Self {
            url: at(server, &name)?,
            name,
            server: server.to_owned(),
        })
    }
}

impl Drop for Database {
    #[expect(clippy::print_stderr, reason = "a test's own output")]
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // On a thread of its own: a runtime cannot wait inside another.
        let dropping = std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut conn = connect(&server).await?;
                run(&mut conn, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
            })
        });
        if !matches!(dropping.join(), Ok(Ok(()))) {
            eprintln!("the database {} was left behind", self.name);
        }
    }
}

/// Settings for tests: few connections, a clock of their own.
pub(crate) fn config(url: &str, clock: &Arc<AtomicI64>) -> PostgresConfig {
    let mut config = PostgresConfig::new(url);
    config.connections = 4;
    config.listen = Listen::Off;
    config.clock_offset = Some(Arc::clone(clock));
    config
}

/// What the suite works with.
pub(crate) struct Bed {
    pub(crate) database: Database,
    pub(crate) url: String,
    pub(crate) clock: Arc<AtomicI64>,
    pub(crate) store: PostgresStore,
}

impl Bed {
    pub(crate) async fn at(database: Database, url: String) -> Result<Self> {
        let clock = Arc::new(AtomicI64::new(0));
        let store = PostgresStore::connect(config(&url, &clock)).await?;
        Ok(Self {
            database,
            url,
            clock,
            store,
        })
    }
}

#[async_trait]
impl Harness for Bed {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn reopen(&mut self) -> Result<()> {
        self.store.close().await;
        self.store = PostgresStore::connect(config(&self.url, &self.clock)).await?;
        Ok(())
    }

    fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.clock.fetch_add(millis, Ordering::SeqCst);
    }

    fn step_wall(&self, millis: i64) {
        self.clock.fetch_add(millis, Ordering::SeqCst);
    }
}

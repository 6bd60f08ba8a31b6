//! What one connection's transactions leave to the next one, on a real server and through a real pooler.

use robata_core::Error;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};

use crate::{
    config::PostgresConfig,
    db::How,
    migrate, open,
    sql::{Read as _, q},
};

/// A database of its own, dropped at the end.
struct Database {
    server: String,
    name: String,
}

impl Database {
    async fn new() -> Self {
        let server = std::env::var("ROBATA_TEST_POSTGRES_URL").expect(
            "ROBATA_TEST_POSTGRES_URL: a PostgreSQL server, as postgres://robata:secret@127.0.0.1:5432/postgres",
        );
        let name = format!("robata_conn_{:016x}", getrandom::u64().unwrap());
        let database = Self { server, name };
        database.run("CREATE DATABASE", "").await;
        database
    }

    /// The address of the database on this server, given as the address of its database `postgres`.
    fn at(&self, server: &str) -> String {
        let (head, _) = server.rsplit_once('/').unwrap();
        format!("{head}/{}", self.name)
    }

    async fn run(&self, what: &str, how: &str) {
        let mut conn = migrate::options(&self.server).unwrap().connect().await.unwrap();
        let text = format!("{what} {} {how}", self.name);
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut conn).await.unwrap();
    }
}

/// Runs `test` with a store of one connection on a database of its own: past a pooler, or through it.
async fn with_store(pooler: bool, test: impl AsyncFnOnce(&open::Opened)) {
    let database = Database::new().await;
    let url = if pooler {
        let bouncer = std::env::var("ROBATA_TEST_PGBOUNCER_URL")
            .expect("ROBATA_TEST_PGBOUNCER_URL: a PgBouncer in transaction mode before the same server");
        database.at(&bouncer)
    } else {
        database.at(&database.server)
    };
    let opened = open::connect(PostgresConfig {
        connections: 1,
        listen: crate::Listen::Off,
        ..PostgresConfig::new(url)
    })
    .await
    .unwrap();
    test(&opened).await;
    opened.close().await;
    drop(opened);
    // The pooler keeps its connections.
    database.run("DROP DATABASE IF EXISTS", "WITH (FORCE)").await;
}

/// The statements with names that a transaction's server process knows, and its time limit, after some of ours.
async fn named_statements(opened: &open::Opened) -> (i64, String) {
    opened
        .db
        .run(How::read("test.named"), (), |tx, ()| {
            Box::pin(async move {
                for _ in 0..3 {
                    q("SELECT name FROM robata.meta WHERE name = $1")
                        .bind("installation")
                        .fetch_one(tx.conn())
                        .await?;
                }
                let row = q("SELECT current_setting('statement_timeout') AS timeout,
                                    (SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%robata.meta%') AS named")
                .fetch_one(tx.conn())
                .await?;
                Ok((row.col("named")?, row.col("timeout")?))
            })
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn a_direct_connection_prepares_a_statement_once_postgres() {
    with_store(false, async |opened| {
        assert!(opened.db.main.direct && opened.db.beats.direct);
        for _ in 0..3 {
            // The one of this test, besides the one that counts them.
            assert_eq!(named_statements(opened).await, (2, "10s".to_owned()));
        }
    })
    .await;
}

#[tokio::test]
async fn through_a_pooler_no_statement_has_a_name_pgbouncer_postgres() {
    with_store(true, async |opened| {
        assert!(!opened.db.main.direct && !opened.db.beats.direct);
        assert_eq!(named_statements(opened).await, (0, "10s".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn an_address_that_leads_through_a_pooler_one_day_is_noticed_by_each_transaction_pgbouncer_postgres() {
    with_store(true, async |opened| {
        // As if the address had led to the server itself when the store was opened.
        let db = crate::db::Db {
            main: crate::db::Pool {
                connections: opened.db.main.connections.clone(),
                session: opened.db.main.session.clone(),
                direct: true,
            },
            beats: crate::db::Pool {
                connections: opened.db.beats.connections.clone(),
                session: opened.db.beats.session.clone(),
                direct: true,
            },
            shared: std::sync::Arc::clone(&opened.db.shared),
            clock_offset: None,
        };
        let timeout = db
            .attempt(How::read("test.timeout"), &(), |tx, ()| {
                Box::pin(async move {
                    let row = sqlx::raw_sql("SELECT current_setting('statement_timeout') AS timeout")
                        .fetch_one(tx.conn())
                        .await?;
                    Ok(row.try_get::<String, _>("timeout")?)
                })
            })
            .await
            .unwrap();
        assert_eq!(timeout, "10s");
    })
    .await;
}

#[tokio::test]
async fn what_an_operation_wrote_before_it_panicked_is_rolled_back_postgres() {
    with_store(false, async |opened| {
        let panicked: Result<(), Error> = opened
            .db
            .run(How::once("test.panic"), (), |tx, ()| {
                Box::pin(async move {
                    q("INSERT INTO robata.audit (at, by, action) VALUES (0, $1, 'test')")
                        .bind("panicked")
                        .execute(tx.conn())
                        .await?;
                    panic!("as a test");
                })
            })
            .await;
        assert!(panicked.unwrap_err().full().contains("panicked"));
        // On the pool's one connection: a transaction that was left open would be this one, and be committed with it.
        let found: i64 = opened
            .db
            .run(How::once("test.look"), (), |tx, ()| {
                Box::pin(async move {
                    let row = q("SELECT count(*) AS n FROM robata.audit WHERE by = $1")
                        .bind("panicked")
                        .fetch_one(tx.conn())
                        .await?;
                    row.col("n")
                })
            })
            .await
            .unwrap();
        assert_eq!(found, 0);
    })
    .await;
}

#[tokio::test]
async fn a_statement_prepared_before_a_migration_is_prepared_again_after_it_postgres() {
    with_store(false, async |opened| {
        let look = async || {
            opened
                .db
                .run(How::read("test.star"), (), |tx, ()| {
                    Box::pin(async move {
                        let rows = q("SELECT * FROM robata.meta WHERE name = $1")
                            .bind("installation")
                            .fetch_all(tx.conn())
                            .await?;
                        Ok(rows.first().map_or(0, |row| row.columns().len()))
                    })
                })
                .await
        };
        let columns = look().await.unwrap();
        opened
            .db
            .run(How::once("test.alter"), (), |tx, ()| {
                Box::pin(async move {
                    sqlx::raw_sql("ALTER TABLE robata.meta ADD COLUMN later text")
                        .execute(tx.conn())
                        .await?;
                    Ok(())
                })
            })
            .await
            .unwrap();
        assert_eq!(look().await.unwrap(), columns + 1);
    })
    .await;
}

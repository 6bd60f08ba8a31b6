//! What a connection's transaction leaves to the next one, on a real server.

use robata_core::Error;
use sqlx::{AssertSqlSafe, ConnectOptions as _};

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

/// Runs `test` with a store of one connection on a database of its own.
async fn with_store(test: impl AsyncFnOnce(&open::Opened)) {
    let database = Database::new().await;
    let opened = open::connect(PostgresConfig {
        connections: 1,
        listen: crate::Listen::Off,
        ..PostgresConfig::new(database.at(&database.server))
    })
    .await
    .unwrap();
    test(&opened).await;
    opened.close().await;
    drop(opened);
    database.run("DROP DATABASE IF EXISTS", "WITH (FORCE)").await;
}

#[tokio::test]
async fn what_an_operation_wrote_before_it_panicked_is_rolled_back_postgres() {
    with_store(async |opened| {
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

//! What `robata doctor` and `robata store migrate` see of a real PostgreSQL and Redis, and what a master makes of tables
//! that nobody has brought up to date.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

use std::{fs, process::Command, time::Duration};

use robata_adapters::probe;
use robata_settings::{PostgresSettings, RedisSettings};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

fn service(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: `tests/run --services` starts what these tests need"))
}

/// A database of the test's own; dropped by name in the end.
async fn database() -> (String, String) {
    let server = service("ROBATA_TEST_POSTGRES_URL");
    let name = format!("probe_{}", uuid::Uuid::now_v7().simple());
    let mut connection = PgConnection::connect(&server).await.unwrap();
    let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::query(create).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let (host, _) = server.rsplit_once('/').unwrap();
    (format!("{host}/{name}"), name)
}

async fn drop_database(name: &str) {
    let mut connection = PgConnection::connect(&service("ROBATA_TEST_POSTGRES_URL"))
        .await
        .unwrap();
    let drop = AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"));
    sqlx::query(drop).execute(&mut connection).await.unwrap();
}

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn tables_are_brought_up_to_date_once_and_a_master_that_only_checks_waits_for_it() {
    let (url, name) = database().await;
    let settings = PostgresSettings {
        url: url.clone(),
        ..PostgresSettings::default()
    };
    let found = probe::database(&settings, LIMIT).await.unwrap();
    assert_eq!(found.schema, 0);
    assert!(
        found.needed > 0 && found.max_connections > found.connections,
        "{found:?}"
    );

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("master.toml");
    let text = format!(
        "[data]\nfolder = \"{}\"\n[store.postgres]\nurl = \"{url}\"\nmigrate = \"check\"\n[queue.redis]\nurl = \"redis://127.0.0.1:1\"\n",
        folder.path().display()
    );
    fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_robata-master"))
        .env_clear()
        .arg("--config")
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("robata store migrate"), "{said}");

    assert!(!probe::migrate(&settings).await.unwrap().is_empty());
    assert!(probe::migrate(&settings).await.unwrap().is_empty());
    let found = probe::database(&settings, LIMIT).await.unwrap();
    assert_eq!(found.schema, found.needed);
    drop_database(&name).await;
}

#[tokio::test]
async fn a_redis_tells_what_it_is_and_one_that_is_not_there_is_an_error() {
    let settings = RedisSettings {
        url: service("ROBATA_TEST_REDIS_URL"),
        ..RedisSettings::default()
    };
    let found = probe::broker(&settings).await.unwrap();
    assert!(found.version.is_some() && found.eviction.is_some(), "{found:?}");
    let nowhere = RedisSettings {
        url: "redis://127.0.0.1:1".into(),
        ..RedisSettings::default()
    };
    assert!(probe::broker(&nowhere).await.is_err());
}

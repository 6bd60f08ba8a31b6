//! `robata bench --profile postgres-redis` on real servers: every figure is there, and nothing is left behind.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

/// The address of a service that the runner started.
fn service(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: `tests/run --services` starts what these tests need"))
}

fn bench(folder: &Path, arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_robata"))
        .args(["--output", "json", "bench", "--profile", "postgres-redis"])
        .args(arguments)
        .env("TMPDIR", folder)
        .env_remove("ROBATA_STORE__POSTGRES__URL")
        .env_remove("ROBATA_QUEUE__REDIS__URL")
        .output()
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The names of databases that a bench makes.
async fn databases(server: &str) -> sqlx::Result<Vec<String>> {
    let mut connection = PgConnection::connect(server).await?;
    let found = sqlx::query_scalar("SELECT datname::text FROM pg_database WHERE datname LIKE 'robata\\_bench\\_%'")
        .fetch_all(&mut connection)
        .await?;
    connection.close().await?;
    Ok(found)
}

#[tokio::test]
async fn every_figure_of_the_fleet_is_there_and_nothing_is_left_behind() {
    let (store, queue) = (service("ROBATA_TEST_POSTGRES_URL"), service("ROBATA_TEST_REDIS_URL"));
    for daemon in ["robata-master", "robata-worker"] {
        let path = PathBuf::from(env!("CARGO_BIN_EXE_robata")).with_file_name(daemon);
        assert!(
            path.is_file(),
            "{} is not built: cargo build --workspace --bins",
            path.display()
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let before = databases(&store).await.unwrap();
    let short = [
        "--duration",
        "200ms",
        "--jobs",
        "50",
        "--queued",
        "1000",
        "--finished",
        "1000",
    ];
    let arguments = [&["--store-url", &store, "--queue-url", &queue], &short[..]].concat();
    let path = folder.path().to_owned();
    let output = tokio::task::spawn_blocking({
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        move || bench(&path, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    })
    .await
    .unwrap()
    .unwrap();
    let errors = error(&output);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"));
    assert!(output.status.success(), "{report} {errors}");
    assert_eq!(report["not_run"], Value::Array(Vec::new()));
    let rows = report["rows"].as_array().unwrap();
    let of = |scenario: &str| rows.iter().filter(|row| row["scenario"] == scenario).count();
    assert_eq!(of("enqueue"), 4, "{report}");
    assert_eq!(of("dispatch"), 4, "{report}");
    // One more where the server counts statements.
    assert!((3..=4).contains(&of("attempts")), "{report}");
    assert_eq!(of("scale"), 5, "{report}");
    assert_eq!(of("queued"), 6, "{report}");
    assert_eq!(of("idle"), 4, "{report}");
    for row in rows {
        assert!(row["value"].as_f64().unwrap() >= 0.0, "{row}");
    }
    let raw = |row: &&Value| row["raw"].as_f64().is_some_and(|raw| raw > 0.0);
    assert_eq!(rows.iter().filter(raw).count(), 7, "{report}");

    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let mut after = databases(&store).await.unwrap();
    after.retain(|name| !before.contains(name));
    assert!(after.is_empty(), "{after:?}");
    let client = redis::Client::open(queue).unwrap();
    let mut link = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg("{robata_bench_*")
        .query_async(&mut link)
        .await
        .unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[test]
fn what_is_missing_for_postgres_redis_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(folder.path(), &[]).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(error(&output).contains("--store-url"), "{}", error(&output));
    let output = bench(folder.path(), &["--store-url", "postgres://127.0.0.1:1/x"]).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(error(&output).contains("--queue-url"), "{}", error(&output));
    let output = bench(folder.path(), &["docker"]).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(error(&output).contains("--profile embedded"), "{}", error(&output));
}

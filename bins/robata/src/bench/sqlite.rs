//! The raw limit of a durable enqueue: the same rows into a bare SQLite table, without anything around it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use sqlx::{
    AssertSqlSafe, Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use uuid::Uuid;

use super::load::per_second;

const TABLE: &str = "CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY, id BLOB NOT NULL, app TEXT NOT NULL, job TEXT NOT NULL, queue TEXT NOT NULL,
    executor TEXT NOT NULL, state INTEGER NOT NULL, rank INTEGER NOT NULL, created_at INTEGER NOT NULL,
    run_at INTEGER NOT NULL, payload BLOB NOT NULL) STRICT";

/// Rows a second, each committed durably in transactions of `rows`.
pub(super) async fn rows_per_second(
    folder: &Path,
    rows: usize,
    payload: &str,
    lasting: Duration,
) -> anyhow::Result<f64> {
    let path = folder.join(format!("raw-{rows}.sqlite"));
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    sqlx::query(TABLE).execute(&mut connection).await?;
    // Few statements: each costs a way to SQLite's thread and back.
    let at_once = rows.min(100);
    let row = "(?,?,?,?,?,?,?,?,?,?)";
    let values = vec![row; at_once].join(",");
    let insert = format!(
        "INSERT INTO jobs (id, app, job, queue, executor, state, rank, created_at, run_at, payload) VALUES {values}"
    );
    let begin = Instant::now();
    let mut done = 0_u64;
    while begin.elapsed() < lasting {
        let mut transaction = connection.begin().await?;
        for _ in 0..rows / at_once {
            let mut query = sqlx::query(AssertSqlSafe(insert.as_str()));
            for _ in 0..at_once {
                let time = i64::try_from(done)?;
                query = query
                    .bind(Uuid::now_v7().into_bytes().to_vec())
                    .bind("bench")
                    .bind("true")
                    .bind("bench")
                    .bind("process")
                    .bind(1_i64)
                    .bind(0_i64)
                    .bind(time)
                    .bind(time)
                    .bind(payload.as_bytes());
            }
            query.execute(&mut *transaction).await?;
            done += at_once as u64;
        }
        transaction.commit().await?;
    }
    let rate = per_second(done, begin.elapsed());
    connection.close().await?;
    Ok(rate)
}

//! Migrations: from many at once, only checked, and beside a newer release.

mod support;

use std::{
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use anyhow::{Result, ensure};
use robata_core::{ErrorKind, store::Store as _};
use robata_store_postgres::{Migrate, PostgresStore, migrate};
use robata_testkit::case::until;
use support::{Database, config, connect, run};

#[tokio::test(flavor = "multi_thread")]
async fn eight_migrate_at_once_and_one_does_it() -> Result<()> {
    let database = Database::empty().await?;
    let calls = (0..8).map(|_| migrate(&database.url));
    let there = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"))?.count()
        + usize::from(cfg!(feature = "next-format"));
    let mut applied = 0;
    for done in futures::future::join_all(calls).await {
        let done = done?;
        ensure!(usize::try_from(done.version)? == there, "{done:?}");
        applied += done.applied.len();
    }
    ensure!(applied == there, "{applied} were applied");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_open_at_once_and_are_one_installation() -> Result<()> {
    let database = Database::empty().await?;
    let clock = Arc::new(AtomicI64::new(0));
    let opened = (0..8).map(|_| PostgresStore::connect(config(&database.url, &clock)));
    let mut ids = Vec::new();
    for store in futures::future::join_all(opened).await {
        ids.push(store?.installation());
    }
    ids.dedup();
    ensure!(ids.len() == 1, "{ids:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_migration_is_said_where_it_must_not_be_run() -> Result<()> {
    let database = Database::empty().await?;
    let clock = Arc::new(AtomicI64::new(0));
    let check = || {
        let mut config = config(&database.url, &clock);
        config.migrate = Migrate::Check;
        PostgresStore::connect(config)
    };
    let Err(error) = check().await else {
        anyhow::bail!("it was opened");
    };
    ensure!(
        error.kind() == ErrorKind::Conflict && error.message().contains("robata store migrate"),
        "{error:?}"
    );
    migrate(&database.url).await?;
    check().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_releases_schema_is_accepted() -> Result<()> {
    let database = Database::migrated().await?;
    let mut conn = connect(&database.url).await?;
    run(
        &mut conn,
        "INSERT INTO robata.migrations (version, name) VALUES (99, 'later');
         ALTER TABLE robata.jobs ADD COLUMN later text; ALTER TABLE robata.workers ADD COLUMN later text"
            .into(),
    )
    .await?;
    let clock = Arc::new(AtomicI64::new(0));
    for how in [Migrate::Automatic, Migrate::Check] {
        let mut config = config(&database.url, &clock);
        config.migrate = how;
        let store = PostgresStore::connect(config).await?;
        store.check(std::time::Duration::from_secs(10)).await?;
    }
    let done = migrate(&database.url).await?;
    ensure!(done.version == 99 && done.applied.is_empty(), "{done:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_none_is_invalid_and_one_without_a_server_unavailable() -> Result<()> {
    let wrong = migrate("http://nowhere").await;
    ensure!(
        wrong.as_ref().is_err_and(|error| error.kind() == ErrorKind::Invalid),
        "{wrong:?}"
    );
    let nobody = migrate("postgres://robata:hush@127.0.0.1:1/robata").await;
    ensure!(
        nobody
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Unavailable && !error.full().contains("hush")),
        "{nobody:?}"
    );
    Ok(())
}

/// A backup reads all tables for as long as it takes: a migration that waits for one of them must not keep everybody else from
/// it meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_waits_for_a_table_keeps_nobody_else_from_it() -> Result<()> {
    let database = Database::migrated().await?;
    let mut conn = connect(&database.url).await?;
    run(
        &mut conn,
        "DELETE FROM robata.migrations WHERE version >= 4; ALTER TABLE robata.workers DROP COLUMN format;
         ALTER TABLE robata.start_requests DROP COLUMN format; DROP TABLE robata.masters;
         DELETE FROM robata.meta WHERE name = 'format'"
            .into(),
    )
    .await?;
    let mut backup = connect(&database.url).await?;
    run(
        &mut backup,
        "BEGIN; LOCK TABLE robata.workers IN ACCESS SHARE MODE".into(),
    )
    .await?;
    let url = database.url.clone();
    let migrating = tokio::spawn(async move { migrate(&url).await });
    let waits =
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until(
        "the migration waits for the table",
        Duration::from_secs(30),
        async || {
            let waits: bool = sqlx::query_scalar(waits)
                .fetch_one(&mut connect(&database.url).await?)
                .await?;
            Ok(waits.then_some(()))
        },
    )
    .await?;
    // As a heartbeat, of the release that runs.
    run(
        &mut conn,
        "SET lock_timeout = '20s'; UPDATE robata.workers SET seen_at = seen_at".into(),
    )
    .await?;
    ensure!(!migrating.is_finished(), "it did not wait");
    run(&mut backup, "COMMIT".into()).await?;
    let done = migrating.await??;
    ensure!(!done.applied.is_empty(), "{done:?}");
    Ok(())
}

//! Opening: folder, lock, migrations, the end of earlier leases, connections, the writer.

use std::{sync::Arc, time::Duration};

use log::LevelFilter;
use robata_core::{Error, ErrorKind, InstallationId};
use sqlx::{
    ConnectOptions as _, SqliteConnection, SqlitePool,
    sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::{Mutex, watch};

use crate::{
    catalog,
    config::SqliteConfig,
    error::{Fault, Result},
    folder::{self, FolderLock},
    format, pause,
    shared::Shared,
    sql::Read as _,
    tx::Tx,
    writer::{Connect, Writer},
};

/// How long SQLite waits for somebody else's lock (a backup, a shell) before it answers that it is busy.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a reader waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections on which scheduler and workers read.
const ENGINES: u32 = 2;
/// Readers' connections are closed after this time without use.
const READER_IDLE: Duration = Duration::from_secs(60);
/// Pages of write-ahead log (16 MiB) before it is copied into the database.
const CHECKPOINT_PAGES: u32 = 4_000;

/// An open store's parts.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) shared: Arc<Shared>,
    pub(crate) writer: Writer,
    pub(crate) readers: SqlitePool,
    /// The scheduler's and the workers' own, so that people's lists do not make them wait.
    pub(crate) engines: SqlitePool,
    /// Heartbeats' own, so that no list makes them wait (PROTOCOL H4).
    pub(crate) beats: Mutex<SqliteConnection>,
    /// True once the writer has ended and the lock is free.
    pub(crate) closed: watch::Receiver<bool>,
}

pub(crate) async fn open(config: SqliteConfig) -> Result<Opened, Error> {
    let wall = config.clock.wall();
    let (path, program) = (config.folder.clone(), config.program.clone());
    let lock = tokio::task::spawn_blocking(move || folder::lock(&path, &program, wall))
        .await
        .map_err(|error| {
            Error::new(ErrorKind::Internal, "store.open", "the lock was not taken").with_source(error)
        })??;
    connect(config, lock).await.map_err(|fault| {
        let error = fault.to_error("store.open");
        Error::new(error.kind(), "store.open", error.message())
    })
}

fn options(config: &SqliteConfig) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(folder::database(&config.folder))
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .statement_cache_capacity(256)
        .row_buffer_size(512)
        .log_statements(LevelFilter::Trace)
        .log_slow_statements(LevelFilter::Off, Duration::MAX)
}

fn writer_options(config: &SqliteConfig) -> SqliteConnectOptions {
    let options = options(config)
        .create_if_missing(true)
        .page_size(4096)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", format!("-{}", config.cache_kib))
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
        .pragma("journal_size_limit", (64 << 20).to_string())
        .pragma("temp_store", "memory");
    match config.max_pages {
        Some(pages) => options.pragma("max_page_count", pages.to_string()),
        None => options,
    }
}

async fn connect(config: SqliteConfig, lock: FolderLock) -> Result<Opened> {
    let writer_options = writer_options(&config);
    let conn = writer_options.clone().connect().await?;
    let mut conn = migrate(conn).await?;
    let installation = installation(&mut conn).await?;
    end_earlier_leases(&mut conn, &config).await?;
    let catalog = catalog::load(&mut conn).await?;
    let paused = pause::load(&mut conn).await?;
    let format = format::load(&mut conn).await?;
    let shared = Arc::new(Shared::new(
        installation,
        Arc::clone(&config.clock),
        config.default_executor.clone(),
        catalog,
        paused,
        format,
    ));

    let reading = options(&config).read_only(true).pragma("cache_size", "-4096");
    let pool = |connections: u32| {
        SqlitePoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(READER_IDLE)
            .test_before_acquire(false)
            .connect_lazy_with(reading.clone())
    };
    let (readers, engines) = (pool(config.readers.max(1)), pool(ENGINES));
    let beats = Mutex::new(reading.connect().await?);

    let ours = Arc::clone(&shared);
    let again: Connect = Box::new(move || {
        let (options, shared) = (writer_options.clone(), Arc::clone(&ours));
        Box::pin(async move { Tx::new(options.connect().await?, shared).await })
    });
    let tx = Tx::new(conn, Arc::clone(&shared)).await?;
    let (tell, closed) = watch::channel(false);
    let writer = Writer::start(tx, again, move || {
        drop(lock);
        tell.send_replace(true);
    })
    .map_err(sqlx::Error::Io)?;
    Ok(Opened {
        shared,
        writer,
        readers,
        engines,
        beats,
        closed,
    })
}

/// Brings the schema up to date; on a thread of its own, for the migrator's future is not `Send` for every lifetime.
async fn migrate(mut conn: SqliteConnection) -> Result<SqliteConnection> {
    let migrating = tokio::task::spawn_blocking(move || {
        futures::executor::block_on(async {
            // A newer release's schema is run over: migrations only add (PROTOCOL V1).
            let mut ours = sqlx::migrate!();
            ours.set_ignore_missing(true).run(&mut conn).await?;
            #[cfg(feature = "next-format")]
            sqlx::migrate!("./next").set_ignore_missing(true).run(&mut conn).await?;
            Ok(conn)
        })
    });
    migrating.await.map_err(|error| Fault::Panicked(error.to_string()))?
}

/// The installation's id, made once (PROTOCOL R2).
async fn installation(conn: &mut SqliteConnection) -> Result<InstallationId> {
    sqlx::query("INSERT OR IGNORE INTO meta (name, value) VALUES ('installation', ?)")
        .bind(InstallationId::new().to_string())
        .execute(&mut *conn)
        .await?;
    sqlx::query("SELECT value FROM meta WHERE name = 'installation'")
        .fetch_one(conn)
        .await?
        .word("value")
}

/// Taking the lock ends every earlier lease at once (PROTOCOL H4).
async fn end_earlier_leases(conn: &mut SqliteConnection, config: &SqliteConfig) -> Result<()> {
    sqlx::query("UPDATE workers SET ended_at = max(?, seen_at) WHERE ended_at IS NULL")
        .bind(config.clock.wall().as_millis())
        .execute(conn)
        .await?;
    Ok(())
}

impl Opened {
    /// Runs what waits, closes all connections and frees the lock.
    pub(crate) async fn close(&self) {
        self.writer.close();
        self.readers.close().await;
        self.engines.close().await;
        let mut closed = self.closed.clone();
        // The sender is gone only with the writer's thread: closed, too.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

#[cfg(test)]
mod tests {
    use robata_core::store::{AttemptStore as _, JobStore as _, ListJobs, ScheduleStore as _};

    use crate::{SqliteConfig, SqliteStore};

    #[tokio::test(flavor = "multi_thread")]
    async fn slow_lists_do_not_make_the_scheduler_and_the_workers_wait() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(SqliteConfig::new(folder.path())).await.unwrap();
        // As many lists as can be read at once, none of which comes to an end.
        let mut lists = Vec::new();
        for _ in 0..SqliteConfig::default().readers {
            lists.push(store.opened().readers.acquire().await.unwrap());
        }
        store.lines().await.unwrap();
        store.workers().await.unwrap();
        store.known(&[]).await.unwrap();
        assert!(futures::poll!(store.jobs(ListJobs::default())).is_pending());
        drop(lists);
        store.jobs(ListJobs::default()).await.unwrap();
        store.close().await;
    }
}

//! Opening: migrations, pools, the installation's id, the writers of groups, notifications.

use std::{sync::Arc, time::Duration};

use robata_core::{
    Error, InstallationId,
    attempt::{AttemptWrite, Written},
    job::{Enqueue, Enqueued},
    store::HEARTBEAT_TIMEOUT,
};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    config::{Listen, Migrate, PostgresConfig},
    db::{Db, How, Pool},
    direct::Session,
    enqueue,
    error::{Fault, Result, at_opening},
    group::Groups,
    migrate, notify, record,
    shared::Shared,
    sql::{Read as _, q},
};

/// Connections are closed after this time without use, so that an idle process holds few.
const IDLE: Duration = Duration::from_secs(60);

/// An open store's parts.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) db: Arc<Db>,
    pub(crate) enqueues: Groups<Enqueue, Vec<Result<Enqueued, Error>>>,
    pub(crate) records: Groups<Vec<AttemptWrite>, Vec<Result<Written, Error>>>,
}

fn pool(options: PgConnectOptions, connections: u32, acquire: Duration) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(acquire)
        .idle_timeout(IDLE)
        // A transaction's begin says it as well, without a round trip more.
        .test_before_acquire(false)
        .connect_lazy_with(options)
}

pub(crate) async fn connect(config: PostgresConfig) -> Result<Opened, Error> {
    let options = migrate::options(&config.url)?.application_name(&config.application_name);
    open(config, options, None).await
}

pub(crate) async fn from_pool(pool: PgPool, config: PostgresConfig) -> Result<Opened, Error> {
    let options = pool
        .connect_options()
        .as_ref()
        .clone()
        .extra_float_digits(None)
        .statement_cache_capacity(0);
    open(config, options, Some(pool)).await
}

/// With a pool that is there, whose connections stay as they are, or one of its own.
async fn open(config: PostgresConfig, options: PgConnectOptions, given: Option<PgPool>) -> Result<Opened, Error> {
    let listen_at = match &config.listen {
        Listen::Off => None,
        Listen::Same => Some(options.clone()),
        Listen::At(url) => Some(migrate::options(url)?.application_name(&config.application_name)),
    };
    let patience = config.connect_timeout;
    let ready = async {
        match config.migrate {
            Migrate::Automatic => migrate::run(&options, patience).await.map(drop)?,
            Migrate::Check => migrate::check(&options, patience).await?,
        }
        let session = Session::new(config.statement_timeout)?;
        // A heartbeat is given up after two seconds: its parts before that.
        let beat = Session::new(HEARTBEAT_TIMEOUT * 3 / 4)?;
        let direct = given.is_none() && session.reaches(&options, patience).await?;
        let own = |session: &Session, connections, acquire| {
            let options = if direct {
                session.options(&options)
            } else {
                options.clone()
            };
            pool(options, connections, acquire)
        };
        let main = Pool {
            connections: given.unwrap_or_else(|| own(&session, config.connections.max(1), patience)),
            session,
            direct,
        };
        let beats = Pool {
            connections: own(&beat, 1, beat.limit()),
            session: beat,
            direct,
        };
        let installation = installation(&main.connections).await?;
        Ok((main, beats, installation))
    };
    let (main, beats, installation) = ready.await.map_err(|fault: Fault| at_opening(&fault))?;
    let (shared, sending) = Shared::new(installation, config.default_executor.clone());
    let shared = Arc::new(shared);
    tokio::spawn(notify::send(sending, main.connections.clone(), shared.process));
    let writers = config.group_writers.clamp(
        1,
        (main.connections.options().get_max_connections() as usize).div_ceil(2),
    );
    let db = Arc::new(Db {
        main,
        beats,
        shared,
        clock_offset: config.clock_offset,
    });
    if let Some(options) = listen_at {
        let pool = move || pool(options.clone(), 1, patience);
        tokio::spawn(notify::listen(pool, Arc::downgrade(&db)));
    }
    Ok(Opened {
        enqueues: Groups::start(&db, How::again("store.enqueue").lines(), writers, |tx, requests| {
            Box::pin(enqueue::run(tx, requests))
        }),
        records: Groups::start(&db, How::again("store.record").lines(), writers, |tx, requests| {
            Box::pin(record::run(tx, requests))
        }),
        db,
    })
}

/// The installation's id, made once (PROTOCOL R2). In a transaction, without which a pooler may run a statement on another
/// connection than prepared it.
async fn installation(pool: &PgPool) -> Result<InstallationId> {
    let mut tx = pool.begin().await?;
    q("INSERT INTO robata.meta (name, value) VALUES ('installation', $1) ON CONFLICT DO NOTHING")
        .bind(InstallationId::new().to_string())
        .execute(&mut *tx)
        .await?;
    let installation = q("SELECT value FROM robata.meta WHERE name = 'installation'")
        .fetch_one(&mut *tx)
        .await?
        .word("value")?;
    tx.commit().await?;
    Ok(installation)
}

impl Opened {
    /// Lets what waits be done, and closes all connections.
    pub(crate) async fn close(&self) {
        let limit = self.db.main.session.limit() * 2;
        tokio::join!(self.enqueues.finish(limit), self.records.finish(limit));
        // It waits for connections in use, whose operations are bounded.
        tokio::join!(self.db.beats.connections.close(), self.db.main.connections.close());
    }
}

//! How operations reach the database: a transaction each, tried again where that is safe, bounded in time.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use robata_core::{Error, ErrorKind};
use sqlx::PgPool;
use tokio::time::{sleep, timeout};

use crate::{
    catalog,
    direct::Session,
    error::{Class, Fault, Result},
    format,
    shared::Shared,
    tx::Tx,
};

/// How often an operation is tried that was rolled back for another's sake.
const TRIES: u32 = 10;
/// How often one is tried whose connection broke.
const CONNECTIONS: u32 = 3;
/// How long a commit may take beyond its statement time-out.
const GRACE: Duration = Duration::from_secs(2);

/// One kind of operation: run again from its request where its transaction was rolled back.
pub(crate) type Work<R, T> = for<'a> fn(&'a mut Tx, &'a R) -> BoxFuture<'a, Result<T>>;

/// How an operation is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) operation: &'static str,
    /// Whether the same may be sent again where it is not known whether its commit took place.
    pub(crate) again: bool,
    /// Whether it must be on disk before it is answered. What is not may be undone by a crash of the server, in the order of
    /// the commits, and is then found and done again.
    pub(crate) durable: bool,
    pub(crate) read_only: bool,
    /// On the heartbeats' own connection, and within their time.
    pub(crate) beat: bool,
    /// Whether it puts jobs into lines or takes them out: then no change of the catalog commits meanwhile (PROTOCOL O1), nor of
    /// the limits by which it claims.
    pub(crate) lines: bool,
    /// Whether it goes by the format in use, which nobody changes meanwhile (PROTOCOL V1).
    pub(crate) format: bool,
}

impl How {
    /// A write that may not be sent twice.
    pub(crate) const fn once(operation: &'static str) -> Self {
        Self {
            operation,
            again: false,
            durable: true,
            read_only: false,
            beat: false,
            lines: false,
            format: false,
        }
    }

    /// A write that does nothing the second time.
    pub(crate) const fn again(operation: &'static str) -> Self {
        Self {
            again: true,
            ..Self::once(operation)
        }
    }

    /// A write whose loss in a crash of the server would be found.
    pub(crate) const fn light(operation: &'static str) -> Self {
        Self {
            durable: false,
            ..Self::again(operation)
        }
    }

    /// A look.
    pub(crate) const fn read(operation: &'static str) -> Self {
        Self {
            read_only: true,
            ..Self::again(operation)
        }
    }

    /// One that puts jobs into lines by the catalog.
    pub(crate) const fn lines(self) -> Self {
        Self { lines: true, ..self }
    }

    /// One that goes by the format in use.
    pub(crate) const fn format(self) -> Self {
        Self { format: true, ..self }
    }

    pub(crate) const fn beat(self) -> Self {
        Self { beat: true, ..self }
    }
}

/// Connections, and what the server is to know of each.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) connections: PgPool,
    pub(crate) session: Session,
    /// Whether the connections keep the session's settings; else each transaction sets them.
    pub(crate) direct: bool,
}

/// The way to the database.
#[derive(Debug)]
pub(crate) struct Db {
    pub(crate) main: Pool,
    /// Heartbeats' own, so that nothing makes them wait (PROTOCOL H4).
    pub(crate) beats: Pool,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock_offset: Option<Arc<AtomicI64>>,
}

impl Db {
    /// Runs an operation on a task of its own: a caller that goes away breaks nothing off.
    pub(crate) async fn run<R, T>(self: &Arc<Self>, how: How, request: R, work: Work<R, T>) -> Result<T, Error>
    where
        R: Send + Sync + 'static,
        T: Send + 'static,
    {
        let db = Arc::clone(self);
        let task = tokio::spawn(async move { db.attempt(how, &request, work).await });
        match task.await {
            Ok(result) => result.map_err(|fault| fault.to_error(how.operation)),
            Err(error) => Err(Error::new(
                ErrorKind::Unavailable,
                how.operation,
                format!("the store was ended: {error}"),
            )),
        }
    }

    /// Runs an operation, again where that is safe.
    pub(crate) async fn attempt<R, T>(&self, how: How, request: &R, work: Work<R, T>) -> Result<T>
    where
        R: Send + Sync,
    {
        let (mut tries, mut connections, mut maybe_done) = (0, 0, false);
        loop {
            let fault = match AssertUnwindSafe(self.once(how, request, work, maybe_done))
                .catch_unwind()
                .await
            {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(fault)) => fault,
                // A panic is the fault of one request; its transaction's connection was closed with it.
                Err(panic) => Fault::Panicked(words(panic.as_ref())),
            };
            let again = match &fault {
                Fault::CommitUnknown(_) => {
                    connections += 1;
                    maybe_done = true;
                    how.again && connections < CONNECTIONS
                }
                fault => match fault.class() {
                    Class::Again => {
                        tries += 1;
                        tries < TRIES
                    }
                    // It broke before the commit was sent: rolled back.
                    Class::Connection => {
                        connections += 1;
                        connections < CONNECTIONS
                    }
                    _ => false,
                },
            };
            if !again {
                return Err(fault);
            }
            tracing::debug!(operation = how.operation, error = %fault, "tried again");
            let step = if connections > 0 { 50 } else { 4 };
            let chance = u64::from(getrandom::u32().map_err(Fault::Random)?) % (step * u64::from(tries + connections));
            sleep(Duration::from_millis(1 + chance)).await;
        }
    }

    async fn once<R, T>(&self, how: How, request: &R, work: Work<R, T>, maybe_done: bool) -> Result<T>
    where
        R: Send + Sync,
    {
        let limit = self.pool(how).session.limit();
        let mut tx = self.begin(how).await?;
        tx.maybe_done = maybe_done;
        // Each statement is bounded by the server; a server or a way to it that hangs, by this.
        let done = match timeout(limit * 2, work(&mut tx, request)).await {
            Ok(done) => done,
            Err(_) => Err(Fault::Slow(limit * 2)),
        };
        match done {
            Ok(answer) => {
                tx.commit(limit + GRACE).await?;
                Ok(answer)
            }
            Err(fault) => {
                tx.roll_back(&fault, limit).await;
                Err(fault)
            }
        }
    }

    fn pool(&self, how: How) -> &Pool {
        if how.beat { &self.beats } else { &self.main }
    }

    /// Begins a transaction. Nothing was sent before, so that a pool full of connections to a server that was restarted
    /// since is gone through until one serves.
    async fn begin(&self, how: How) -> Result<Tx> {
        let pool = self.pool(how);
        let limit = pool.session.limit();
        let mut text = if how.read_only {
            // A look sees one moment, however many statements it takes.
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; ".to_owned()
        } else {
            "BEGIN; ".to_owned()
        };
        if !pool.direct {
            text.push_str(&pool.session.local());
        }
        if !how.durable {
            text.push_str("SET LOCAL synchronous_commit = off; ");
        }
        if let Some(offset) = &self.clock_offset {
            text.push_str(&format!(
                "SET LOCAL robata.clock_offset = '{}'; ",
                offset.load(Ordering::SeqCst)
            ));
        }
        if how.lines {
            text.push_str(catalog::SHARE);
        }
        if how.format {
            text.push_str(format::SHARE);
        }
        text.push_str(
            "SELECT robata.millis() AS now, current_setting('robata.direct', true) AS mark,
                    (SELECT value FROM robata.meta WHERE name = 'catalog_revision') AS revision",
        );
        if how.format {
            text.push_str(", (SELECT value FROM robata.meta WHERE name = 'format') AS format");
        }
        let mut left = pool.connections.options().get_max_connections() + 1;
        loop {
            let conn = pool.connections.acquire().await?;
            let fault = match timeout(limit, Tx::begin(conn, &self.shared, pool, how, &text)).await {
                Ok(Ok(tx)) => return Ok(tx),
                Ok(Err(fault)) => fault,
                Err(_) => Fault::Slow(limit),
            };
            left -= 1;
            if fault.class() != Class::Connection || left == 0 {
                return Err(fault);
            }
        }
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

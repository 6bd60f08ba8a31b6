//! The writer's transaction: its connection, its time, and what must follow from its commit.

use std::{sync::Arc, time::Duration};

use robata_core::{
    ErrorKind, ExecutorName, Format, IncarnationId, Timestamp,
    definition::Catalog,
    row::{Deed, Tally, Transaction},
    store::{Hint, Register},
};
use sqlx::{Row as _, SqliteConnection};

use crate::{
    error::{Result, refused},
    pause::Paused,
    shared::Shared,
    sql::{Inserts, Read as _},
};

/// One transaction after another over the writer's connection.
pub(crate) struct Tx {
    pub(crate) conn: SqliteConnection,
    pub(crate) shared: Arc<Shared>,
    /// The catalog as this transaction sees it.
    pub(crate) catalog: Arc<Catalog>,
    /// The paused queues as this transaction sees them.
    pub(crate) paused: Arc<Paused>,
    /// The wall clock at the transaction's begin.
    pub(crate) now: Timestamp,
    /// The boot-time clock at the transaction's begin.
    pub(crate) boot: Duration,
    /// The format in use as this transaction sees it.
    pub(crate) format: Format,
    /// The next job's place in the order of storing.
    pub(crate) next_seq: i64,
    /// The next attempt's.
    pub(crate) next_attempt: i64,
    pub(crate) inserts: Inserts,
    pub(crate) tally: Tally,
    after: Vec<After>,
}

/// What happens in memory once the transaction is committed.
pub(crate) enum After {
    Catalog(Arc<Catalog>),
    Paused(Arc<Paused>),
    Draining(IncarnationId),
    Registered(Register),
    Format(Format),
    Marked,
}

impl Tx {
    pub(crate) async fn new(mut conn: SqliteConnection, shared: Arc<Shared>) -> Result<Self> {
        let row = sqlx::query(
            "SELECT (SELECT coalesce(max(seq), 0) FROM jobs), (SELECT coalesce(max(seq), 0) FROM attempts)",
        )
        .fetch_one(&mut conn)
        .await?;
        let (job, attempt): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        Ok(Self {
            conn,
            catalog: shared.catalog(),
            paused: shared.paused(),
            now: shared.wall(),
            boot: shared.boot(),
            format: shared.format.get(),
            shared,
            next_seq: job + 1,
            next_attempt: attempt + 1,
            inserts: Inserts::default(),
            tally: Tally::default(),
            after: Vec::new(),
        })
    }

    pub(crate) async fn begin(&mut self) -> Result<()> {
        self.forget();
        self.now = self.shared.wall();
        self.boot = self.shared.boot();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut self.conn).await?;
        Ok(())
    }

    /// Commits, then lets the world know.
    pub(crate) async fn commit(&mut self) -> Result<()> {
        self.write_counts().await?;
        self.find_freed_lines().await?;
        sqlx::query("COMMIT").execute(&mut self.conn).await?;
        for after in std::mem::take(&mut self.after) {
            match after {
                After::Catalog(catalog) => self.shared.set_catalog(catalog),
                After::Paused(paused) => self.shared.set_paused(paused),
                After::Draining(id) => self.shared.leases().drain(id),
                After::Registered(request) => {
                    self.shared.leases().begin(&request, self.boot, self.now);
                }
                After::Format(format) => self.shared.format.set(format),
                After::Marked => self.shared.leases().mark(self.boot),
            }
        }
        for hint in self.tally.take_hints() {
            // Nobody listens: nobody needs it.
            let _ = self.shared.hints.send(hint);
        }
        Ok(())
    }

    /// Undoes everything.
    pub(crate) async fn roll_back(&mut self) -> Result<()> {
        self.forget();
        // SQLite rolls back by itself on some errors (https://www.sqlite.org/lang_transaction.html); then this one fails.
        match sqlx::query("ROLLBACK").execute(&mut self.conn).await {
            Err(sqlx::Error::Database(error)) if error.message().contains("no transaction is active") => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }

    fn forget(&mut self) {
        self.catalog = self.shared.catalog();
        self.paused = self.shared.paused();
        self.format = self.shared.format.get();
        self.tally = Tally::default();
        self.after.clear();
    }

    async fn write_counts(&mut self) -> Result<()> {
        for (line, counts) in self.tally.take_counts() {
            sqlx::query(
                "INSERT INTO counters (queue, executor, scheduled, queued, running, out) VALUES (?, ?, ?, ?, ?, ?)
                 ON CONFLICT DO UPDATE SET scheduled = scheduled + excluded.scheduled, queued = queued + excluded.queued,
                     running = running + excluded.running, out = out + excluded.out",
            )
            .bind(line.queue.as_str())
            .bind(line.executor.as_str())
            .bind(counts.scheduled)
            .bind(counts.queued)
            .bind(counts.running)
            .bind(counts.out)
            .execute(&mut self.conn)
            .await?;
        }
        Ok(())
    }

    async fn find_freed_lines(&mut self) -> Result<()> {
        if !self.tally.take_freed() {
            return Ok(());
        }
        let rows = sqlx::query("SELECT queue, executor FROM counters WHERE queued > out")
            .fetch_all(&mut self.conn)
            .await?;
        for row in rows {
            self.tally.hint(Hint::Line(row.line()?));
        }
        Ok(())
    }

    /// Notes who did what.
    pub(crate) async fn audit(&mut self, by: &str, deed: &Deed) -> Result<()> {
        sqlx::query("INSERT INTO audit (at, by, action, app, name, job_id) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(self.now.as_millis())
            .bind(by)
            .bind(deed.action)
            .bind(deed.app.as_ref().map(|app| app.as_str()))
            .bind(deed.name.as_deref())
            .bind(deed.job.as_ref().map(|job| &job.as_bytes()[..]))
            .execute(&mut self.conn)
            .await?;
        Ok(())
    }

    /// Does this in memory after the commit.
    pub(crate) fn after(&mut self, after: After) {
        self.after.push(after);
    }

    /// The formats of those who register in this transaction.
    pub(crate) fn registering(&self) -> impl Iterator<Item = Format> {
        self.after.iter().filter_map(|after| match after {
            After::Registered(request) => Some(request.format),
            _ => None,
        })
    }

    /// Refuses an incarnation whose lease has ended.
    pub(crate) fn fence(&self, id: IncarnationId, operation: &'static str) -> Result<()> {
        fence(&self.shared, id, operation)
    }
}

impl Transaction for Tx {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn default_executor(&self) -> Option<&ExecutorName> {
        self.shared.default_executor.as_ref()
    }

    fn format(&self) -> Format {
        self.format
    }

    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }
}

/// Refuses an incarnation whose lease has ended.
pub(crate) fn fence(shared: &Shared, id: IncarnationId, operation: &'static str) -> Result<()> {
    if shared.leases().is_live(id) {
        return Ok(());
    }
    let message = format!("the lease of incarnation {id} has ended; go on as a new one");
    Err(refused(ErrorKind::Fenced, operation, message))
}

//! A transaction: its connection, its time, and what must follow from its commit.

use std::{sync::Arc, time::Duration};

use robata_core::{
    ExecutorName, Format, Timestamp,
    definition::Catalog,
    row::{Counts, Deed, Tally, Transaction},
    store::Hint,
};
use sqlx::{AssertSqlSafe, Postgres, Row as _, pool::PoolConnection};
use tokio::time::timeout;

use crate::{
    catalog,
    conn::Conn,
    db::{How, Pool},
    error::{Fault, Result},
    format,
    shared::Shared,
    sql::{Read as _, q, text},
};

/// One transaction.
pub(crate) struct Tx {
    conn: Conn,
    /// Neither committed nor rolled back: the connection must not be used by anybody else.
    open: bool,
    /// An earlier try's commit may have taken place: what is found with its own ids is its own.
    pub(crate) maybe_done: bool,
    pub(crate) shared: Arc<Shared>,
    /// The catalog at the transaction's begin.
    pub(crate) catalog: Arc<Catalog>,
    /// The store's clock at the transaction's begin.
    pub(crate) now: Timestamp,
    /// The format in use; where the operation goes by it, as it stays until the commit.
    pub(crate) format: Format,
    pub(crate) tally: Tally,
    after: Vec<After>,
}

/// What happens in memory once the transaction is committed.
pub(crate) enum After {
    Catalog(Arc<Catalog>),
    /// Workers or pauses have changed.
    Colours,
    /// The format in use as it was seen or put.
    Format(Format),
}

impl Drop for Tx {
    fn drop(&mut self) {
        if self.open {
            // Dropped on the way (a panic, a server that hangs): the server rolls back when the connection closes.
            self.conn.close_on_drop();
        }
    }
}

impl Tx {
    /// Begins with `text`, one round trip, whose last row tells the time, the session's mark and the catalog's revision.
    pub(crate) async fn begin(
        conn: PoolConnection<Postgres>,
        shared: &Arc<Shared>,
        pool: &Pool,
        how: How,
        text: &str,
    ) -> Result<Self> {
        let mut tx = Self {
            conn: Conn::new(conn),
            open: true,
            maybe_done: false,
            catalog: shared.catalog(),
            shared: Arc::clone(shared),
            now: Timestamp::default(),
            format: shared.format.get(),
            tally: Tally::default(),
            after: Vec::new(),
        };
        let mut rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(tx.conn()).await?;
        let row = rows.pop().ok_or(sqlx::Error::RowNotFound)?;
        tx.now = row.time("now")?;
        if pool.session.is_here(row.try_get("mark")?) {
            tx.conn.name_statements();
        } else if pool.direct {
            // The address leads through a pooler now that leaves startup options out.
            let local = pool.session.local();
            sqlx::raw_sql(AssertSqlSafe(local)).execute(tx.conn()).await?;
        }
        if how.format {
            tx.format = format::read(&row)?;
            tx.after(After::Format(tx.format));
        }
        let revision: &str = row.try_get("revision")?;
        // Heartbeats and marks go by no catalog, and must not fail with one that only a later release reads.
        if !how.beat && revision.parse() != Ok(tx.catalog.revision) {
            let catalog = Arc::new(catalog::load(&mut tx.conn).await?);
            tx.shared.set_catalog(Arc::clone(&catalog));
            tx.catalog = catalog;
        }
        Ok(tx)
    }

    pub(crate) fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// Commits within `limit`, then lets the world know.
    pub(crate) async fn commit(mut self, limit: Duration) -> Result<()> {
        let before = async {
            self.write_counts().await?;
            self.find_freed_lines().await
        };
        match timeout(limit, before).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => {
                self.roll_back(&fault, limit).await;
                return Err(fault);
            }
            Err(_) => return Err(Fault::Slow(limit)),
        }
        let done = timeout(limit, sqlx::raw_sql("COMMIT").execute(&mut self.conn)).await;
        match done {
            Ok(Ok(_)) => {}
            // The server refused the commit: rolled back, and said so. A connection's end says nothing.
            Ok(Err(sqlx::Error::Database(error))) => {
                let fault = Fault::Sql(sqlx::Error::Database(error));
                return Err(match fault.class() {
                    crate::error::Class::Connection => Fault::CommitUnknown(Box::new(fault)),
                    _ => fault,
                });
            }
            Ok(Err(error)) => return Err(Fault::CommitUnknown(Box::new(error.into()))),
            Err(_) => return Err(Fault::CommitUnknown(Box::new(Fault::Slow(limit)))),
        }
        self.open = false;
        for after in std::mem::take(&mut self.after) {
            match after {
                After::Catalog(catalog) => self.shared.set_catalog(catalog),
                After::Colours => self.shared.set_colours(None),
                After::Format(format) => self.shared.format.set(format),
            }
        }
        let hints = self.tally.take_hints();
        self.shared.tell(hints);
        Ok(())
    }

    /// Undoes everything; a connection that cannot is closed.
    pub(crate) async fn roll_back(mut self, fault: &Fault, limit: Duration) {
        if matches!(fault, Fault::Slow(_)) || fault.class() == crate::error::Class::Connection || fault.is_stale_plan()
        {
            return;
        }
        let done = timeout(limit, sqlx::raw_sql("ROLLBACK").execute(&mut self.conn)).await;
        self.open = !matches!(done, Ok(Ok(_)));
    }

    async fn write_counts(&mut self) -> Result<()> {
        let counts = self.tally.take_counts();
        if counts.is_empty() {
            return Ok(());
        }
        let each = |of: fn(&Counts) -> i64| counts.iter().map(|(_, counts)| of(counts)).collect::<Vec<_>>();
        let queues: Vec<_> = counts.iter().map(|(line, _)| line.queue.as_str()).collect();
        let executors: Vec<_> = counts.iter().map(|(line, _)| line.executor.as_str()).collect();
        // In the order of the lines, so that no two transactions wait for each other.
        q(
            "INSERT INTO robata.counters AS c (queue, executor, shard, scheduled, queued, running, out)
           SELECT v.queue, v.executor, $3, v.scheduled, v.queued, v.running, v.out
           FROM unnest($1::text[], $2::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
                AS v (queue, executor, scheduled, queued, running, out) ORDER BY v.queue, v.executor
           ON CONFLICT (queue, executor, shard) DO UPDATE SET scheduled = c.scheduled + excluded.scheduled,
               queued = c.queued + excluded.queued, running = c.running + excluded.running, out = c.out + excluded.out",
        )
        .bind(queues)
        .bind(executors)
        .bind(self.shared.next_shard())
        .bind(each(|counts| counts.scheduled))
        .bind(each(|counts| counts.queued))
        .bind(each(|counts| counts.running))
        .bind(each(|counts| counts.out))
        .execute(&mut self.conn)
        .await?;
        Ok(())
    }

    async fn find_freed_lines(&mut self) -> Result<()> {
        if !self.tally.take_freed() {
            return Ok(());
        }
        let rows =
            q("SELECT queue, executor FROM robata.counters GROUP BY queue, executor HAVING sum(queued) > sum(out)")
                .fetch_all(&mut self.conn)
                .await?;
        for row in rows {
            self.tally.hint(Hint::Line(row.line()?));
        }
        Ok(())
    }

    /// Notes who did what.
    pub(crate) async fn audit(&mut self, by: &str, deed: &Deed) -> Result<()> {
        q("INSERT INTO robata.audit (at, by, action, app, name, job_id) VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(self.now.as_millis())
            .bind(text(by))
            .bind(deed.action)
            .bind(deed.app.as_ref().map(|app| app.as_str()))
            .bind(deed.name.as_deref().map(text))
            .bind(deed.job.map(|job| job.uuid()))
            .execute(&mut self.conn)
            .await?;
        Ok(())
    }

    /// Does this in memory after the commit.
    pub(crate) fn after(&mut self, after: After) {
        self.after.push(after);
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

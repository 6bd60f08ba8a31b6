//! A transaction: its connection, its time, and what must follow from its commit.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use robata_core::{AttemptId, JobId, JobState, Timestamp, definition::Catalog, job::Line, store::Hint};
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row as _, pool::PoolConnection};
use tokio::time::timeout;

use crate::{
    catalog,
    error::{Fault, Result},
    shared::Shared,
    sql::{Read as _, q, text},
};

/// One transaction.
pub(crate) struct Tx {
    conn: PoolConnection<Postgres>,
    /// Neither committed nor rolled back: the connection must not be used by anybody else.
    open: bool,
    /// An earlier try's commit may have taken place: what is found with its own ids is its own.
    pub(crate) maybe_done: bool,
    pub(crate) shared: Arc<Shared>,
    /// The catalog at the transaction's begin.
    pub(crate) catalog: Arc<Catalog>,
    /// The store's clock at the transaction's begin.
    pub(crate) now: Timestamp,
    counts: BTreeMap<Line, Counts>,
    hints: Vec<Hint>,
    lines: HashSet<Line>,
    slot_freed: bool,
    after: Vec<After>,
}

/// What happens in memory once the transaction is committed.
pub(crate) enum After {
    Catalog(Arc<Catalog>),
    /// Workers or pauses have changed.
    Colours,
}

/// Changes of a line's counts.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    scheduled: i64,
    queued: i64,
    running: i64,
    out: i64,
}

impl Counts {
    fn of(&mut self, state: JobState) -> Option<&mut i64> {
        match state {
            JobState::Scheduled => Some(&mut self.scheduled),
            JobState::Queued => Some(&mut self.queued),
            JobState::Running => Some(&mut self.running),
            _ => None,
        }
    }

    fn is_zero(self) -> bool {
        [self.scheduled, self.queued, self.running, self.out] == [0; 4]
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if self.open {
            // Dropped on the way (a reader that went away, a panic): the server rolls back when the connection closes.
            self.conn.close_on_drop();
        }
    }
}

impl Tx {
    /// Begins with `text`, one round trip, whose last row tells the time and the catalog's revision.
    pub(crate) async fn begin(conn: PoolConnection<Postgres>, shared: &Arc<Shared>, text: &str) -> Result<Self> {
        let mut tx = Self {
            conn,
            open: true,
            maybe_done: false,
            catalog: shared.catalog(),
            shared: Arc::clone(shared),
            now: Timestamp::default(),
            counts: BTreeMap::new(),
            hints: Vec::new(),
            lines: HashSet::new(),
            slot_freed: false,
            after: Vec::new(),
        };
        let mut rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut *tx.conn).await?;
        let row = rows.pop().ok_or(sqlx::Error::RowNotFound)?;
        tx.now = row.time("now")?;
        let revision: &str = row.try_get("revision")?;
        if revision.parse() != Ok(tx.catalog.revision) {
            let catalog = Arc::new(catalog::load(&mut tx.conn).await?);
            tx.shared.set_catalog(Arc::clone(&catalog));
            tx.catalog = catalog;
        }
        Ok(tx)
    }

    pub(crate) fn conn(&mut self) -> &mut PgConnection {
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
        let done = timeout(limit, sqlx::raw_sql("COMMIT").execute(&mut *self.conn)).await;
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
            }
        }
        let lines = std::mem::take(&mut self.lines).into_iter().map(Hint::Line);
        let hints = lines.chain(std::mem::take(&mut self.hints)).collect();
        self.shared.tell(hints);
        Ok(())
    }

    /// Undoes everything; a connection that cannot is closed.
    pub(crate) async fn roll_back(mut self, fault: &Fault, limit: Duration) {
        if matches!(fault, Fault::Slow(_)) || fault.class() == crate::error::Class::Connection {
            return;
        }
        let done = timeout(limit, sqlx::raw_sql("ROLLBACK").execute(&mut *self.conn)).await;
        self.open = !matches!(done, Ok(Ok(_)));
    }

    /// Notes what a job's move does to its line's counts.
    pub(crate) fn count(&mut self, line: &Line, from: Option<JobState>, to: Option<JobState>) {
        self.count_many(line, from, to, 1);
    }

    /// The same for `n` jobs.
    pub(crate) fn count_many(&mut self, line: &Line, from: Option<JobState>, to: Option<JobState>, n: i64) {
        let counts = self.line_counts(line);
        if let Some(count) = from.and_then(|state| counts.of(state)) {
            *count -= n;
        }
        if let Some(count) = to.and_then(|state| counts.of(state)) {
            *count += n;
        }
    }

    /// Notes that so many more (or less) of a line's jobs are out.
    pub(crate) fn count_out(&mut self, line: &Line, n: i64) {
        if n != 0 {
            self.line_counts(line).out += n;
        }
    }

    fn line_counts(&mut self, line: &Line) -> &mut Counts {
        if !self.counts.contains_key(line) {
            self.counts.insert(line.clone(), Counts::default());
        }
        self.counts.get_mut(line).expect("it was just made")
    }

    async fn write_counts(&mut self) -> Result<()> {
        let counts = std::mem::take(&mut self.counts);
        let counts: Vec<_> = counts.iter().filter(|(_, counts)| !counts.is_zero()).collect();
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
        .execute(&mut *self.conn)
        .await?;
        Ok(())
    }

    /// Tells after the commit.
    pub(crate) fn hint(&mut self, hint: Hint) {
        match hint {
            Hint::Line(line) => {
                self.lines.insert(line);
            }
            other if self.hints.last() == Some(&other) => {}
            other => self.hints.push(other),
        }
    }

    pub(crate) fn hint_job(&mut self, job: JobId) {
        self.hint(Hint::Job(job));
    }

    pub(crate) fn hint_attempt(&mut self, attempt: AttemptId) {
        self.hint(Hint::Attempt(attempt));
    }

    /// Notes that a slot of a `max_running` has become free: every line with something that waits may have a use for it.
    pub(crate) fn free_slot(&mut self) {
        self.slot_freed = true;
    }

    async fn find_freed_lines(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.slot_freed) {
            return Ok(());
        }
        let rows =
            q("SELECT queue, executor FROM robata.counters GROUP BY queue, executor HAVING sum(queued) > sum(out)")
                .fetch_all(&mut *self.conn)
                .await?;
        for row in rows {
            self.lines.insert(row.line()?);
        }
        Ok(())
    }

    /// Notes who did what to what, for operators' acts that are about no job.
    pub(crate) async fn audit(&mut self, by: &str, action: &str, name: &str) -> Result<()> {
        q("INSERT INTO robata.audit (at, by, action, name) VALUES ($1, $2, $3, $4)")
            .bind(self.now.as_millis())
            .bind(text(by))
            .bind(action)
            .bind(text(name))
            .execute(&mut *self.conn)
            .await?;
        Ok(())
    }

    /// Does this in memory after the commit.
    pub(crate) fn after(&mut self, after: After) {
        self.after.push(after);
    }

    /// A stamp for a row that has an earlier one: never before it (PROTOCOL T1).
    pub(crate) fn stamp(&self, earlier: Timestamp) -> Timestamp {
        self.now.max(earlier)
    }
}

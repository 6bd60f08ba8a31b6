//! The writer's transaction: its connection, its time, and what must follow from its commit.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use robata_core::{
    AttemptId, ErrorKind, IncarnationId, JobId, JobState, Timestamp,
    definition::Catalog,
    job::Line,
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
    /// The next job's place in the order of storing.
    pub(crate) next_seq: i64,
    /// The next attempt's.
    pub(crate) next_attempt: i64,
    pub(crate) inserts: Inserts,
    counts: BTreeMap<Line, Counts>,
    hints: Vec<Hint>,
    lines: HashSet<Line>,
    slot_freed: bool,
    after: Vec<After>,
}

/// What happens in memory once the transaction is committed.
pub(crate) enum After {
    Catalog(Arc<Catalog>),
    Paused(Arc<Paused>),
    Draining(IncarnationId),
    Registered(Register),
    Marked,
}

/// Changes of a line's counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) scheduled: i64,
    pub(crate) queued: i64,
    pub(crate) running: i64,
    pub(crate) out: i64,
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
            shared,
            next_seq: job + 1,
            next_attempt: attempt + 1,
            inserts: Inserts::default(),
            counts: BTreeMap::new(),
            hints: Vec::new(),
            lines: HashSet::new(),
            slot_freed: false,
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
                After::Marked => self.shared.leases().mark(self.boot),
            }
        }
        let lines = std::mem::take(&mut self.lines).into_iter().map(Hint::Line);
        for hint in lines.chain(std::mem::take(&mut self.hints)) {
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
        self.counts.clear();
        self.hints.clear();
        self.lines.clear();
        self.after.clear();
        self.slot_freed = false;
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
        for (line, counts) in std::mem::take(&mut self.counts) {
            if counts.is_zero() {
                continue;
            }
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
        let rows = sqlx::query("SELECT queue, executor FROM counters WHERE queued > out")
            .fetch_all(&mut self.conn)
            .await?;
        for row in rows {
            self.lines.insert(line(&row)?);
        }
        Ok(())
    }

    /// Notes who did what to what, for operators' acts that are about no job.
    pub(crate) async fn audit(&mut self, by: &str, action: &str, name: &str) -> Result<()> {
        sqlx::query("INSERT INTO audit (at, by, action, name) VALUES (?, ?, ?, ?)")
            .bind(self.now.as_millis())
            .bind(by)
            .bind(action)
            .bind(name)
            .execute(&mut self.conn)
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

    /// Refuses an incarnation whose lease has ended.
    pub(crate) fn fence(&self, id: IncarnationId, operation: &'static str) -> Result<()> {
        fence(&self.shared, id, operation)
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

/// A row's line.
pub(crate) fn line(row: &sqlx::sqlite::SqliteRow) -> Result<Line> {
    Ok(Line {
        queue: row.word("queue")?,
        executor: row.word("executor")?,
    })
}

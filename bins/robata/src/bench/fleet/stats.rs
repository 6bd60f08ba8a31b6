//! Where the time goes: what PostgreSQL counts of the bench's database, and what the kernel counts of each process.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use sqlx::{PgPool, Row as _};

use super::crew::Crew;
use crate::bench::proc;

/// A server process tells what it counted at most once a second (pgstat's own rhythm).
const TOLD_WITHIN: Duration = Duration::from_millis(1_200);
/// Statements that are told by name.
const NAMED: usize = 6;
/// How much of a statement is told.
const WORDS: usize = 48;

/// Counts at one moment.
#[derive(Clone, Debug)]
struct Reading {
    at: Instant,
    transactions: i64,
    /// Calls and milliseconds of each statement; where the server has `pg_stat_statements`.
    statements: Option<BTreeMap<String, (i64, f64)>>,
    /// CPU time by kind of process.
    cpu: BTreeMap<&'static str, Duration>,
}

/// Counts from one moment on.
#[derive(Debug)]
pub(super) struct Meter {
    pool: PgPool,
    begin: Reading,
}

/// What was used for some jobs.
#[derive(Debug)]
pub(super) struct Used {
    jobs: f64,
    elapsed: Duration,
    /// A job.
    pub(super) transactions: f64,
    /// A job; where the server counts them.
    pub(super) statements: Option<f64>,
    /// A job, in milliseconds.
    pub(super) database_millis: Option<f64>,
    /// By statement, the most expensive first: words and milliseconds.
    named: Vec<(String, f64)>,
    cpu: BTreeMap<&'static str, Duration>,
}

impl Meter {
    /// Begins to count. The pool has a single connection to the bench's own database.
    pub(super) async fn begin(pool: PgPool, crew: &Crew) -> anyhow::Result<Self> {
        // Only a server that loads it at its start has it, and only some roles may add it to a database: fine without.
        let _ = sqlx::query("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            .execute(&pool)
            .await;
        tokio::time::sleep(TOLD_WITHIN).await;
        let begin = read(&pool, crew).await?;
        Ok(Self { pool, begin })
    }

    /// What was used since, for so many jobs.
    pub(super) async fn end(self, crew: &Crew, jobs: u32) -> anyhow::Result<Used> {
        let at = Instant::now();
        let cpu = cpu(&self.pool, crew).await?;
        tokio::time::sleep(TOLD_WITHIN).await;
        let end = Reading {
            at,
            cpu,
            ..read(&self.pool, crew).await?
        };
        self.pool.close().await;
        Ok(Used::between(&self.begin, &end, jobs))
    }
}

impl Used {
    #[expect(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^52")]
    fn between(begin: &Reading, end: &Reading, jobs: u32) -> Self {
        let jobs = f64::from(jobs.max(1));
        let (mut calls, mut millis, mut named) = (0, 0.0, Vec::new());
        if let (Some(before), Some(after)) = (&begin.statements, &end.statements) {
            for (words, (more_calls, more_millis)) in after {
                let (calls_before, millis_before) = before.get(words).copied().unwrap_or_default();
                calls += more_calls - calls_before;
                millis += more_millis - millis_before;
                named.push((words.clone(), more_millis - millis_before));
            }
        }
        named.sort_by(|a, b| b.1.total_cmp(&a.1));
        named.truncate(NAMED);
        let counted = begin.statements.is_some() && end.statements.is_some();
        let used = end.cpu.iter().map(|(kind, time)| {
            let before = begin.cpu.get(kind).copied().unwrap_or_default();
            (*kind, time.saturating_sub(before))
        });
        Self {
            jobs,
            elapsed: end.at - begin.at,
            transactions: (end.transactions - begin.transactions) as f64 / jobs,
            statements: counted.then_some(calls as f64 / jobs),
            database_millis: counted.then_some(millis / jobs),
            named,
            cpu: used.collect(),
        }
    }

    /// Statements a job, or transactions where the server does not count statements; and which of them it is.
    pub(super) fn traffic(&self) -> (f64, &'static str) {
        match self.statements {
            Some(statements) => (statements, "statements"),
            None => (self.transactions, "transactions"),
        }
    }

    /// The most expensive statements, in words.
    pub(super) fn by_statement(&self) -> String {
        let all = self.database_millis.unwrap_or_default() * self.jobs;
        let named = self
            .named
            .iter()
            .map(|(words, millis)| format!("{words} {:.0} %", millis / all.max(f64::MIN_POSITIVE) * 100.0));
        named.collect::<Vec<_>>().join(", ")
    }

    /// CPU time of each kind of process: microseconds a job, and the part of a core.
    pub(super) fn by_process(&self) -> String {
        let each = self.cpu.iter().map(|(kind, time)| {
            format!(
                "{kind} {:.0} µs a job ({:.0} % of a core)",
                time.as_secs_f64() * 1e6 / self.jobs,
                time.as_secs_f64() / self.elapsed.as_secs_f64() * 100.0
            )
        });
        each.collect::<Vec<_>>().join(", ")
    }

    /// All CPU time, in microseconds a job.
    pub(super) fn cpu_micros(&self) -> f64 {
        let all: Duration = self.cpu.values().sum();
        all.as_secs_f64() * 1e6 / self.jobs
    }
}

async fn read(pool: &PgPool, crew: &Crew) -> anyhow::Result<Reading> {
    let transactions: i64 =
        sqlx::query_scalar("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
            .fetch_one(pool)
            .await?;
    Ok(Reading {
        at: Instant::now(),
        transactions,
        statements: statements(pool).await,
        cpu: cpu(pool, crew).await?,
    })
}

/// `None` where the server does not count them.
async fn statements(pool: &PgPool) -> Option<BTreeMap<String, (i64, f64)>> {
    let rows = sqlx::query(
        "SELECT query, sum(calls)::bigint AS calls, sum(total_exec_time + total_plan_time) AS millis
         FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
         GROUP BY query",
    )
    .fetch_all(pool)
    .await
    .ok()?;
    let mut all: BTreeMap<String, (i64, f64)> = BTreeMap::new();
    for row in rows {
        let entry = all.entry(words(row.try_get("query").ok()?)).or_default();
        entry.0 += row.try_get::<i64, _>("calls").ok()?;
        entry.1 += row.try_get::<f64, _>("millis").ok()?;
    }
    Some(all)
}

/// The beginning of a statement, on one line.
fn words(statement: &str) -> String {
    let line = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    // What the store runs in one round trip at a transaction's begin is many of them.
    line.chars().take(WORDS).collect()
}

/// CPU time by kind of process; PostgreSQL's where it runs on this machine.
async fn cpu(pool: &PgPool, crew: &Crew) -> anyhow::Result<BTreeMap<&'static str, Duration>> {
    let mut used = BTreeMap::new();
    for master in &crew.server.daemons {
        *used.entry("masters").or_default() += proc::cpu_time(master.pid)?;
    }
    for worker in &crew.workers {
        *used.entry("workers").or_default() += proc::cpu_time(worker.pid)?;
    }
    let pids: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .fetch_all(pool)
    .await?;
    for pid in pids {
        let pid = u32::try_from(pid)?;
        // A process of that number on this machine is the server's only if it says so.
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if let ("postgres", Ok(time)) = (name.trim(), proc::cpu_time(pid)) {
            *used.entry("PostgreSQL's sessions").or_default() += time;
        }
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at: Instant, transactions: i64, statements: &[(&str, i64, f64)]) -> Reading {
        let statements = statements.iter().map(|(words, n, ms)| ((*words).to_owned(), (*n, *ms)));
        Reading {
            at,
            transactions,
            statements: Some(statements.collect()),
            cpu: BTreeMap::from([("masters", Duration::from_millis(u64::try_from(transactions).unwrap()))]),
        }
    }

    #[test]
    fn what_was_used_is_told_for_each_job() {
        let begin = Instant::now();
        let before = reading(begin, 100, &[("SELECT", 10, 1.0)]);
        let after = reading(
            begin + Duration::from_secs(1),
            300,
            &[("SELECT", 20, 2.0), ("UPDATE", 30, 3.0)],
        );
        let used = Used::between(&before, &after, 10);
        assert_eq!(used.traffic(), (4.0, "statements"));
        assert_eq!(used.by_statement(), "UPDATE 75 %, SELECT 25 %");
        assert_eq!(used.by_process(), "masters 20000 µs a job (20 % of a core)");
        let blind = Used::between(
            &Reading {
                statements: None,
                ..before
            },
            &after,
            10,
        );
        assert_eq!(blind.traffic(), (20.0, "transactions"));
    }
}

//! Whether a connection leads to the server itself or to a pooler, which gives each transaction another server process.
//!
//! A connection asks for a setting of ours as it begins (`-c robata.direct=…` among the startup options). The server takes it.
//! A pooler in transaction mode cannot give one client's settings to a process that others share: it refuses them or leaves
//! them out (<https://www.pgbouncer.org/config.html#ignore_startup_parameters>). So what a transaction reads back tells for sure,
//! and only where it is there are settings kept in the session and statements prepared by name.

use std::time::Duration;

use sqlx::{Connection as _, postgres::PgConnectOptions};

use crate::{
    error::{Fault, Result},
    migrate::connect,
};

/// Statements that a connection keeps: more than there are, but for lists, which have one for each kind of filter.
const STATEMENTS: usize = 500;

/// A transaction in which nothing is said for so long is the server's to end: what a process that was stopped in its midst has
/// locked keeps nobody longer. Shorter than the gap of marks after which no master may judge (half a lease).
const SILENT: Duration = Duration::from_secs(5);

/// Every statement has the index that it walks. A planner whose statistics are of an hour ago, when the tables were small, must
/// not choose to read them whole now that they are not.
///
/// The same planner takes an index scan over a whole table for a short one where it believes the table to be empty, as it does
/// of the outbox for up to a minute after it was vacuumed while nothing was queued. So statements about rows whose ids are
/// known leave it no choice: `id = ANY(array)`, or a lookup row by row (`LATERAL … OFFSET 0`), with what else they ask in a
/// form that no other index serves (`CASE`, `+ 0`). So no plan depends on the values that it is made for, and one made once
/// (`force_generic_plan`) serves all.
const PLANS: [(&str, &str); 4] = [
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
];

/// What the server is to know of a transaction that takes at most so long.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// Found only in a session of ours.
    mark: String,
    limit: Duration,
}

impl Session {
    pub(crate) fn new(limit: Duration) -> Result<Self> {
        let mark = getrandom::u64().map_err(Fault::Random)?;
        Ok(Self {
            mark: format!("{mark:016x}"),
            limit,
        })
    }

    /// Within which a statement must be done.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    fn settings(&self) -> impl Iterator<Item = (&'static str, String)> {
        let millis = |time: Duration| time.as_millis().to_string();
        let limits = [
            ("statement_timeout", millis(self.limit)),
            (
                "idle_in_transaction_session_timeout",
                millis(SILENT.min(self.limit * 2)),
            ),
        ];
        PLANS
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .chain(limits)
    }

    /// The same for one transaction only.
    pub(crate) fn local(&self) -> String {
        self.settings()
            .map(|(name, value)| format!("SET LOCAL {name} = {value}; "))
            .collect()
    }

    /// Options of connections that keep it for all of their transactions.
    pub(crate) fn options(&self, options: &PgConnectOptions) -> PgConnectOptions {
        let own = [
            ("plan_cache_mode", "force_generic_plan".to_owned()),
            ("robata.direct", self.mark.clone()),
        ];
        options
            .clone()
            .options(self.settings().chain(own))
            .statement_cache_capacity(STATEMENTS)
    }

    /// Whether what a transaction read is this session's mark.
    pub(crate) fn is_here(&self, mark: Option<&str>) -> bool {
        mark == Some(self.mark.as_str())
    }

    /// Whether settings of connections reach the server there.
    pub(crate) async fn reaches(&self, options: &PgConnectOptions, limit: Duration) -> Result<bool> {
        let mut conn = match connect(&self.options(options), limit).await {
            Ok(conn) => conn,
            Err(fault) if refuses_options(&fault) => return Ok(false),
            Err(fault) => return Err(fault),
        };
        let mark: Option<String> = sqlx::raw_sql("SELECT current_setting('robata.direct', true) AS mark")
            .fetch_one(&mut conn)
            .await
            .and_then(|row| sqlx::Row::try_get(&row, "mark"))?;
        // The server ends the connection, if it does not end well.
        drop(tokio::time::timeout(limit, conn.close()).await);
        Ok(self.is_here(mark.as_deref()))
    }
}

/// A pooler's answer to startup options that it does not pass on: a protocol violation, or "not supported".
fn refuses_options(fault: &Fault) -> bool {
    let Fault::Sql(sqlx::Error::Database(error)) = fault else {
        return false;
    };
    let of_startup = |words: &str| words.contains("startup") || words.contains("options");
    matches!(error.code().as_deref(), Some("08P01" | "0A000")) || of_startup(error.message())
}

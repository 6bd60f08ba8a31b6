//! What a PostgreSQL store can be told.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use robata_core::ExecutorName;

/// Whether opening the store brings the schema up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Migrate {
    /// Yes; safe from many processes at once.
    #[default]
    Automatic,
    /// No: a missing migration is an error that says how to run it.
    Check,
}

/// Where notifications of other processes are listened for. They only make things faster: every loop looks by itself, too.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Listen {
    /// At the store's own address. Not behind a pooler in transaction mode, which loses them.
    #[default]
    Same,
    /// At this address, past the pooler.
    At(String),
    /// Nowhere.
    Off,
}

impl fmt::Debug for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "Same",
            Self::At(_) => "At(***)",
            Self::Off => "Off",
        })
    }
}

/// Settings of a [`PostgresStore`](crate::PostgresStore).
#[derive(Clone)]
#[non_exhaustive]
pub struct PostgresConfig {
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, with `?sslmode=verify-full` and the like where wanted.
    pub url: String,
    /// Connections for everything but heartbeats and listening: 8 for a master, 3 for a worker.
    pub connections: u32,
    /// How many groups of enqueues, and of writes about attempts, may be committed at once; fewer where there are not
    /// enough connections.
    pub group_writers: usize,
    /// Where to listen.
    pub listen: Listen,
    /// Whether to migrate.
    pub migrate: Migrate,
    /// The executor of definitions that name none; where `None`, their waiting jobs keep the one they have.
    pub default_executor: Option<ExecutorName>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long one statement may take.
    pub statement_timeout: Duration,
    /// What the server shows of the connections.
    pub application_name: String,
    /// Milliseconds added to the store's clock (PROTOCOL T1): set for each transaction as `robata.clock_offset`, so that
    /// it goes through poolers. Only tests set it.
    pub clock_offset: Option<Arc<AtomicI64>>,
}

impl PostgresConfig {
    /// The defaults, at this address.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..Self::default()
        }
    }
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            url: "postgres://127.0.0.1/robata".to_owned(),
            connections: 8,
            group_writers: 2,
            listen: Listen::Same,
            migrate: Migrate::Automatic,
            default_executor: None,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            application_name: "robata".to_owned(),
            clock_offset: None,
        }
    }
}

impl fmt::Debug for PostgresConfig {
    // Without the address: it has a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("connections", &self.connections)
            .field("group_writers", &self.group_writers)
            .field("listen", &self.listen)
            .field("migrate", &self.migrate)
            .field("default_executor", &self.default_executor)
            .field("connect_timeout", &self.connect_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .finish_non_exhaustive()
    }
}

#![doc = include_str!("../README.md")]

mod access;
mod body;
mod config;
mod degraded;
mod enqueue;
mod follow;
mod guard;
mod hub;
mod metrics;
mod path;
mod policy;
mod probes;
mod query;
mod refused;
mod requests;
mod routes;
mod shared;

use std::{fmt, sync::Arc};

use robata_core::{log_store::LogStore, store::Store};
use tokio_util::sync::CancellationToken;

pub use self::{
    access::as_local,
    config::ApiConfig,
    degraded::{DegradedConfig, DegradedPath},
    probes::{CHECK, Probes, TryNeeds, WriteMetrics, need, probes},
    routes::{openapi, router},
};

/// What the API stands on.
#[derive(Clone)]
pub struct Api {
    /// The system of record.
    pub store: Arc<dyn Store>,
    /// Where logs are read.
    pub logs: Arc<dyn LogStore>,
    /// Bounds and names.
    pub config: ApiConfig,
    /// The way for jobs while the store does not serve; without it they are refused then.
    pub degraded: Option<DegradedPath>,
    /// What else it needs besides store and logs, for readiness; without them it is only degraded.
    pub others: Option<TryNeeds>,
    /// What else the process counts, for `/metrics`.
    pub metrics: Option<WriteMetrics>,
    /// Ends long polls and followed logs, so that a server can drain.
    pub shutdown: CancellationToken,
}

impl Api {
    /// An API over these, with a shutdown that nobody calls.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, logs: Arc<dyn LogStore>, config: ApiConfig) -> Self {
        Self {
            store,
            logs,
            config,
            degraded: None,
            others: None,
            metrics: None,
            shutdown: CancellationToken::new(),
        }
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

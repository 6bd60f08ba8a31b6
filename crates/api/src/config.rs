//! Bounds and names of the API.

use std::{collections::BTreeMap, time::Duration};

use robata_core::{ExecutorName, Policy, access::TokenHash, payload};

/// What an operator may set.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ApiConfig {
    /// The executor of definitions that name none; default: `docker`.
    pub default_executor: ExecutorName,
    /// The executors that there are, for messages and checks; empty: any.
    pub executors: Vec<ExecutorName>,
    /// The operator's policies, by executor; one that does not stand here has the default one.
    pub policies: BTreeMap<ExecutorName, Policy>,
    /// Names that a request's `Host` may have besides loopback's, without port.
    pub hosts: Vec<String>,
    /// Whether it may also be any IP address: for what listens beyond loopback, reached by whatever address its machine or pod
    /// has. No name can be rebound to get past that: a page that was loaded by an address talks to that address.
    pub any_address: bool,
    /// The hash of the settings' own admin token, which is valid without the store and never expires.
    pub admin_token: Option<TokenHash>,
    /// A request's body has at most this many bytes.
    pub max_body_bytes: usize,
    /// A body of settings (an apply, an app, a definition, a one-off) has at most this many bytes.
    pub max_document_bytes: usize,
    /// Bodies that are being read have together at most this many bytes.
    pub max_bodies_bytes: usize,
    /// A body must arrive within this time.
    pub body_timeout: Duration,
    /// A payload has at most this many bytes.
    pub max_payload_bytes: usize,
    /// A payload nests at most this deep.
    pub max_depth: usize,
    /// A job has at most so many labels.
    pub max_labels: usize,
    /// A batch has at most so many jobs.
    pub max_batch: usize,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            default_executor: default_executor(),
            executors: Vec::new(),
            policies: BTreeMap::new(),
            hosts: Vec::new(),
            any_address: false,
            admin_token: None,
            max_body_bytes: 64 << 20,
            max_document_bytes: 4 << 20,
            max_bodies_bytes: 256 << 20,
            body_timeout: Duration::from_secs(30),
            max_payload_bytes: payload::DEFAULT_MAX_BYTES,
            max_depth: payload::DEFAULT_MAX_DEPTH,
            max_labels: 64,
            max_batch: 10_000,
        }
    }
}

#[expect(clippy::expect_used, reason = "a constant that a test covers")]
fn default_executor() -> ExecutorName {
    ExecutorName::new("docker").expect("is a name")
}

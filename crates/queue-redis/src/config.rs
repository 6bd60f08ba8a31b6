//! What can be chosen about a Redis queue.

use std::{fmt, time::Duration};

/// What to do where Redis may throw keys away when its memory is full (`maxmemory-policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Eviction {
    /// Serve nothing until the policy is `noeviction`: an evicted stream is a line of lost messages.
    #[default]
    Refuse,
    /// Go on, and warn at every connection.
    Warn,
}

/// Where to learn how the server keeps its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Persistence {
    /// Ask by `CONFIG GET`, else by `INFO`; what neither tells is taken as not given.
    #[default]
    Ask,
    /// The operator's word, for servers that answer neither.
    Known {
        /// Whether every write goes to an append-only file.
        appendonly: bool,
        /// Whether the file is synced before a write is answered (`appendfsync always`).
        fsync_always: bool,
        /// Whether nothing is evicted (`maxmemory-policy noeviction`).
        noeviction: bool,
    },
}

/// The options of a [`RedisQueue`](crate::RedisQueue).
#[derive(Clone)]
pub struct RedisConfig {
    /// `redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]`, `rediss://…` for TLS, `redis+unix:///PATH`; of a cluster any node.
    /// Several, separated by commas, are tried in turn: more nodes of one cluster, or a primary and its replicas, whoever
    /// takes writes. Never servers that know nothing of each other. Default: `redis://127.0.0.1:6379`.
    pub url: String,
    /// Whose lines these are: it stands in every key, as the hash tag `{robata:INSTALLATION}`. Letters, digits, `.`,
    /// `_` and `-`. Default: `default`.
    pub installation: String,
    /// The user, where it does not stand in the URL.
    pub username: Option<String>,
    /// The password, where it does not stand in the URL.
    pub password: Option<String>,
    /// Certificates (PEM) to trust in place of the system's, for `rediss://`.
    pub ca_pem: Option<Vec<u8>>,
    /// At most so long for a connection. Default: 3 s.
    pub connect_timeout: Duration,
    /// At most so long for an answer, beyond the time that a receive was told to wait. Default: 5 s.
    pub response_timeout: Duration,
    /// A consumer that has not been heard of for so long is dead, and another gets what it held. A live one says so
    /// five times in this time. Default: 15 s.
    pub consumer_expiry: Duration,
    /// At most so many receives at once, each with a connection of its own; a further one waits. Default: 32.
    pub max_receivers: usize,
    /// The largest body, in bytes; a larger one is refused, with its whole batch. Default: 4 MiB.
    pub max_body_bytes: usize,
    /// What to do where messages may be evicted. Default: refuse.
    pub eviction: Eviction,
    /// Where to learn how the server keeps its data. Default: from the server.
    pub persistence: Persistence,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".to_owned(),
            installation: "default".to_owned(),
            username: None,
            password: None,
            ca_pem: None,
            connect_timeout: Duration::from_secs(3),
            response_timeout: Duration::from_secs(5),
            consumer_expiry: Duration::from_secs(15),
            max_receivers: 32,
            max_body_bytes: 4 * 1024 * 1024,
            eviction: Eviction::default(),
            persistence: Persistence::default(),
        }
    }
}

impl RedisConfig {
    /// The defaults for this server and installation.
    #[must_use]
    pub fn new(url: impl Into<String>, installation: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            installation: installation.into(),
            ..Self::default()
        }
    }

    /// One blocking read at the server lasts at most so long: a connection that died silently is found by its end, and
    /// the consumer says by each that it lives.
    pub(crate) fn block_slice(&self) -> Duration {
        (self.consumer_expiry / 3).min(Duration::from_secs(5))
    }

    /// How often a consumer says that it lives.
    pub(crate) fn beat(&self) -> Duration {
        self.consumer_expiry / 5
    }
}

/// Hides the password, wherever it stands.
fn without_password(url: &str) -> String {
    url.split(',')
        .map(|url| match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((login, host))) => {
                let user = login[scheme.len() + 3..].split(':').next().unwrap_or_default();
                format!("{scheme}://{user}:***@{host}")
            }
            _ => url.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(",")
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("url", &without_password(&self.url))
            .field("installation", &self.installation)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("ca_pem", &self.ca_pem.as_ref().map(Vec::len))
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .field("consumer_expiry", &self.consumer_expiry)
            .field("max_receivers", &self.max_receivers)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("eviction", &self.eviction)
            .field("persistence", &self.persistence)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        let mut config = RedisConfig::new("redis://anna:se@cret@host:1/0,rediss://:more@b", "x");
        config.password = Some("third".to_owned());
        let shown = format!("{config:?}");
        assert!(shown.contains("redis://anna:***@host:1/0,rediss://:***@b"), "{shown}");
        assert!(
            !shown.contains("cret") && !shown.contains("more") && !shown.contains("third"),
            "{shown}"
        );
    }
}

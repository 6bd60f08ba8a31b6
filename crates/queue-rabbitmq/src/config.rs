//! What can be chosen about a RabbitMQ queue.

use std::{fmt, time::Duration};

/// A certificate by which we prove who we are, for servers that ask for one.
#[derive(Clone)]
pub struct Identity {
    /// The certificate and those above it, in PEM.
    pub certificates_pem: Vec<u8>,
    /// Its private key, in PEM.
    pub key_pem: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// The options of a [`RabbitMqQueue`](crate::RabbitMqQueue).
#[derive(Clone)]
pub struct RabbitMqConfig {
    /// `amqp://USER:PASSWORD@HOST[:PORT][/VHOST]`, `amqps://…` for TLS; without `/VHOST` the virtual host `/`, whose own
    /// name is written `%2f`. Several, separated by commas, are nodes of one cluster, tried in turn; never brokers that
    /// know nothing of each other. Default: `amqp://guest:guest@127.0.0.1:5672`.
    pub url: String,
    /// Whose lines these are: it stands in every queue's name, as `robata.INSTALLATION.…`. At most 64 letters, digits,
    /// `.`, `_` and `-`. Default: `default`.
    pub installation: String,
    /// The user, in place of the URL's.
    pub username: Option<String>,
    /// The password, in place of the URL's.
    pub password: Option<String>,
    /// Certificates (PEM) to trust besides the system's, for `amqps://`.
    pub ca_pem: Option<Vec<u8>>,
    /// Our own certificate, for `amqps://` with `verify_peer` at the server.
    pub identity: Option<Identity>,
    /// At most so long for a connection. Default: 3 s.
    pub connect_timeout: Duration,
    /// At most so long for an answer, and for the next confirm of a batch. Default: 5 s.
    pub response_timeout: Duration,
    /// A connection that is silent for twice this is dead; whole seconds from 1. The server may ask for less.
    /// Default: 5 s.
    pub heartbeat: Duration,
    /// At most so many receives at once, each with a channel of its own; a further one waits. Default: 32.
    pub max_receivers: usize,
    /// At most so many publications at once, each with a channel of its own; a further one waits. Default: 32.
    pub max_publishers: usize,
    /// The largest body, in bytes; a larger one is refused, with its whole batch. Not more than the server's
    /// `max_message_size` (16 MiB as of RabbitMQ 4.0, 128 MiB before). Default: 4 MiB.
    pub max_body_bytes: usize,
}

impl Default for RabbitMqConfig {
    fn default() -> Self {
        Self {
            url: "amqp://guest:guest@127.0.0.1:5672".to_owned(),
            installation: "default".to_owned(),
            username: None,
            password: None,
            ca_pem: None,
            identity: None,
            connect_timeout: Duration::from_secs(3),
            response_timeout: Duration::from_secs(5),
            heartbeat: Duration::from_secs(5),
            max_receivers: 32,
            max_publishers: 32,
            max_body_bytes: 4 * 1024 * 1024,
        }
    }
}

impl RabbitMqConfig {
    /// The defaults for this broker and installation.
    #[must_use]
    pub fn new(url: impl Into<String>, installation: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            installation: installation.into(),
            ..Self::default()
        }
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

impl fmt::Debug for RabbitMqConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMqConfig")
            .field("url", &without_password(&self.url))
            .field("installation", &self.installation)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("ca_pem", &self.ca_pem.as_ref().map(Vec::len))
            .field("identity", &self.identity)
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .field("heartbeat", &self.heartbeat)
            .field("max_receivers", &self.max_receivers)
            .field("max_publishers", &self.max_publishers)
            .field("max_body_bytes", &self.max_body_bytes)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        let mut config = RabbitMqConfig::new("amqp://anna:se@cret@host:1/v,amqps://b:more@b", "x");
        config.password = Some("third".to_owned());
        config.identity = Some(Identity {
            certificates_pem: Vec::new(),
            key_pem: b"fourth".to_vec(),
        });
        let shown = format!("{config:?}");
        assert!(shown.contains("amqp://anna:***@host:1/v,amqps://b:***@b"), "{shown}");
        for secret in ["cret", "more", "third", "fourth"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

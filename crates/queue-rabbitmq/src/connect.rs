//! One connection: from an address to something to talk by, and whether it may be published on.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use lapin::{
    Channel, Connection, ConnectionBuilder, ConnectionProperties, Event,
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::AMQPUri,
};
use robata_core::job::Line;
use tokio::{sync::watch, task::JoinHandle};

use crate::{RabbitMqConfig, error::Fault, greet::Version};

/// AMQP's reply code of an end without a fault.
const CLOSED_WELL: u16 = 200;
/// A queue's client in the broker waits for at most half of this (`COMMAND_TIMEOUT` of rabbit_fifo_client.erl).
const ABANDONED: Duration = Duration::from_secs(60);

/// Reads the addresses; no broker need be up for it.
pub(crate) fn addresses(config: &RabbitMqConfig) -> Result<Vec<AMQPUri>, Fault> {
    config.url.split(',').map(|url| address(url.trim(), config)).collect()
}

fn address(url: &str, config: &RabbitMqConfig) -> Result<AMQPUri, Fault> {
    // The parser's words would repeat the address, and with it the password.
    let wrong = || {
        let form = "amqp://USER:PASSWORD@HOST:PORT/VHOST or amqps://…, / in a name written %2f";
        Fault::Config(format!("an address of RabbitMQ must be {form}"))
    };
    let mut uri: AMQPUri = url.parse().map_err(|_| wrong())?;
    // The parser takes this machine where there is no host: not what anybody means who forgot it.
    let host = url
        .split_once("://")
        .map_or("", |(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
    if host.rsplit('@').next().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    if let Some(username) = &config.username {
        uri.authority.userinfo.username.clone_from(username);
    }
    if let Some(password) = &config.password {
        uri.authority.userinfo.password.clone_from(password);
    }
    if uri.query.heartbeat.is_none() {
        let seconds = u16::try_from(config.heartbeat.as_secs()).unwrap_or(u16::MAX);
        uri.query.heartbeat = Some(seconds.max(1));
    }
    Ok(uri)
}

/// What TLS needs besides the address.
pub(crate) fn tls(config: &RabbitMqConfig) -> Result<OwnedTLSConfig, Fault> {
    let text = |pem: &Vec<u8>| {
        let wrong = || Fault::Config("the certificates to trust are not PEM".to_owned());
        let text = String::from_utf8(pem.clone()).map_err(|_| wrong())?;
        if text.contains("-----BEGIN CERTIFICATE-----") {
            Ok(text)
        } else {
            Err(wrong())
        }
    };
    Ok(OwnedTLSConfig {
        identity: config.identity.as_ref().map(|identity| OwnedIdentity::PKCS8 {
            pem: identity.certificates_pem.clone(),
            key: identity.key_pem.clone(),
        }),
        cert_chain: config.ca_pem.as_ref().map(text).transpose()?,
    })
}

/// A connection that was open when it was made.
#[derive(Debug)]
pub(crate) struct Live {
    connection: Connection,
    pub(crate) version: Version,
    response_timeout: Duration,
    /// Why the broker takes no messages on it; `None` where it does.
    blocked: watch::Receiver<Option<String>>,
    listener: JoinHandle<()>,
    /// Nobody is to use it any more: it has not answered.
    condemned: AtomicBool,
    /// The lines that were seen to be there since it was made.
    lines: Mutex<HashSet<Line>>,
    /// Channels that wait for the next publication; each is good, with nothing unconfirmed.
    idle: Mutex<Vec<Channel>>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Live {
    /// Connects to one address.
    pub(crate) async fn open(
        uri: AMQPUri,
        tls: OwnedTLSConfig,
        name: String,
        version: Version,
        response_timeout: Duration,
    ) -> Result<Self, Fault> {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let builder = ConnectionBuilder::new()?
            .with_uri(uri)
            .with_properties(properties)
            .with_tls_config(tls);
        let connection = builder.connect().await?;
        let (say, blocked) = watch::channel(None);
        let mut events = Box::pin(connection.events_listener());
        let listener = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Event::ConnectionBlocked(reason) => {
                        tracing::warn!(reason, "rabbitmq: takes no messages");
                        say.send_replace(Some(reason));
                    }
                    Event::ConnectionUnblocked => {
                        tracing::info!("rabbitmq: takes messages again");
                        say.send_replace(None);
                    }
                    _ => {}
                }
            }
        });
        Ok(Self {
            connection,
            version,
            response_timeout,
            blocked,
            listener,
            condemned: AtomicBool::new(false),
            lines: Mutex::default(),
            idle: Mutex::default(),
        })
    }

    /// Whether it may be of use.
    pub(crate) fn is_good(&self) -> bool {
        self.connection.status().connected() && !self.condemned.load(Ordering::Relaxed)
    }

    /// Has nobody use it any more; what was received by it may still be settled.
    pub(crate) fn condemn(&self) {
        self.condemned.store(true, Ordering::Relaxed);
    }

    /// Waits for an answer, not for ever: a connection without one is condemned.
    pub(crate) async fn within<T>(&self, asking: impl Future<Output = lapin::Result<T>>) -> Result<T, Fault> {
        match tokio::time::timeout(self.response_timeout, asking).await {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                self.condemn();
                Err(Fault::Silent(self.response_timeout))
            }
        }
    }

    /// Waits for an answer that takes the queue of this name to give. Where the broker answers and the queue does not, the
    /// connection is as good as before.
    pub(crate) async fn of_queue<T>(
        &self,
        name: &str,
        asking: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, Fault> {
        match tokio::time::timeout(self.response_timeout, asking).await {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                self.channel().await?;
                Err(Fault::Mute { name: name.to_owned() })
            }
        }
    }

    /// How long an answer is waited for.
    pub(crate) fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// A channel of its own: what the broker closes it for ends nobody else's work.
    pub(crate) async fn channel(&self) -> Result<Channel, Fault> {
        self.within(self.connection.create_channel()).await
    }

    /// Closes a channel on which an answer is still awaited. Dropped alone it would stay, and what the broker sent to it would
    /// be nobody's.
    pub(crate) fn abandon(channel: Channel) {
        tokio::spawn(async move {
            let closing = channel.close(CLOSED_WELL, "OK".into());
            drop(tokio::time::timeout(ABANDONED, closing).await);
        });
    }

    /// The largest frame, in bytes.
    pub(crate) fn frame_max(&self) -> usize {
        usize::try_from(self.connection.configuration().frame_max()).unwrap_or(usize::MAX)
    }

    /// An error where the broker takes no messages now.
    pub(crate) fn not_blocked(&self) -> Result<(), Fault> {
        match &*self.blocked.borrow() {
            Some(reason) => Err(Fault::Blocked { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Waits until the broker takes no messages.
    pub(crate) async fn blocks(&self) -> Fault {
        let mut blocked = self.blocked.clone();
        loop {
            if let Err(fault) = self.not_blocked() {
                return fault;
            }
            if blocked.changed().await.is_err() {
                // The connection is over: whoever waits for its answer is told by that.
                std::future::pending::<()>().await;
            }
        }
    }

    fn lines(&self) -> MutexGuard<'_, HashSet<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn knows(&self, line: &Line) -> bool {
        self.lines().contains(line)
    }

    pub(crate) fn learn(&self, line: &Line) {
        self.lines().insert(line.clone());
    }

    pub(crate) fn forget(&self, line: &Line) {
        self.lines().remove(line);
    }

    /// A channel left by an earlier publication.
    pub(crate) fn idle(&self) -> Option<Channel> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|channel| channel.status().connected());
        idle.pop()
    }

    /// Leaves a channel, with nothing unconfirmed, to the next publication.
    pub(crate) fn leave(&self, channel: Channel) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(channel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_what_stands_beside_them() {
        let mut config = RabbitMqConfig::new("amqp://a:b@one, amqps://two:7/%2f?heartbeat=9", "x");
        config.password = Some("secret".to_owned());
        let read = addresses(&config).unwrap();
        assert_eq!((read[0].authority.port, read[0].vhost.as_str()), (5672, "/"));
        assert_eq!((read[1].authority.port, read[1].vhost.as_str()), (7, "/"));
        assert_eq!(read[0].authority.userinfo.username, "a");
        assert_eq!(read[0].authority.userinfo.password, "secret");
        assert_eq!((read[0].query.heartbeat, read[1].query.heartbeat), (Some(5), Some(9)));
    }

    #[test]
    fn a_wrong_address_is_told_without_its_password() {
        for url in ["http://a:hidden@b", "amqp://", "a:hidden@b", ""] {
            let fault = addresses(&RabbitMqConfig::new(url, "x")).unwrap_err();
            assert!(
                matches!(&fault, Fault::Config(words) if !words.contains("hidden")),
                "{url}: {fault}"
            );
        }
    }

    #[test]
    fn certificates_that_are_none_are_refused() {
        let mut config = RabbitMqConfig::new("amqps://x", "x");
        config.ca_pem = Some(b"no certificate".to_vec());
        assert!(matches!(tls(&config), Err(Fault::Config(_))));
    }
}

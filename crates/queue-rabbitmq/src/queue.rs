//! The seam's methods over RabbitMQ.

use std::sync::Arc;

use async_trait::async_trait;
use robata_core::{
    Result,
    job::Line,
    queue::{BrokerKey, Capabilities, Delivery, Depth, Message, Queue, Receive},
};

use crate::{
    RabbitMqConfig, ServerFacts, error::Fault, key, lines, message, names::MAX_INSTALLATION, publish, receive, server,
    settle, shared::Shared,
};

/// A queue on a RabbitMQ server or cluster. Clones are the same queue.
#[derive(Clone, Debug)]
pub struct RabbitMqQueue {
    shared: Arc<Shared>,
}

impl RabbitMqQueue {
    /// A queue on the broker that `config` names. It need not be up: the first use connects, and reports.
    ///
    /// # Errors
    /// `Invalid` where the options cannot be used: the address, the certificates, the installation's name.
    pub fn connect(config: RabbitMqConfig) -> Result<Self> {
        let made = check(&config).and_then(|()| Shared::new(config));
        Ok(Self {
            shared: Arc::new(made.map_err(|fault| fault.at("queue.connect"))?),
        })
    }

    /// Tries all that a queue needs: makes a quorum queue and a stream of its own, publishes, receives, acknowledges,
    /// and deletes them.
    ///
    /// # Errors
    /// `Unavailable` where the broker cannot be reached, refuses the login, the virtual host or a permission, or takes
    /// nothing now; `Internal` where it knows no such queues.
    pub async fn check(&self) -> Result<ServerFacts> {
        let checked = server::check(&self.shared).await;
        checked.map_err(|fault| fault.at("queue.check"))
    }
}

/// An error where a message of the batch cannot be carried.
pub(crate) fn refuse(shared: &Shared, line: &Line, messages: &[Message]) -> Result<(), Fault> {
    let max = shared.config.max_body_bytes;
    for message in messages {
        let line = || line.clone();
        if message.body.len() > max {
            let bytes = message.body.len();
            return Err(Fault::BodyTooLarge {
                line: line(),
                bytes,
                max,
            });
        }
        let longest = message.attributes.keys().map(String::len).max().unwrap_or_default();
        if longest > message::MAX_NAME {
            return Err(Fault::NameTooLong {
                line: line(),
                bytes: longest,
                max: message::MAX_NAME,
            });
        }
    }
    Ok(())
}

fn check(config: &RabbitMqConfig) -> Result<(), Fault> {
    let name = &config.installation;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > MAX_INSTALLATION || !name.chars().all(allowed) {
        return Err(Fault::Config(format!(
            "installation {name:?}: 1 to {MAX_INSTALLATION} letters, digits, `.`, `_` and `-` are allowed"
        )));
    }
    if config.max_receivers == 0 || config.max_publishers == 0 || config.max_body_bytes == 0 {
        return Err(Fault::Config(
            "max_receivers, max_publishers and max_body_bytes are counted from 1".to_owned(),
        ));
    }
    Ok(())
}

#[async_trait]
impl Queue for RabbitMqQueue {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        // A quorum queue is always written to disk before it confirms.
        capabilities.durable = true;
        capabilities.whole_jobs = true;
        capabilities.max_body_bytes = self.shared.config.max_body_bytes;
        capabilities
    }

    async fn publish(&self, line: &Line, messages: Vec<Message>) -> Result<()> {
        let publishing = async {
            refuse(&self.shared, line, &messages)?;
            publish::publish(&self.shared, line, &messages).await
        };
        publishing.await.map_err(|fault: Fault| fault.at("queue.publish"))
    }

    async fn receive(&self, request: Receive) -> Result<Vec<Delivery>> {
        receive::receive(&self.shared, request).await
    }

    async fn acknowledge(&self, deliveries: &[Delivery]) -> Result<()> {
        let done = settle::acknowledge(&self.shared, deliveries).await;
        done.map_err(|fault| fault.at("queue.acknowledge"))
    }

    async fn give_back(&self, deliveries: Vec<Delivery>) -> Result<()> {
        let done = settle::give_back(&self.shared, deliveries).await;
        done.map_err(|fault| fault.at("queue.give_back"))
    }

    /// `unacknowledged` is what this very queue has out: AMQP does not tell what others have.
    async fn depth(&self, line: &Line) -> Result<Depth> {
        let asking = async {
            let live = self.shared.inward.get().await?;
            let name = self.shared.names.line(line);
            // A line that nobody has used is empty, and is not made for being looked at.
            let waiting = lines::waiting(&live, &live.channel().await?, &name).await?;
            let unacknowledged = self.shared.held().count(line);
            Ok(Depth {
                waiting: waiting.unwrap_or_default(),
                unacknowledged: u64::try_from(unacknowledged).unwrap_or(u64::MAX),
                // The broker counts consumers that are gone as long as a message of theirs is out.
                receivers: None,
            })
        };
        asking.await.map_err(|fault: Fault| fault.at("queue.depth"))
    }

    async fn broker_key(&self, line: &Line) -> Result<BrokerKey> {
        let asking = key::broker_key(&self.shared, line).await;
        asking.map_err(|fault| fault.at("queue.broker_key"))
    }
}

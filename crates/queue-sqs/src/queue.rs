//! The seam's methods over SQS.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_sqs::types::QueueAttributeName;
use robata_core::{
    Error, ErrorKind, Result,
    job::Line,
    queue::{BrokerKey, Capabilities, Delivery, Depth, Message, Queue, Receive},
};

use crate::{
    ServerFacts, SqsConfig,
    config::{MAX_MESSAGE_BYTES, ROOM_FOR_ATTRIBUTES},
    error::Fault,
    key, lines,
    names::MAX_INSTALLATION,
    publish, receive, server, settle,
    shared::Shared,
};

/// The longest that SQS keeps a received message from others, 12 h
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ChangeMessageVisibility.html>).
const LONGEST_VISIBILITY: Duration = Duration::from_secs(12 * 60 * 60);

/// A queue on Amazon SQS. Clones are the same queue.
#[derive(Clone, Debug)]
pub struct SqsQueue {
    shared: Arc<Shared>,
}

impl SqsQueue {
    /// A queue on the service that `config` names. It need not answer: the first use looks for credentials, connects, and
    /// reports.
    ///
    /// # Errors
    /// `Invalid` where the options cannot be used: the endpoint, the certificates, the installation's name, a time or a size.
    pub fn connect(config: SqsConfig) -> Result<Self> {
        let made = check(&config).and_then(|()| Shared::new(config));
        Ok(Self {
            shared: Arc::new(made.map_err(|fault| fault.at("queue.connect"))?),
        })
    }

    /// Tries all that a queue needs. Where queues may be made: makes one, publishes, receives, asks for more time,
    /// acknowledges, and deletes it. Else it only asks for one that is not there. Then looks for redrive policies among
    /// the queues of any installation.
    ///
    /// # Errors
    /// `Unavailable` where the service cannot be reached, finds no credentials, or refuses them or something that is needed.
    pub async fn check(&self) -> Result<ServerFacts> {
        let checked = server::check(&self.shared).await;
        checked.map_err(|fault| fault.at("queue.check"))
    }

    /// The name that this line's queue has at SQS, for whoever makes it by hand.
    #[must_use]
    pub fn queue_name(&self, line: &Line) -> String {
        self.shared.names.line(line)
    }

    /// How much is in a line without a queue. One that nobody has used is empty, and is not made for being looked at; where queues
    /// are not made at all, nothing can be put into it either.
    fn absent(&self, line: &Line) -> Result<Depth, Fault> {
        if self.shared.config.create {
            return Ok(Depth::default());
        }
        Err(Fault::NotThere {
            line: line.clone(),
            name: self.queue_name(line),
        })
    }
}

fn check(config: &SqsConfig) -> Result<(), Fault> {
    let wrong = |words: String| Err(Fault::Config(words));
    let name = &config.installation;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || name.len() > MAX_INSTALLATION || !name.chars().all(allowed) {
        return wrong(format!(
            "installation {name:?}: 1 to {MAX_INSTALLATION} letters, digits, `_` and `-` are allowed"
        ));
    }
    if let Some(endpoint) = &config.endpoint
        && !["http://", "https://"]
            .iter()
            .any(|scheme| endpoint.starts_with(scheme))
    {
        return wrong(format!(
            "the endpoint {endpoint:?} must be http://HOST:PORT or https://HOST"
        ));
    }
    let visibility = config.visibility;
    if visibility.subsec_nanos() != 0 || visibility < Duration::from_secs(2) || visibility > LONGEST_VISIBILITY {
        return wrong("visibility is in whole seconds from 2 up to 12 h".to_owned());
    }
    if config.response_timeout.is_zero() || config.connect_timeout.is_zero() || config.operation_timeout.is_zero() {
        return wrong("the time for a connection, an answer and an operation must be more than nothing".to_owned());
    }
    let sizes = 2 * ROOM_FOR_ATTRIBUTES..=MAX_MESSAGE_BYTES;
    if !sizes.contains(&config.max_message_bytes) {
        return wrong(format!(
            "max_message_bytes is from {} up to {}",
            sizes.start(),
            sizes.end()
        ));
    }
    Ok(())
}

#[async_trait]
impl Queue for SqsQueue {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        // SQS answers when a message lies on several machines.
        capabilities.durable = true;
        capabilities.whole_jobs = true;
        capabilities.max_body_bytes = self.shared.config.max_body_bytes();
        capabilities
    }

    async fn publish(&self, line: &Line, messages: Vec<Message>) -> Result<()> {
        let publishing = publish::publish(&self.shared, line, &messages).await;
        publishing.map_err(|fault| fault.at("queue.publish"))
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

    /// Approximate, as SQS says itself, and right about a minute after the last message.
    async fn depth(&self, line: &Line) -> Result<Depth> {
        let asking = async {
            let Some(place) = lines::find(&self.shared, line).await? else {
                return self.absent(line);
            };
            let found = match lines::attributes(&self.shared, &place.url, QueueAttributeName::All).await {
                Err(fault) if fault.is_missing() => return self.absent(line),
                found => found?,
            };
            let count = |attribute| {
                found
                    .get(&attribute)
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(0_u64)
            };
            let delayed = count(QueueAttributeName::ApproximateNumberOfMessagesDelayed);
            Ok(Depth {
                waiting: count(QueueAttributeName::ApproximateNumberOfMessages).saturating_add(delayed),
                unacknowledged: count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
                // Polls are not counted.
                receivers: None,
            })
        };
        asking.await.map_err(|fault: Fault| match fault {
            Fault::NotThere { .. } => Error::new(ErrorKind::NotFound, "queue.depth", fault.to_string()),
            fault => fault.at("queue.depth"),
        })
    }

    async fn broker_key(&self, line: &Line) -> Result<BrokerKey> {
        let asking = key::broker_key(&self.shared, line).await;
        asking.map_err(|fault| fault.at("queue.broker_key"))
    }
}

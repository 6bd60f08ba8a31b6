//! The seam's methods over Redis.

use std::sync::Arc;

use async_trait::async_trait;
use redis::{Client, FromRedisValue};
use robata_core::{
    Result,
    job::Line,
    queue::{BrokerKey, Capabilities, Delivery, Depth, Message, Queue, Receive},
};

use crate::{
    RedisConfig, ServerFacts, WholeJobs, entry, error::Fault, held::Ids, keeper, keys::GROUP, link::Source,
    main_link::Ask, receive, script, shared::Shared,
};

/// At most so many bytes and messages go into one transaction: the server does nothing else meanwhile.
const STEP_BYTES: usize = 8 * 1024 * 1024;
const STEP_MESSAGES: usize = 1000;

/// A queue on a Redis or Valkey server or cluster. Clones are the same queue.
#[derive(Clone, Debug)]
pub struct RedisQueue {
    shared: Arc<Shared>,
}

impl RedisQueue {
    /// A queue on the server that `config` names. It need not be up: the first use connects, and reports.
    ///
    /// # Errors
    /// `Invalid` where the options cannot be used: the address, the certificates, the installation's name.
    pub fn connect(config: RedisConfig) -> Result<Self> {
        let source = Source::new(&config).map_err(|fault| fault.at("queue.connect"))?;
        Self::with(config, source)
    }

    /// A queue that connects as `client` does; what `config` says of address, login and TLS is not used.
    ///
    /// # Errors
    /// `Invalid` where the options cannot be used.
    pub fn from_client(client: Client, config: RedisConfig) -> Result<Self> {
        let source = Source::of_client(&client, &config);
        Self::with(config, source)
    }

    fn with(config: RedisConfig, source: Source) -> Result<Self> {
        check(&config).map_err(|fault| fault.at("queue.connect"))?;
        Ok(Self {
            shared: Arc::new(Shared::new(config, source)),
        })
    }

    /// Asks the server now how it keeps its data, connecting where there is no connection. What it says is asked for
    /// again at each new connection and each minute.
    ///
    /// # Errors
    /// `Unavailable` where it cannot be reached, is too old, refuses the login, or may evict messages.
    pub async fn check(&self) -> Result<ServerFacts> {
        keeper::ensure(&self.shared);
        let shared = &self.shared;
        let checked = shared.main.check_again(&shared.source, &shared.config).await;
        checked.map_err(|fault| fault.at("queue.check"))
    }

    /// Whether whole jobs, not only references, may be put here (PROTOCOL I2), as the server last said.
    #[must_use]
    pub fn whole_jobs(&self) -> WholeJobs {
        let facts = self.shared.main.facts();
        facts.map_or(WholeJobs::Unknown, |facts| facts.whole_jobs())
    }

    fn refuse(&self, line: &Line, messages: &[Message]) -> Result<(), Fault> {
        let max = self.shared.config.max_body_bytes;
        for message in messages {
            if message.body.len() > max {
                return Err(Fault::BodyTooLarge {
                    line: line.clone(),
                    bytes: message.body.len(),
                    max,
                });
            }
            if message.attributes.len() > entry::MAX_ATTRIBUTES {
                return Err(Fault::TooManyAttributes {
                    line: line.clone(),
                    count: message.attributes.len(),
                    max: entry::MAX_ATTRIBUTES,
                });
            }
        }
        Ok(())
    }

    async fn add(&self, line: &Line, messages: &[Message]) -> Result<(), Fault> {
        let stream = self.shared.keys.stream(line);
        let mut left = messages.iter().peekable();
        while left.peek().is_some() {
            let (mut bytes, mut count) = (0, 0);
            let mut pipeline = redis::pipe();
            pipeline.atomic();
            while let Some(message) = left
                .next_if(|message| count == 0 || (count < STEP_MESSAGES && bytes + message.body.len() <= STEP_BYTES))
            {
                bytes += message.body.len();
                count += 1;
                pipeline.add_command(entry::add(&stream, message));
            }
            // Not asked twice: nobody knows whether a broken connection has brought it there.
            let answer = self.shared.ask(Ask::Transaction(&pipeline), false).await?;
            let ids = Vec::<String>::from_redis_value(answer).map_err(|error| Fault::Answer(error.to_string()))?;
            if let Some(last) = ids.last() {
                self.shared.note_id(line, entry::id_parts(last));
            }
        }
        Ok(())
    }

    async fn back(&self, deliveries: Vec<Delivery>) -> Result<(), Fault> {
        let ids = ids(&deliveries)?;
        let missing = match keeper::give_back(&self.shared, &ids).await {
            Ok(missing) => missing,
            Err(fault) => {
                // Others are to have them, as soon as the server can be told.
                self.shared.put_back(deliveries);
                return Err(fault);
            }
        };
        // What we hold and the server has lost is published from here; what was settled before stays settled.
        let mut lost: std::collections::HashMap<Line, Vec<Message>> = std::collections::HashMap::new();
        for delivery in deliveries {
            let was_out = self.shared.held().settle(&delivery.line, &delivery.receipt.0);
            let gone = missing
                .get(&delivery.line)
                .is_some_and(|ids| ids.contains(&delivery.receipt.0));
            if was_out && gone {
                lost.entry(delivery.line).or_default().push(delivery.message);
            }
        }
        for (line, messages) in lost {
            self.add(&line, &messages).await?;
        }
        Ok(())
    }
}

/// Deliveries' ids, by line.
fn ids(deliveries: &[Delivery]) -> Result<Ids, Fault> {
    let mut ids = Ids::new();
    for Delivery { line, receipt, .. } in deliveries {
        if !entry::is_id(&receipt.0) {
            return Err(Fault::NoReceipt {
                receipt: receipt.0.clone(),
            });
        }
        ids.entry(line.clone()).or_default().push(receipt.0.clone());
    }
    Ok(ids)
}

fn check(config: &RedisConfig) -> Result<(), Fault> {
    let name = &config.installation;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 128 || !name.chars().all(allowed) {
        return Err(Fault::Config(format!(
            "installation {name:?}: 1 to 128 letters, digits, `.`, `_` and `-` are allowed"
        )));
    }
    if config.max_receivers == 0 || config.max_body_bytes == 0 {
        return Err(Fault::Config(
            "max_receivers and max_body_bytes are counted from 1".to_owned(),
        ));
    }
    if config.consumer_expiry < std::time::Duration::from_millis(500) {
        return Err(Fault::Config(
            "consumer_expiry is at least 500 ms: a slow consumer is not dead".to_owned(),
        ));
    }
    Ok(())
}

#[async_trait]
impl Queue for RedisQueue {
    /// `durable` and `whole_jobs` are what the server last said; before the first connection, no ([`RedisQueue::check`] asks).
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.durable = self.shared.main.facts().is_some_and(|facts| facts.durable());
        capabilities.whole_jobs = self.whole_jobs() == WholeJobs::Allowed;
        capabilities.max_body_bytes = self.shared.config.max_body_bytes;
        capabilities
    }

    async fn publish(&self, line: &Line, messages: Vec<Message>) -> Result<()> {
        let publishing = async {
            self.refuse(line, &messages)?;
            self.add(line, &messages).await
        };
        publishing.await.map_err(|fault: Fault| fault.at("queue.publish"))
    }

    async fn receive(&self, request: Receive) -> Result<Vec<Delivery>> {
        receive::receive(&self.shared, request).await
    }

    async fn acknowledge(&self, deliveries: &[Delivery]) -> Result<()> {
        let operation = "queue.acknowledge";
        let ids = ids(deliveries).map_err(|fault| fault.at(operation))?;
        match keeper::acknowledge(&self.shared, &ids).await {
            Ok(()) => Ok(()),
            Err(fault) => {
                // Whoever asked may ask again; if not, the server still learns of it.
                self.shared.held().settle_later(ids);
                Err(fault.at(operation))
            }
        }
    }

    async fn give_back(&self, deliveries: Vec<Delivery>) -> Result<()> {
        self.back(deliveries).await.map_err(|fault| fault.at("queue.give_back"))
    }

    async fn depth(&self, line: &Line) -> Result<Depth> {
        let asking = async {
            let mut depth = script::DEPTH.key(self.shared.keys.stream(line));
            depth.arg(GROUP);
            let answer = self.shared.ask(Ask::Script(&depth), true).await?;
            let (all, pending) =
                <(u64, u64)>::from_redis_value(answer).map_err(|error| Fault::Answer(error.to_string()))?;
            Ok(Depth {
                waiting: all.saturating_sub(pending),
                unacknowledged: pending,
                // Blocked clients are not told by line.
                receivers: None,
            })
        };
        asking.await.map_err(|fault: Fault| fault.at("queue.depth"))
    }

    async fn broker_key(&self, line: &Line) -> Result<BrokerKey> {
        let asking = async {
            let fresh = uuid::Uuid::new_v4().simple().to_string();
            let (ms, seq) = self.shared.last_id(line);
            let mut key = script::BROKER_KEY.key(self.shared.keys.stream(line));
            key.arg(&fresh).arg(ms).arg(seq);
            let answer = self.shared.ask(Ask::Script(&key), true).await?;
            let key = String::from_redis_value(answer).map_err(|error| Fault::Answer(error.to_string()))?;
            if key == fresh {
                self.shared.forget_id(line);
            }
            Ok(BrokerKey(key))
        };
        asking.await.map_err(|fault: Fault| fault.at("queue.broker_key"))
    }
}

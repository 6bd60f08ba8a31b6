//! The seam's methods over the lines: what waits, waits here, and holds nothing while it does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use robata_core::{
    Result,
    job::Line,
    queue::{BrokerKey, Capabilities, Delivery, Depth, Message, Queue, Receive},
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use uuid::Uuid;

use crate::{
    MemoryConfig,
    error::MemoryError,
    lines::{Index, Lines},
};

/// A queue in this process's memory. Clones are the same queue.
#[derive(Clone, Debug)]
pub struct MemoryQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: MemoryConfig,
    key: BrokerKey,
    lines: Mutex<Lines>,
}

impl MemoryQueue {
    /// An empty queue, with a broker key of its own.
    #[must_use]
    pub fn new(config: MemoryConfig) -> Self {
        let random = Uuid::new_v4();
        Self {
            shared: Arc::new(Shared {
                config,
                key: BrokerKey(random.to_string()),
                lines: Mutex::new(Lines::new(random.as_u64_pair().0)),
            }),
        }
    }
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        // Nothing that holds the lock can panic halfway through a change.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A receiver that is woken by its lines until it is dropped, at whichever await that is.
struct Waiting<'a> {
    shared: &'a Shared,
    wanted: &'a [(Index, u32)],
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.lines().leave(self.wanted, self.number);
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.durable = false;
        capabilities.max_body_bytes = self.shared.config.max_body_bytes;
        capabilities
    }

    async fn publish(&self, line: &Line, messages: Vec<Message>) -> Result<()> {
        let max = self.shared.config.max_body_bytes;
        if let Some(large) = messages.iter().find(|message| message.body.len() > max) {
            let bytes = large.body.len();
            return Err(MemoryError::BodyTooLarge {
                line: line.clone(),
                bytes,
                max,
            }
            .at("queue.publish"));
        }
        self.shared.lines().publish(line, messages);
        Ok(())
    }

    async fn receive(&self, request: Receive) -> Result<Vec<Delivery>> {
        // A full queue never waits: without this a consumer's loop would not let anybody else run.
        tokio::task::coop::consume_budget().await;
        if let Some((line, _)) = request.lines.iter().find(|(_, weight)| *weight == 0) {
            return Err(MemoryError::NoWeight { line: line.clone() }.at("queue.receive"));
        }
        // `None`: the wait is so long that it has no end.
        let deadline = Instant::now().checked_add(request.wait);
        let woken = Arc::new(Notify::new());
        // Between taking and returning there is no await: a future that is dropped has taken nothing.
        let (wanted, number) = {
            let mut lines = self.shared.lines();
            let wanted = lines.resolve(&request.lines);
            let deliveries = lines.take(&wanted, request.max);
            if !deliveries.is_empty() || request.wait.is_zero() {
                return Ok(deliveries);
            }
            let number = lines.wait_on(&wanted, &woken);
            (wanted, number)
        };
        let _waiting = Waiting {
            shared: &self.shared,
            wanted: &wanted,
            number,
        };
        loop {
            let in_time = match deadline {
                Some(deadline) => timeout_at(deadline, woken.notified()).await.is_ok(),
                None => {
                    woken.notified().await;
                    true
                }
            };
            let deliveries = self.shared.lines().take(&wanted, request.max);
            if !deliveries.is_empty() || !in_time {
                return Ok(deliveries);
            }
        }
    }

    async fn acknowledge(&self, deliveries: &[Delivery]) -> Result<()> {
        let mut lines = self.shared.lines();
        for delivery in deliveries {
            lines.settle(delivery);
        }
        Ok(())
    }

    async fn give_back(&self, deliveries: Vec<Delivery>) -> Result<()> {
        let mut lines = self.shared.lines();
        for delivery in deliveries {
            // What was acknowledged or given back before must not come a second time.
            if lines.settle(&delivery) {
                lines.publish(&delivery.line, vec![delivery.message]);
            }
        }
        Ok(())
    }

    async fn depth(&self, line: &Line) -> Result<Depth> {
        Ok(self.shared.lines().depth(line))
    }

    async fn broker_key(&self, _line: &Line) -> Result<BrokerKey> {
        Ok(self.shared.key.clone())
    }
}

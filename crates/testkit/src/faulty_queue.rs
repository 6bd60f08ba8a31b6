//! A queue behind faults and gates, which may call itself durable, and take less than it says: what happens to whole jobs is
//! tried without a broker.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use robata_core::{
    Error, ErrorKind, Result,
    job::Line,
    queue::{BrokerKey, Capabilities, Delivery, Depth, Message, Queue, Receive},
};

use crate::engine::Faults;

/// A queue behind faults; its calls are named `queue.METHOD`.
#[derive(Debug)]
pub struct FaultyQueue {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// What happens to the calls.
    pub faults: Arc<Faults>,
    /// Whether it says that it may take whole jobs; may change in time.
    pub whole_jobs: AtomicBool,
    /// A larger body is refused with its whole batch, though the capabilities do not say so: some brokers bound a line's
    /// messages by what only its own queue there knows. May change in time.
    pub takes: AtomicUsize,
}

#[async_trait]
impl Queue for FaultyQueue {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.queue.capabilities();
        capabilities.whole_jobs = self.whole_jobs.load(Ordering::SeqCst);
        capabilities
    }
    async fn publish(&self, line: &Line, messages: Vec<Message>) -> Result<()> {
        let takes = self.takes.load(Ordering::SeqCst);
        let large = messages
            .iter()
            .map(|message| message.body.len())
            .find(|bytes| *bytes > takes);
        let publishing = async {
            match large {
                Some(bytes) => {
                    let words = format!("a message for {line} has {bytes} bytes; its queue takes at most {takes}");
                    Err(Error::new(ErrorKind::Invalid, "queue.publish", words))
                }
                None => self.queue.publish(line, messages).await,
            }
        };
        self.faults.around("queue.publish", publishing).await
    }
    async fn receive(&self, request: Receive) -> Result<Vec<Delivery>> {
        self.faults.around("queue.receive", self.queue.receive(request)).await
    }
    async fn acknowledge(&self, deliveries: &[Delivery]) -> Result<()> {
        self.faults
            .around("queue.acknowledge", self.queue.acknowledge(deliveries))
            .await
    }
    async fn give_back(&self, deliveries: Vec<Delivery>) -> Result<()> {
        self.faults
            .around("queue.give_back", self.queue.give_back(deliveries))
            .await
    }
    async fn depth(&self, line: &Line) -> Result<Depth> {
        self.faults.around("queue.depth", self.queue.depth(line)).await
    }
    async fn broker_key(&self, line: &Line) -> Result<BrokerKey> {
        self.faults
            .around("queue.broker_key", self.queue.broker_key(line))
            .await
    }
}

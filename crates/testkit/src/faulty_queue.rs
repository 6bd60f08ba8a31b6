//! A queue behind faults and gates, which may call itself durable: what happens to whole jobs is tried without a broker.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use robata_core::{
    Result,
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
}

#[async_trait]
impl Queue for FaultyQueue {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.queue.capabilities();
        capabilities.whole_jobs = self.whole_jobs.load(Ordering::SeqCst);
        capabilities
    }
    async fn publish(&self, line: &Line, messages: Vec<Message>) -> Result<()> {
        self.faults
            .around("queue.publish", self.queue.publish(line, messages))
            .await
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

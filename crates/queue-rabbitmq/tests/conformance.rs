//! RabbitMQ keeps the contract of `robata_core::queue`: each case on a real server, in an installation of its own.

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod broker;

use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use robata_core::{
    job::Line,
    queue::{BrokerKey, Capabilities, Delivery, Depth, Message, Queue, Receive},
};
use robata_queue_rabbitmq::{RabbitMqConfig, RabbitMqQueue};
use robata_testkit::queue::Broker;

/// The queue under test, which notes the lines that it was asked about: a broker has no list of them for its clients.
#[derive(Clone, Debug)]
struct Noted {
    queue: RabbitMqQueue,
    lines: Arc<std::sync::Mutex<std::collections::BTreeSet<Line>>>,
}

impl Noted {
    fn note(&self, line: &Line) {
        self.lines.lock().expect("nobody fails with it").insert(line.clone());
    }
}

#[async_trait]
impl Queue for Noted {
    fn capabilities(&self) -> Capabilities {
        self.queue.capabilities()
    }

    async fn publish(&self, line: &Line, messages: Vec<Message>) -> robata_core::Result<()> {
        self.note(line);
        self.queue.publish(line, messages).await
    }

    async fn receive(&self, request: Receive) -> robata_core::Result<Vec<Delivery>> {
        request.lines.iter().for_each(|(line, _)| self.note(line));
        self.queue.receive(request).await
    }

    async fn acknowledge(&self, deliveries: &[Delivery]) -> robata_core::Result<()> {
        self.queue.acknowledge(deliveries).await
    }

    async fn give_back(&self, deliveries: Vec<Delivery>) -> robata_core::Result<()> {
        self.queue.give_back(deliveries).await
    }

    async fn depth(&self, line: &Line) -> robata_core::Result<Depth> {
        self.queue.depth(line).await
    }

    async fn broker_key(&self, line: &Line) -> robata_core::Result<BrokerKey> {
        self.note(line);
        self.queue.broker_key(line).await
    }
}

/// Loses what one installation has, as the loss of the broker's disk would: other tests use the same server.
async fn lose(config: &RabbitMqConfig, noted: &Noted) -> Result<()> {
    let lines = noted.lines.lock().expect("nobody fails with it").clone();
    let names: Vec<String> = lines.iter().flat_map(|line| broker::names(config, line)).collect();
    anyhow::ensure!(!names.is_empty(), "there is nothing to lose");
    broker::delete(&config.url, &names).await
}

mod rabbitmq_quorum_queues {
    use super::*;

    robata_testkit::queue_suite!(async || {
        let config = broker::config()?;
        let noted = Noted {
            queue: broker::queue(&config).context("a queue")?,
            lines: Arc::default(),
        };
        let same = noted.clone();
        Ok(Broker::new(noted, move || {
            let (config, same) = (config.clone(), same.clone());
            async move {
                lose(&config, &same).await?;
                Ok(Arc::new(same) as Arc<dyn Queue>)
            }
        }))
    });
}

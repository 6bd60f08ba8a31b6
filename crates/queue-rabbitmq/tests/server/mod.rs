//! A RabbitMQ of a test's own, for what would break it for others, with queues on it.

use std::time::Duration;

use anyhow::Result;
use robata_queue_rabbitmq::{RabbitMqConfig, RabbitMqQueue};
use robata_testkit::{case::until, rabbitmq::Node};
use tempfile::TempDir;

/// A node listens before it lets anybody in; two at once on two cores take their time.
const UP: Duration = Duration::from_secs(60);

/// A node in a folder of its own.
#[derive(Debug)]
pub(crate) struct Server {
    /// Ends before its folder goes.
    pub(crate) node: Node,
    _folder: TempDir,
}

impl Server {
    /// Starts a node; `settings` are further lines of its `rabbitmq.conf`.
    pub(crate) async fn start(settings: &str) -> Result<Self> {
        let folder = TempDir::new()?;
        let server = Self {
            node: Node::start(folder.path(), settings).await?,
            _folder: folder,
        };
        server.until_open().await?;
        Ok(server)
    }

    /// Starts the node on the data that it left, and waits until it serves.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        self.node.resume().await?;
        self.until_open().await
    }

    async fn until_open(&self) -> Result<()> {
        until("it lets clients in", UP, async || {
            Ok(self.queue()?.check().await.ok().map(|_| ()))
        })
        .await
    }

    /// kill -9, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.node.kill()
    }

    /// Runs `rabbitmqctl` with these words.
    pub(crate) async fn control(&self, words: &[&str]) -> Result<String> {
        self.node.control(words).await
    }

    pub(crate) fn config(&self) -> RabbitMqConfig {
        RabbitMqConfig {
            response_timeout: Duration::from_secs(3),
            ..RabbitMqConfig::new(self.node.url(), "test")
        }
    }

    pub(crate) fn queue(&self) -> Result<RabbitMqQueue> {
        Ok(RabbitMqQueue::connect(self.config())?)
    }
}

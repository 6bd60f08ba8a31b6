//! The broker of the run: of one kind or another, and each kind with faults of its own.

use std::{fmt, net::SocketAddr, path::Path};

use anyhow::Result;
use robata_testkit::rabbitmq::Node;

use crate::{faults::Fault, redis::Redis, sqs::Sqs};

/// The executors whose lines hold references only: what such a line had is in the store, and goes out again. Nothing else in a
/// broker is ever destroyed, for a job that was taken in while the store was away is nowhere else.
pub(crate) const LINES: [&str; 2] = ["process", "docker"];

/// Which broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Redis,
    #[value(name = "rabbitmq")]
    RabbitMq,
    Sqs,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Redis => "Redis",
            Self::RabbitMq => "RabbitMQ",
            Self::Sqs => "SQS",
        })
    }
}

/// A broker that the run started.
#[derive(Debug)]
pub(crate) enum Broker {
    Redis(Redis),
    RabbitMq(Node),
    Sqs(Sqs),
}

impl Broker {
    pub(crate) async fn start(kind: Kind, work: &Path) -> Result<Self> {
        Ok(match kind {
            Kind::Redis => Self::Redis(Redis::start(work).await?),
            Kind::RabbitMq => Self::RabbitMq(Node::start(&work.join("rabbitmq"), "").await?),
            Kind::Sqs => Self::Sqs(Sqs::start(work).await?),
        })
    }

    /// What can befall it, as often as that comes.
    pub(crate) fn faults(&self) -> &'static [Fault] {
        match self {
            Self::Redis(_) => &[Fault::KillBroker, Fault::EmptyBroker],
            Self::RabbitMq(_) => &[Fault::KillBroker, Fault::CloseConnections, Fault::EmptyBroker],
            Self::Sqs(_) => &[Fault::StopBroker, Fault::EmptyBroker],
        }
    }

    /// Where daemons reach it, through a proxy each.
    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Redis(redis) => redis.address(),
            Self::RabbitMq(node) => SocketAddr::from(([127, 0, 0, 1], node.port())),
            Self::Sqs(sqs) => sqs.address(),
        }
    }

    /// A daemon's settings, where it reaches the broker at this port.
    pub(crate) fn settings(&self, port: u16) -> String {
        match self {
            Self::Redis(_) => format!("[queue.redis]\nurl = \"redis://127.0.0.1:{port}\"\n"),
            Self::RabbitMq(_) => format!("[queue.rabbitmq]\nurl = \"amqp://guest:guest@127.0.0.1:{port}\"\n"),
            Self::Sqs(_) => format!(
                "[queue.sqs]\nregion = \"us-east-1\"\nendpoint = \"http://127.0.0.1:{port}\"\naccess_key_id = \"test\"\n\
                 secret_access_key = \"test\"\n"
            ),
        }
    }

    /// Kill -9; it keeps its data. One that has it in memory only is put to sleep.
    pub(crate) fn crash(&mut self) -> Result<()> {
        match self {
            Self::Redis(redis) => redis.crash(),
            Self::RabbitMq(node) => node.kill(),
            Self::Sqs(sqs) => sqs.sleep(),
        }
    }

    /// Starts it again on its data, or wakes it.
    pub(crate) async fn resume(&mut self) -> Result<()> {
        match self {
            Self::Redis(redis) => redis.resume().await,
            Self::RabbitMq(node) => node.resume().await,
            Self::Sqs(sqs) => sqs.wake(),
        }
    }

    /// Loses what waits in [`LINES`], with all that stands beside it.
    pub(crate) async fn empty(&self) -> Result<()> {
        match self {
            Self::Redis(redis) => redis.empty().await,
            Self::RabbitMq(node) => delete_lines(node).await,
            Self::Sqs(sqs) => sqs.empty().await,
        }
    }

    /// Ends every client's connection, as an operator can.
    pub(crate) async fn close_connections(&self) -> Result<()> {
        match self {
            Self::Redis(_) | Self::Sqs(_) => Ok(()),
            Self::RabbitMq(node) => {
                let why = "a fault run";
                node.control(&["close_all_connections", why]).await.map(drop)
            }
        }
    }
}

async fn delete_lines(node: &Node) -> Result<()> {
    let queues = node.control(&["list_queues", "--no-table-headers", "name"]).await?;
    let of_references = |name: &&str| {
        let line = name.contains(".line.");
        line && LINES.iter().any(|executor| name.ends_with(&format!("/{executor}")))
    };
    for name in queues.lines().filter(of_references) {
        node.control(&["delete_queue", name]).await?;
    }
    Ok(())
}

//! The server that tests share, a way to it that can be cut, and short words for what they do with a queue.

pub(crate) mod traffic;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use lapin::{Connection, ConnectionProperties, options::QueueDeleteOptions};
use robata_core::{
    job::Line,
    queue::{Delivery, Message, Queue, Receive},
};
use robata_queue_rabbitmq::{RabbitMqConfig, RabbitMqQueue};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The server that all tests share.
pub(crate) fn url() -> Result<String> {
    std::env::var("ROBATA_TEST_RABBITMQ_URL")
        .context("ROBATA_TEST_RABBITMQ_URL is not set: the address of a RabbitMQ that these tests may use")
}

/// An installation of a test's own on it.
pub(crate) fn config() -> Result<RabbitMqConfig> {
    let installation = format!("test-{}", uuid::Uuid::new_v4().simple());
    Ok(RabbitMqConfig {
        response_timeout: Duration::from_secs(4),
        ..RabbitMqConfig::new(url()?, installation)
    })
}

pub(crate) fn queue(config: &RabbitMqConfig) -> Result<RabbitMqQueue> {
    Ok(RabbitMqQueue::connect(config.clone())?)
}

/// The broker's own names of what a line has there: its queue, and the stream with its key.
pub(crate) fn names(config: &RabbitMqConfig, line: &Line) -> [String; 2] {
    ["line", "key"].map(|part| format!("robata.{}.{part}.{line}", config.installation))
}

/// A channel by hand.
pub(crate) async fn by_hand(url: &str) -> Result<(Connection, lapin::Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// Deletes queues, as an operator would.
pub(crate) async fn delete(url: &str, names: &[String]) -> Result<()> {
    let (_connection, channel) = by_hand(url).await?;
    for name in names {
        let options = QueueDeleteOptions::default();
        channel.queue_delete(name.as_str().into(), options).await?;
    }
    Ok(())
}

/// A way to a server that passes bytes on until it is told not to.
#[derive(Debug)]
pub(crate) struct Proxy {
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct Gate {
    /// So many bytes of answers pass before the connection is cut.
    budget: AtomicI64,
    /// Connections of an older age pass nothing, and are not closed.
    age: AtomicU64,
}

impl Proxy {
    /// A way to the server of this address, and the address by that way.
    pub(crate) async fn to(url: &str) -> Result<(Self, String)> {
        let (login, host) = url.rsplit_once('@').context("an address with a login")?;
        let (host, path) = host.split_once('/').unwrap_or((host, "%2f"));
        let server = host.to_owned();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let gate = Arc::new(Gate {
            budget: AtomicI64::new(i64::MAX),
            age: AtomicU64::new(0),
        });
        let shared = Arc::clone(&gate);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (gate, server) = (Arc::clone(&shared), server.clone());
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else {
                        return;
                    };
                    drop(pass(client, server, gate).await);
                });
            }
        });
        Ok((Self { gate }, format!("{login}@127.0.0.1:{port}/{path}")))
    }

    /// Cuts the connection that passes the so-manyth byte of answers from now on.
    pub(crate) fn cut_after(&self, bytes: i64) {
        self.gate.budget.store(bytes, Ordering::SeqCst);
    }

    /// From now on the connections that stand pass nothing, and nobody is told.
    pub(crate) fn freeze(&self) {
        self.gate.age.fetch_add(1, Ordering::SeqCst);
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, gate: Arc<Gate>) -> Result<()> {
    let age = gate.age.load(Ordering::SeqCst);
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        let (from_client, read) = tokio::select! {
            read = client.read(&mut up) => (true, read?),
            read = server.read(&mut down) => (false, read?),
        };
        if gate.age.load(Ordering::SeqCst) != age {
            std::future::pending::<()>().await;
        }
        if read == 0 {
            return Ok(());
        }
        if from_client {
            server.write_all(&up[..read]).await?;
            continue;
        }
        let size = i64::try_from(read)?;
        let left = gate.budget.fetch_sub(size, Ordering::SeqCst);
        if left < size {
            client.write_all(&down[..usize::try_from(left.max(0))?]).await?;
            // One connection is cut; the next ones pass.
            gate.budget.store(i64::MAX, Ordering::SeqCst);
            return Ok(());
        }
        client.write_all(&down[..read]).await?;
    }
}

pub(crate) fn line(name: &str) -> Line {
    Line {
        queue: name.parse().expect("a name"),
        executor: "docker".parse().expect("a name"),
    }
}

pub(crate) fn numbered(range: std::ops::Range<usize>) -> Vec<Message> {
    range
        .map(|number| Message {
            body: number.to_string().into(),
            ..Message::default()
        })
        .collect()
}

pub(crate) fn number(delivery: &Delivery) -> Result<usize> {
    Ok(std::str::from_utf8(&delivery.message.body)?.parse()?)
}

pub(crate) fn want(line: &Line, max: usize, wait: Duration) -> Receive {
    Receive {
        lines: vec![(line.clone(), 1)],
        max,
        wait,
    }
}

/// Receives until `count` came, also where the server fails in between; acknowledges none.
pub(crate) async fn collect(queue: &RabbitMqQueue, line: &Line, count: usize) -> Result<Vec<Delivery>> {
    let deadline = Instant::now() + SOON;
    let (mut all, mut last) = (Vec::new(), None);
    while all.len() < count {
        anyhow::ensure!(
            Instant::now() < deadline,
            "{} of {count} came within {SOON:?}; the last error: {last:?}",
            all.len()
        );
        match queue
            .receive(want(line, count - all.len(), Duration::from_millis(500)))
            .await
        {
            Ok(got) => all.extend(got),
            Err(error) => {
                last = Some(error);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    Ok(all)
}

/// Asks again until the server has answered well.
pub(crate) async fn insist<T>(what: &str, mut call: impl AsyncFnMut() -> robata_core::Result<T>) -> Result<T> {
    let deadline = Instant::now() + SOON;
    loop {
        match call().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => anyhow::bail!("{what}: {}", error.full()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

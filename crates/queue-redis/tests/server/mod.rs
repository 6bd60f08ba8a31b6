//! A redis-server of a test's own, and a way to it that can be cut: what these tests break must be nobody else's.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use robata_core::{
    job::Line,
    queue::{Delivery, Message, Queue, Receive},
};
use robata_queue_redis::{RedisConfig, RedisQueue};
use robata_testkit::case::until;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

pub(crate) const SOON: Duration = Duration::from_secs(20);
/// A consumer is dead after this in these tests.
pub(crate) const EXPIRY: Duration = Duration::from_millis(1500);

/// A server on a free port of the loopback address; ends with the value.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) folder: TempDir,
    child: Child,
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn spawn(port: u16, folder: &TempDir, options: &[&str]) -> Result<Child> {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
        .arg(folder.path())
        .args(["--save", ""])
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("redis-server must be on the PATH for the tests that break it")
}

impl Server {
    pub(crate) async fn start(options: &[&str]) -> Result<Self> {
        Self::start_at(free_port()?, options).await
    }

    pub(crate) async fn start_at(port: u16, options: &[&str]) -> Result<Self> {
        let folder = TempDir::new()?;
        let child = spawn(port, &folder, options)?;
        let server = Self { port, folder, child };
        server.up().await?;
        Ok(server)
    }

    pub(crate) async fn up(&self) -> Result<()> {
        until("redis-server serves", SOON, async || {
            let Ok(mut link) = self.link().await else {
                return Ok(None);
            };
            let answer = redis::cmd("PING").query_async::<String>(&mut link).await;
            // One that wants a password serves, too.
            let serves = answer.map_or_else(|error| error.code() == Some("NOAUTH"), |_| true);
            Ok(serves.then_some(()))
        })
        .await
    }

    /// kill -9, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) async fn start_again(&mut self, options: &[&str]) -> Result<()> {
        self.child = spawn(self.port, &self.folder, options)?;
        self.up().await
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn config(&self) -> RedisConfig {
        RedisConfig {
            consumer_expiry: EXPIRY,
            response_timeout: Duration::from_secs(2),
            ..RedisConfig::new(self.url(), "test")
        }
    }

    pub(crate) fn queue(&self) -> Result<RedisQueue> {
        Ok(RedisQueue::connect(self.config())?)
    }

    pub(crate) async fn link(&self) -> Result<redis::aio::MultiplexedConnection> {
        // Some administration waits for the replicas' word, and a busy machine keeps a connection waiting.
        let options = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(SOON))
            .set_response_timeout(Some(SOON));
        Ok(redis::Client::open(self.url())?
            .get_multiplexed_async_connection_with_config(&options)
            .await?)
    }

    /// Runs one command, its words parted by spaces.
    pub(crate) async fn run<T: redis::FromRedisValue>(&self, command: &str) -> Result<T> {
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().context("no command")?);
        Ok(cmd
            .arg(words.collect::<Vec<_>>())
            .query_async(&mut self.link().await?)
            .await?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed by its test already.
        drop(self.kill());
    }
}

/// A way to a server that passes bytes on until it is told not to.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Gate>,
}

#[derive(Debug)]
struct Gate {
    /// So many bytes of answers pass before the connection is cut.
    budget: AtomicI64,
    /// Connections of an older age pass nothing, and are not closed.
    age: AtomicU64,
}

impl Proxy {
    pub(crate) async fn to(server: u16) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Gate {
            budget: AtomicI64::new(i64::MAX),
            age: AtomicU64::new(0),
        });
        let gate = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
                        return;
                    };
                    drop(pass(client, server, gate).await);
                });
            }
        });
        Ok(Self { port, shared })
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Cuts the connection that passes the so-manyth byte of answers from now on.
    pub(crate) fn cut_after(&self, bytes: i64) {
        self.shared.budget.store(bytes, Ordering::SeqCst);
    }

    /// From now on the connections that stand pass nothing, and nobody is told.
    pub(crate) fn freeze(&self) {
        self.shared.age.fetch_add(1, Ordering::SeqCst);
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
pub(crate) async fn collect(queue: &RedisQueue, line: &Line, count: usize) -> Result<Vec<Delivery>> {
    let deadline = Instant::now() + SOON;
    let mut all = Vec::new();
    while all.len() < count {
        anyhow::ensure!(
            Instant::now() < deadline,
            "{} of {count} came within {SOON:?}",
            all.len()
        );
        match queue
            .receive(want(line, count - all.len(), Duration::from_millis(500)))
            .await
        {
            Ok(got) => all.extend(got),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
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

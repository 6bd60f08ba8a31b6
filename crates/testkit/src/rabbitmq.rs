//! A RabbitMQ node of a test's own, for what would break it for others: killed, and started again on the data that it left.

use std::{
    fs,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// A node takes some seconds to start; several at once on two cores take more.
const UP: Duration = Duration::from_secs(60);
/// How Erlang's distribution is kept on this machine.
const LOOPBACK: &str = "-kernel inet_dist_use_interface {127,0,0,1}";

/// A node on free ports of the loopback address, with a port mapper of its own; both end with the value.
#[derive(Debug)]
pub struct Node {
    port: u16,
    name: String,
    mapper_port: u16,
    distribution_port: u16,
    folder: PathBuf,
    mapper: Child,
    /// `None` while it does not run.
    node: Option<Child>,
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Debian's own commands insist on another user; the programs behind them do not.
fn program(name: &str) -> PathBuf {
    let plain = Path::new("/usr/lib/rabbitmq/bin").join(name);
    if plain.exists() { plain } else { name.into() }
}

/// Whether a broker answers there: it sends the first word of AMQP's greeting.
async fn greets(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"AMQP\0\0\x09\x01").await?;
    let mut frame = [0; 1];
    timeout(Duration::from_secs(5), stream.read_exact(&mut frame)).await??;
    ensure!(frame == [1], "it answers {frame:?}");
    Ok(())
}

impl Node {
    /// Starts a node that keeps all that it has in this folder; `settings` are further lines of its `rabbitmq.conf`.
    ///
    /// # Errors
    /// Where RabbitMQ or Erlang is not there, or does not serve in time.
    pub async fn start(folder: &Path, settings: &str) -> Result<Self> {
        let (port, mapper_port, distribution_port) = (free_port()?, free_port()?, free_port()?);
        fs::create_dir_all(folder)?;
        let conf = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\ndisk_free_limit.absolute = 50MB\nlog.console = true\n\
             log.console.level = warning\nlog.file = false\n{settings}\n"
        );
        fs::write(folder.join("rabbitmq.conf"), conf)?;
        fs::write(folder.join("enabled_plugins"), "[].\n")?;
        let mapper = Command::new("epmd")
            .args(["-address", "127.0.0.1", "-port", &mapper_port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("epmd (of Erlang) must be on the PATH to start a RabbitMQ")?;
        let mut node = Self {
            port,
            name: format!("robata{port}@localhost"),
            mapper_port,
            distribution_port,
            folder: folder.to_owned(),
            mapper,
            node: None,
        };
        node.resume().await?;
        Ok(node)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, with the login that every new node has.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.port)
    }

    /// All that it has said: warnings and errors.
    ///
    /// # Errors
    /// Where its log cannot be read.
    pub fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join("node.log"))?)
    }

    fn command(&self, name: &str) -> Command {
        let folder = &self.folder;
        let mut command = Command::new(program(name));
        command
            .env("HOME", folder)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.mapper_port.to_string())
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("no-environment"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
            // Schedulers that wait by spinning would take a core from the tests.
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                format!("{LOOPBACK} +sbwt none +sbwtdcpu none +sbwtdio none"),
            )
            .env("RABBITMQ_CTL_ERL_ARGS", LOOPBACK)
            // Then its script becomes the node, instead of watching over it.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .stdin(Stdio::null())
            .process_group(0);
        command
    }

    /// Starts it on the data that it left, and waits until it greets.
    ///
    /// # Errors
    /// Where it cannot be started, ends, or does not serve in time.
    pub async fn resume(&mut self) -> Result<()> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("node.log"))?;
        let mut node = self
            .command("rabbitmq-server")
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("rabbitmq-server must be there for the tests that break it")?;
        let deadline = Instant::now() + UP;
        let served = loop {
            match greets(self.port).await {
                Ok(()) => break Ok(()),
                Err(_) if node.try_wait()?.is_some() => break Err("it has ended"),
                Err(_) if Instant::now() >= deadline => break Err("it does not serve"),
                // Asked again at intervals; the state is waited for.
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        };
        self.node = Some(node);
        served.map_err(|why| anyhow::anyhow!("rabbitmq-server: {why}: {}", self.said().unwrap_or_default()))
    }

    /// kill -9, and waits until it is gone.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut node = self.node.take().context("the node does not run")?;
        node.kill()?;
        node.wait()?;
        Ok(())
    }

    /// Runs `rabbitmqctl` with these words, and answers what it prints.
    ///
    /// # Errors
    /// Where it says no, with its own words.
    pub async fn control(&self, words: &[&str]) -> Result<String> {
        let mut command = self.command("rabbitmqctl");
        command.args(["--quiet", "--node", &self.name]).args(words);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        ensure!(
            output.status.success(),
            "rabbitmqctl {words:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have been killed by its test already.
        if let Some(mut node) = self.node.take() {
            drop(node.kill());
            drop(node.wait());
        }
        drop(self.mapper.kill());
        drop(self.mapper.wait());
    }
}

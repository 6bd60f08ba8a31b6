//! Redis of the run's own.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    broker::LINES,
    servers::{end, free_port, log_to, program, until},
};

/// Redis.
#[derive(Debug)]
pub(crate) struct Redis {
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Redis {
    pub(crate) async fn start(work: &Path) -> Result<Self> {
        let folder = work.join("redis");
        fs::create_dir(&folder)?;
        let mut server = Self {
            folder,
            port: free_port()?,
            child: None,
        };
        server.resume().await?;
        Ok(server)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Kill -9.
    pub(crate) fn crash(&mut self) -> Result<()> {
        match &mut self.child {
            Some(child) => end(child, Signal::SIGKILL)?,
            None => bail!("it does not run"),
        }
        self.child = None;
        Ok(())
    }

    pub(crate) async fn resume(&mut self) -> Result<()> {
        let child = Command::new(program("redis-server")?)
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--appendonly",
                "yes",
            ])
            .args(["--maxmemory-policy", "noeviction", "--dir"])
            .arg(&self.folder)
            .stdin(Stdio::null())
            .stdout(log_to(&self.folder.with_extension("log"))?)
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start Redis")?;
        self.child = Some(child);
        until("Redis answers", Duration::from_secs(30), || self.say(&["PING"])).await
    }

    /// Loses everything that references wait in, at one stroke.
    pub(crate) async fn empty(&self) -> Result<()> {
        let pattern = LINES.map(|executor| format!("'*:line:*/{executor}'")).join(",");
        let script = format!(
            "for _, pattern in ipairs({{{pattern}}}) do \
             for _, key in ipairs(redis.call('KEYS', pattern)) do redis.call('DEL', key) end end \
             return redis.status_reply('OK')"
        );
        self.say(&["EVAL", &script, "0"]).await
    }

    async fn say(&self, words: &[&str]) -> Result<()> {
        let mut stream = TcpStream::connect(self.address()).await?;
        let mut said = format!("*{}\r\n", words.len());
        for word in words {
            said += &format!("${}\r\n{word}\r\n", word.len());
        }
        stream.write_all(said.as_bytes()).await?;
        let mut answer = [0; 256];
        let count = stream.read(&mut answer).await?;
        ensure!(
            answer[..count].starts_with(b"+"),
            "it answers {:?}",
            String::from_utf8_lossy(&answer[..count])
        );
        Ok(())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // What has ended already is fine, too.
        self.child.as_mut().map(|child| end(child, Signal::SIGKILL).ok());
    }
}

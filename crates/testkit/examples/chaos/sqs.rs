//! SQS of the run's own: the emulator. It keeps all in memory, so it is put to sleep and not killed: a job that was taken in
//! while the database was away would be nowhere.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::Client;
use robata_testkit::http;
use serde_json::{Value, json};

use crate::{
    broker::LINES,
    servers::{end, free_port, log_to, program, until},
};

/// Python's start on a busy machine.
const UP: Duration = Duration::from_secs(60);
/// One request, which other clients' may stand before.
const PATIENCE: Duration = Duration::from_secs(20);
/// The tag with a line's full name (robata-queue-sqs's README).
const LINE_TAG: &str = "robata:line";

/// The emulator.
#[derive(Debug)]
pub(crate) struct Sqs {
    port: u16,
    child: Child,
    client: Client,
}

impl Sqs {
    pub(crate) async fn start(work: &Path) -> Result<Self> {
        let port = free_port()?;
        let child = Command::new(program("ministack")?)
            .env("BIND_HOST", "127.0.0.1")
            .env("MINISTACK_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", port.to_string())
            .current_dir(work)
            .stdin(Stdio::null())
            .stdout(log_to(&work.join("sqs.log"))?)
            .stderr(log_to(&work.join("sqs.log"))?)
            .process_group(0)
            .spawn()
            .context("cannot start ministack")?;
        let server = Self {
            port,
            child,
            client: http().build()?,
        };
        until("SQS answers", UP, || async {
            server.ask("ListQueues", json!({})).await.map(drop)
        })
        .await?;
        Ok(server)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Its connections stay and nothing is answered.
    pub(crate) fn sleep(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    pub(crate) fn wake(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().cast_signed()), signal)?)
    }

    /// Loses the queues that references wait in, with their tags.
    pub(crate) async fn empty(&self) -> Result<()> {
        let queues = self.ask("ListQueues", json!({"QueueNamePrefix": "robata-"})).await?;
        for url in queues["QueueUrls"].as_array().into_iter().flatten() {
            let queue = json!({"QueueUrl": url});
            let tags = self.ask("ListQueueTags", queue.clone()).await?;
            // Without it this fault would befall nothing, and nobody would know.
            let line = tags["Tags"][LINE_TAG].as_str();
            let line = line.with_context(|| format!("{url} does not tell its line: {tags}"))?;
            if LINES.iter().any(|executor| line.ends_with(&format!("/{executor}"))) {
                self.ask("DeleteQueue", queue).await?;
            }
        }
        Ok(())
    }

    /// One request of SQS's JSON protocol
    /// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-making-api-requests-json.html>); the
    /// emulator reads the region and the account in the signature and does not check it.
    async fn ask(&self, action: &str, request: Value) -> Result<Value> {
        let answer = self
            .client
            .post(format!("http://{}/", self.address()))
            .timeout(PATIENCE)
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", format!("AmazonSQS.{action}"))
            .header(
                "authorization",
                "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0",
            )
            .body(request.to_string())
            .send()
            .await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{action}: {status}: {text}");
        Ok(if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text)?
        })
    }
}

impl Drop for Sqs {
    fn drop(&mut self) {
        // What has ended already is fine, too.
        end(&mut self.child, Signal::SIGKILL).ok();
    }
}

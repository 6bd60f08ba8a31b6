//! The service that tests share, what they do with it by hand, and short words for what they do with a queue.

pub(crate) mod between;

use std::time::Duration;

use anyhow::{Context, Result};
use robata_core::{
    job::Line,
    queue::{Delivery, Message, Queue, Receive},
};
use robata_queue_sqs::{SqsConfig, SqsQueue};
use serde_json::{Value, json};
use tokio::time::Instant;

pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The service that all tests share.
pub(crate) fn url() -> Result<String> {
    let url = std::env::var("ROBATA_TEST_SQS_URL");
    url.context("ROBATA_TEST_SQS_URL is not set: the address of an SQS, or of what stands in for it, for these tests")
}

/// An installation of a test's own on it.
pub(crate) fn config() -> Result<SqsConfig> {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    Ok(SqsConfig {
        region: Some("us-east-1".to_owned()),
        endpoint: Some(url()?),
        keys: Some(("test".to_owned(), "test".to_owned())),
        ..SqsConfig::new(format!("test-{unique}"))
    })
}

pub(crate) fn queue(config: &SqsConfig) -> Result<SqsQueue> {
    Ok(SqsQueue::connect(config.clone())?)
}

/// A call of the service by hand.
pub(crate) async fn api(action: &str, input: Value) -> Result<Value> {
    let answer = robata_testkit::http()
        .build()?
        .post(url()?)
        .header("x-amz-target", format!("AmazonSQS.{action}"))
        .header("content-type", "application/x-amz-json-1.0")
        .header(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0",
        )
        .body(input.to_string())
        .send()
        .await?;
    let (status, text) = (answer.status(), answer.text().await?);
    anyhow::ensure!(status.is_success(), "{action}: {status} {text}");
    Ok(if text.is_empty() {
        json!({})
    } else {
        serde_json::from_str(&text)?
    })
}

/// The address of a line's queue.
pub(crate) async fn address(queue: &SqsQueue, line: &Line) -> Result<String> {
    let found = api("GetQueueUrl", json!({"QueueName": queue.queue_name(line)})).await?;
    Ok(found["QueueUrl"].as_str().context("an address")?.to_owned())
}

/// Deletes all queues of an installation, as an operator would.
pub(crate) async fn delete_all(config: &SqsConfig) -> Result<usize> {
    let prefix = format!("robata-{}-", config.installation);
    let listed = api("ListQueues", json!({"QueueNamePrefix": prefix})).await?;
    let urls = listed["QueueUrls"].as_array().cloned().unwrap_or_default();
    for url in &urls {
        api("DeleteQueue", json!({"QueueUrl": url})).await?;
    }
    Ok(urls.len())
}

pub(crate) fn line(name: &str) -> Line {
    Line {
        queue: name.parse().expect("a name"),
        executor: "docker".parse().expect("a name"),
    }
}

pub(crate) fn text(body: impl Into<bytes::Bytes>) -> Message {
    Message {
        body: body.into(),
        ..Message::default()
    }
}

pub(crate) fn numbered(range: std::ops::Range<usize>) -> Vec<Message> {
    range.map(|number| text(number.to_string())).collect()
}

pub(crate) fn number(delivery: &Delivery) -> Result<usize> {
    Ok(std::str::from_utf8(&delivery.message.body)?.parse()?)
}

/// Their numbers, in order.
pub(crate) fn sorted(deliveries: &[Delivery]) -> Result<Vec<usize>> {
    let mut numbers = deliveries.iter().map(number).collect::<Result<Vec<_>>>()?;
    numbers.sort_unstable();
    Ok(numbers)
}

pub(crate) fn want(line: &Line, max: usize, wait: Duration) -> Receive {
    Receive {
        lines: vec![(line.clone(), 1)],
        max,
        wait,
    }
}

/// Receives until `count` came, also where the service fails in between; acknowledges none.
pub(crate) async fn collect(queue: &SqsQueue, line: &Line, count: usize) -> Result<Vec<Delivery>> {
    let deadline = Instant::now() + SOON;
    let (mut all, mut last) = (Vec::new(), None);
    while all.len() < count {
        anyhow::ensure!(
            Instant::now() < deadline,
            "{} of {count} came within {SOON:?}; the last error: {last:?}",
            all.len()
        );
        match queue
            .receive(want(line, count - all.len(), Duration::from_secs(1)))
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

/// Nothing comes within this time.
pub(crate) async fn nothing_comes(queue: &SqsQueue, line: &Line, within: Duration) -> Result<()> {
    let more = queue.receive(want(line, 10, within)).await?;
    anyhow::ensure!(more.is_empty(), "this should not have come: {more:?}");
    Ok(())
}

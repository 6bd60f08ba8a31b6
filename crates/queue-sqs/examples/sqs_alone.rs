//! A queue on SQS without the rest of Robata: publish, receive, acknowledge, give back.
//!
//! `cargo run -p robata-queue-sqs --example sqs_alone -- [ENDPOINT]`; region and credentials as Amazon's own tools find them.

use std::{io::Write, time::Duration};

use anyhow::Result;
use robata_core::{
    job::Line,
    queue::{Message, Queue, Receive},
};
use robata_queue_sqs::{SqsConfig, SqsQueue};

#[tokio::main]
async fn main() -> Result<()> {
    let queue = SqsQueue::connect(SqsConfig {
        endpoint: std::env::args().nth(1),
        ..SqsConfig::new("example")
    })?;
    let mut out = std::io::stdout();
    writeln!(out, "the service says: {:?}", queue.check().await?)?;

    let line = Line {
        queue: "mails".parse()?,
        executor: "process".parse()?,
    };
    writeln!(out, "{line} is the queue {}", queue.queue_name(&line))?;
    let letter = |text: &'static str| Message {
        body: text.into(),
        attributes: [("language".to_owned(), "en".to_owned())].into(),
    };
    queue.publish(&line, vec![letter("to Anna"), letter("to Bob")]).await?;

    let request = Receive {
        lines: vec![(line.clone(), 1)],
        max: 10,
        wait: Duration::from_secs(5),
    };
    let mut deliveries = queue.receive(request.clone()).await?;
    for delivery in &deliveries {
        writeln!(out, "received {:?}", delivery.message)?;
    }
    if let Some(busy) = deliveries.pop() {
        // No time for this one: another receiver may have it at once.
        queue.give_back(vec![busy]).await?;
    }
    queue.acknowledge(&deliveries).await?;
    let rest = queue.receive(request).await?;
    writeln!(out, "received again: {}", rest.len())?;
    queue.acknowledge(&rest).await?;
    writeln!(out, "left, as SQS sees it now: {:?}", queue.depth(&line).await?)?;
    Ok(())
}

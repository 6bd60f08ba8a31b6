//! A queue on RabbitMQ by itself: publishes, receives, gives one back, acknowledges.
//!
//! `cargo run -p robata-queue-rabbitmq --example rabbitmq_alone -- amqp://guest:guest@127.0.0.1:5672`

use std::{io::Write, time::Duration};

use robata_core::{
    job::Line,
    queue::{Message, Queue, Receive},
};
use robata_queue_rabbitmq::{RabbitMqConfig, RabbitMqQueue};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "amqp://guest:guest@127.0.0.1:5672".to_owned());
    let queue = RabbitMqQueue::connect(RabbitMqConfig::new(url, "example"))?;
    let mut out = std::io::stdout();
    writeln!(out, "the broker says: {:?}", queue.check().await?)?;

    let line = Line {
        queue: "mails".parse()?,
        executor: "process".parse()?,
    };
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
    writeln!(out, "left: {:?}", queue.depth(&line).await?)?;
    Ok(())
}

//! How many messages a second go through a queue on RabbitMQ, and how long one takes from end to end.
//!
//! `cargo run --release -p robata-queue-rabbitmq --example rabbitmq_measure -- amqp://guest:guest@127.0.0.1:5672 [COUNT]`

use std::{
    io::Write,
    time::{Duration, Instant},
};

use robata_core::{
    job::Line,
    queue::{Message, Queue, Receive},
};
use robata_queue_rabbitmq::{RabbitMqConfig, RabbitMqQueue};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let url = words
        .next()
        .unwrap_or_else(|| "amqp://guest:guest@127.0.0.1:5672".to_owned());
    let count: usize = words.next().map_or(Ok(20_000), |count| count.parse())?;
    let queue = RabbitMqQueue::connect(RabbitMqConfig::new(url, "measure"))?;
    let mut out = std::io::stdout();
    let line = Line {
        queue: format!("measure-{}", std::process::id()).parse()?,
        executor: "process".parse()?,
    };
    let messages = |count: usize| {
        vec![
            Message {
                body: "x".repeat(100).into(),
                ..Message::default()
            };
            count
        ]
    };
    let want = |max: usize| Receive {
        lines: vec![(line.clone(), 1)],
        max,
        wait: Duration::from_secs(10),
    };
    queue.publish(&line, messages(1)).await?;
    queue.acknowledge(&queue.receive(want(1)).await?).await?;

    for batch in [1, 10, 100, 1000] {
        let rounds = (count / batch).clamp(1, 500);
        let begun = Instant::now();
        for _ in 0..rounds {
            queue.publish(&line, messages(batch)).await?;
        }
        let published = begun.elapsed();
        let begun = Instant::now();
        let mut left = rounds * batch;
        let mut receives = 0;
        while left > 0 {
            let got = queue.receive(want(batch.min(left))).await?;
            anyhow::ensure!(!got.is_empty(), "{left} did not come");
            left -= got.len();
            receives += 1;
            queue.acknowledge(&got).await?;
        }
        let received = begun.elapsed();
        let each = |time: Duration| (rounds * batch) as f64 / time.as_secs_f64();
        writeln!(
            out,
            "batches of {batch:4}: published {:7.0}/s, received and acknowledged {:7.0}/s ({receives} receives, {:.1} ms each)",
            each(published),
            each(received),
            received.as_secs_f64() * 1000.0 / f64::from(receives)
        )?;
    }

    let mut times = Vec::new();
    for _ in 0..100 {
        let receiving = tokio::spawn({
            let (queue, want) = (queue.clone(), want(1));
            async move { queue.receive(want).await }
        });
        // The receiver is to wait already.
        tokio::time::sleep(Duration::from_millis(30)).await;
        let begun = Instant::now();
        queue.publish(&line, messages(1)).await?;
        let got = receiving.await??;
        times.push(begun.elapsed());
        queue.acknowledge(&got).await?;
    }
    times.sort_unstable();
    writeln!(
        out,
        "to a receiver that waits: median {:?}, worst {:?}",
        times[50], times[99]
    )?;
    Ok(())
}

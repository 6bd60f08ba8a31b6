//! What only the memory queue promises: its own bounds, its receipts, and how fast it is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use robata_core::{
    ErrorKind,
    job::Line,
    queue::{Message, Queue, Receive},
};
use robata_queue_memory::{MemoryConfig, MemoryQueue};

fn line(queue: &str) -> Result<Line> {
    Ok(Line {
        queue: queue.parse()?,
        executor: "process".parse()?,
    })
}

fn message(body: &'static str) -> Message {
    Message {
        body: body.into(),
        ..Message::default()
    }
}

fn at_once(line: &Line, max: usize) -> Receive {
    Receive {
        lines: vec![(line.clone(), 1)],
        max,
        wait: Duration::ZERO,
    }
}

#[tokio::test]
async fn what_was_acknowledged_cannot_be_given_back() -> Result<()> {
    let (queue, line) = (MemoryQueue::new(MemoryConfig::default()), line("mails")?);
    queue.publish(&line, vec![message("one"), message("two")]).await?;
    let got = queue.receive(at_once(&line, 2)).await?;
    queue.acknowledge(&got[..1]).await?;
    queue.give_back(got.clone()).await?;
    queue.give_back(got).await?;
    let again = queue.receive(at_once(&line, 10)).await?;
    assert_eq!(
        again
            .iter()
            .map(|delivery| &delivery.message.body[..])
            .collect::<Vec<_>>(),
        [b"two"]
    );
    Ok(())
}

#[tokio::test]
async fn receipts_of_another_queue_mean_nothing() -> Result<()> {
    let (one, two) = (
        MemoryQueue::new(MemoryConfig::default()),
        MemoryQueue::new(MemoryConfig::default()),
    );
    let line = line("mails")?;
    for queue in [&one, &two] {
        queue.publish(&line, vec![message("text")]).await?;
    }
    let (here, there) = (
        one.receive(at_once(&line, 1)).await?,
        two.receive(at_once(&line, 1)).await?,
    );
    one.acknowledge(&there).await?;
    assert_eq!(one.depth(&line).await?.unacknowledged, 1);
    one.acknowledge(&here).await?;
    assert_eq!(one.depth(&line).await?.unacknowledged, 0);
    assert_ne!(one.broker_key(&line).await?, two.broker_key(&line).await?);
    Ok(())
}

#[tokio::test]
async fn the_bound_of_bodies_is_the_configured_one_and_the_error_names_it() -> Result<()> {
    let queue = MemoryQueue::new(MemoryConfig::default().with_max_body_bytes(3));
    assert_eq!(queue.capabilities().max_body_bytes, 3);
    let line = line("mails")?;
    queue.publish(&line, vec![message("one")]).await?;
    let error = queue
        .publish(&line, vec![message("four")])
        .await
        .expect_err("a body over the bound");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("max_body_bytes"), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_weight_of_nothing_is_refused() -> Result<()> {
    let queue = MemoryQueue::new(MemoryConfig::default());
    let request = Receive {
        lines: vec![(line("mails")?, 0)],
        max: 1,
        wait: Duration::ZERO,
    };
    assert_eq!(
        queue.receive(request).await.expect_err("weight 0").kind(),
        ErrorKind::Invalid
    );
    Ok(())
}

#[tokio::test]
async fn a_line_named_twice_is_served_with_both_weights_and_gives_each_message_once() -> Result<()> {
    let (queue, line) = (MemoryQueue::new(MemoryConfig::default()), line("mails")?);
    queue.publish(&line, vec![message("one"), message("two")]).await?;
    let request = Receive {
        lines: vec![(line.clone(), 1), (line.clone(), 2)],
        max: 10,
        wait: Duration::ZERO,
    };
    assert_eq!(queue.receive(request).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_wait_without_end_is_ended_by_a_message() -> Result<()> {
    let (queue, line) = (MemoryQueue::new(MemoryConfig::default()), line("mails")?);
    let request = Receive {
        wait: Duration::MAX,
        ..at_once(&line, 1)
    };
    let receiver = tokio::spawn({
        let queue = queue.clone();
        async move { queue.receive(request).await }
    });
    tokio::task::yield_now().await;
    queue.publish(&line, vec![message("text")]).await?;
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(10), receiver).await???.len(),
        1
    );
    Ok(())
}

/// Through four lines with two consumers, in batches as the worker takes them. The bound is for an unoptimised build on a
/// busy machine; the figure is printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_messages_take_a_moment() -> Result<()> {
    const MESSAGES: usize = 100_000;
    const LINES: usize = 4;
    let queue = Arc::new(MemoryQueue::new(MemoryConfig::default()));
    let lines = (0..LINES)
        .map(|index| line(&format!("line-{index}")))
        .collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    let consumers: Vec<_> = (0..2)
        .map(|_| {
            let queue = Arc::clone(&queue);
            let lines: Vec<_> = lines.iter().map(|line| (line.clone(), 1)).collect();
            tokio::spawn(async move {
                let mut taken = 0;
                loop {
                    let request = Receive {
                        lines: lines.clone(),
                        max: 64,
                        wait: Duration::from_secs(1),
                    };
                    let got = queue.receive(request).await?;
                    if got.is_empty() {
                        return anyhow::Ok((taken, Instant::now()));
                    }
                    taken += got.len();
                    queue.acknowledge(&got).await?;
                }
            })
        })
        .collect();
    for batch in 0..MESSAGES / 100 {
        queue
            .publish(&lines[batch % LINES], vec![message("a reference to a job"); 100])
            .await?;
    }
    let mut taken = 0;
    let mut ended = begun;
    for consumer in consumers {
        let (count, at) = consumer.await??;
        taken += count;
        // The last second was waited in vain.
        ended = ended.max(at - Duration::from_secs(1));
    }
    assert_eq!(taken, MESSAGES);
    let elapsed = ended - begun;
    println!("{:.0} messages a second", MESSAGES as f64 / elapsed.as_secs_f64());
    assert!(
        elapsed < Duration::from_secs(10),
        "{MESSAGES} messages took {elapsed:?}"
    );
    Ok(())
}

//! How long receive waits, how much it gives, and what wakes it.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tokio::time::Instant;

use super::{Broker, SOON, collect, line, number, numbered, want};
use crate::case::until;

/// One message is enough.
pub async fn receive_answers_early_with_what_there_is(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("early")?);
    queue.publish(&line, numbered(0..1)).await?;
    let begun = Instant::now();
    let got = queue.receive(want(&[(&line, 1)], 100, Duration::from_secs(60))).await?;
    assert_eq!(got.len(), 1);
    assert!(begun.elapsed() < SOON, "it waited {:?} for more", begun.elapsed());
    Ok(())
}

/// Neither before nor long after.
pub async fn receive_returns_nothing_after_its_wait(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("wait")?);
    let wait = Duration::from_millis(1500);
    let begun = Instant::now();
    let got = queue.receive(want(&[(&line, 1)], 1, wait)).await?;
    assert!(got.is_empty(), "{got:?}");
    // A broker may count in whole seconds, upwards or downwards.
    assert!(
        begun.elapsed() >= wait - Duration::from_millis(600),
        "after {:?}",
        begun.elapsed()
    );
    assert!(begun.elapsed() < wait + SOON, "after {:?}", begun.elapsed());
    Ok(())
}

/// A look, no more.
pub async fn receive_without_a_wait_answers_at_once(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("look")?);
    let begun = Instant::now();
    assert!(queue.receive(want(&[(&line, 1)], 1, Duration::ZERO)).await?.is_empty());
    assert!(begun.elapsed() < Duration::from_secs(2), "after {:?}", begun.elapsed());
    Ok(())
}

/// The worker has no room for more.
pub async fn receive_never_gives_more_than_asked_for(broker: Broker) -> Result<()> {
    let queue = broker.queue;
    let (one, two) = (line("most-a")?, line("most-b")?);
    queue.publish(&one, numbered(0..100)).await?;
    queue.publish(&two, numbered(100..200)).await?;
    let mut left = 200;
    for max in [0, 1, 2, 3, 17, 30] {
        let got = queue
            .receive(want(&[(&one, 1), (&two, 5)], max, Duration::from_millis(500)))
            .await?;
        assert!(got.len() <= max, "{} instead of {max}", got.len());
        queue.acknowledge(&got).await?;
        left -= got.len();
    }
    while left > 0 {
        let got = queue.receive(want(&[(&one, 1), (&two, 5)], 64, SOON)).await?;
        assert!(
            !got.is_empty() && got.len() <= left.min(64),
            "{} came, {left} were left",
            got.len()
        );
        queue.acknowledge(&got).await?;
        left -= got.len();
    }
    Ok(())
}

/// The first of its lines, the last, and all the others.
pub async fn a_waiting_receiver_is_woken_by_each_of_its_lines(broker: Broker) -> Result<()> {
    let queue = broker.queue;
    let lines = (0..5)
        .map(|index| line(&format!("wake-{index}")))
        .collect::<Result<Vec<_>>>()?;
    for (index, line) in lines.iter().enumerate() {
        let receiver = tokio::spawn({
            let (queue, lines) = (Arc::clone(&queue), lines.clone());
            async move {
                let wanted: Vec<_> = lines.iter().map(|line| (line, 1)).collect();
                queue.receive(want(&wanted, 1, Duration::from_secs(60))).await
            }
        });
        if queue.depth(line).await?.receivers.is_some() {
            until("the receiver waits", SOON, async || {
                Ok(queue.depth(line).await?.receivers.filter(|count| *count > 0))
            })
            .await?;
        }
        queue.publish(line, numbered(index..index + 1)).await?;
        let got = tokio::time::timeout(SOON, receiver).await???;
        assert_eq!((got.len(), number(&got[0])?, &got[0].line), (1, index, line));
        queue.acknowledge(&got).await?;
    }
    Ok(())
}

/// Eight wait, a batch of eight comes: nobody is forgotten.
pub async fn many_receivers_that_wait_share_one_batch(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("many")?);
    let receivers: Vec<_> = (0..8)
        .map(|_| {
            let (queue, line) = (Arc::clone(&queue), line.clone());
            tokio::spawn(async move { queue.receive(want(&[(&line, 1)], 1, Duration::from_secs(60))).await })
        })
        .collect();
    queue.publish(&line, numbered(0..8)).await?;
    let mut numbers = Vec::new();
    for receiver in receivers {
        for delivery in tokio::time::timeout(SOON, receiver).await??? {
            numbers.push(number(&delivery)?);
        }
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..8).collect::<Vec<_>>());
    queue.publish(&line, numbered(8..9)).await?;
    collect(&*queue, &line, 1).await?;
    Ok(())
}

//! Futures that are dropped: at a shutdown, in a `select!`, by a time limit. Nothing may be lost by it.

use std::{collections::BTreeSet, future::Future, pin::pin, sync::Arc, task::Poll, time::Duration};

use anyhow::Result;
use robata_core::{job::Line, queue::Queue};
use tokio::time::Instant;

use super::{Broker, SOON, line, number, numbered, want};
use crate::case::until;

/// Polls at most so often, then drops.
async fn polled<T>(times: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = times;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Receives what is left, until all of `0..count` was seen; a broker may need a while to bring back what was dropped.
async fn drain(queue: &dyn Queue, line: &Line, mut seen: BTreeSet<usize>, count: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while seen.len() < count {
        let missing: Vec<_> = (0..count).filter(|number| !seen.contains(number)).collect();
        anyhow::ensure!(Instant::now() < deadline, "lost: {missing:?}");
        for delivery in queue.receive(want(&[(line, 1)], 100, Duration::from_secs(1))).await? {
            seen.insert(number(&delivery)?);
            queue.acknowledge(&[delivery]).await?;
        }
    }
    Ok(())
}

/// The common one: a receiver that waits, and a shutdown.
pub async fn dropping_a_receive_that_waits_loses_nothing(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("drop-wait")?);
    let mut seen = BTreeSet::new();
    for turn in 0..40 {
        let receiver = tokio::spawn({
            let (queue, line) = (Arc::clone(&queue), line.clone());
            async move { queue.receive(want(&[(&line, 1)], 10, SOON)).await }
        });
        queue.publish(&line, numbered(turn..turn + 1)).await?;
        receiver.abort();
        match receiver.await {
            Ok(got) => {
                let got = got?;
                for delivery in &got {
                    seen.insert(number(delivery)?);
                }
                queue.acknowledge(&got).await?;
            }
            Err(gone) => anyhow::ensure!(gone.is_cancelled(), "{gone}"),
        }
    }
    drain(&*queue, &line, seen, 40).await
}

/// Dropped after its first poll, its second, its third, with a publication at the same moment.
pub async fn dropping_a_receive_at_any_await_loses_nothing(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("drop-poll")?);
    let mut seen = BTreeSet::new();
    let mut published = 0;
    for polls in (0..12).cycle().take(120) {
        let publisher = tokio::spawn({
            let (queue, line) = (Arc::clone(&queue), line.clone());
            async move { queue.publish(&line, numbered(published..published + 3)).await }
        });
        published += 3;
        let receive = queue.receive(want(&[(&line, 1)], 2, Duration::from_millis(50)));
        if let Some(got) = polled(polls, receive).await {
            let got = got?;
            for delivery in &got {
                seen.insert(number(delivery)?);
            }
            queue.acknowledge(&got).await?;
        }
        publisher.await??;
    }
    drain(&*queue, &line, seen, published).await
}

/// The one that was woken first is gone; the other must not sleep on.
pub async fn dropping_one_receiver_leaves_the_message_to_another(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("drop-one")?);
    for turn in 0..20 {
        let receive = |wait| {
            let (queue, line) = (Arc::clone(&queue), line.clone());
            tokio::spawn(async move { queue.receive(want(&[(&line, 1)], 1, wait)).await })
        };
        let (first, second) = (receive(Duration::from_secs(60)), receive(Duration::from_secs(60)));
        if queue.depth(&line).await?.receivers.is_some() {
            until("two wait", SOON, async || {
                Ok((queue.depth(&line).await?.receivers == Some(2)).then_some(()))
            })
            .await?;
        }
        first.abort();
        queue.publish(&line, numbered(turn..turn + 1)).await?;
        let got = match first.await {
            Ok(got) => {
                second.abort();
                // The second one took nothing: there was one message.
                drop(second.await);
                got?
            }
            Err(_) => tokio::time::timeout(Duration::from_secs(60), second).await???,
        };
        assert_eq!(got.iter().map(number).collect::<Result<Vec<_>>>()?, [turn]);
        queue.acknowledge(&got).await?;
    }
    Ok(())
}

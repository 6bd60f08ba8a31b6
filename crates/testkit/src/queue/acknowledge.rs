//! What is settled: acknowledged for good, or given back for another.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tokio::time::Instant;

use super::{Broker, SOON, collect, line, message, nothing_comes, number, numbered, want};
use crate::case::until;

/// Not to the same receiver, not to another.
pub async fn an_acknowledged_message_is_not_delivered_again(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("acked")?);
    queue.publish(&line, numbered(0..20)).await?;
    let got = collect(&*queue, &line, 20).await?;
    queue.acknowledge(&got).await?;
    nothing_comes(&*queue, &line).await
}

/// The first answer may have been lost.
pub async fn acknowledging_twice_answers_well(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("twice")?);
    queue.publish(&line, numbered(0..2)).await?;
    let got = collect(&*queue, &line, 2).await?;
    queue.acknowledge(&got[..1]).await?;
    queue.acknowledge(&got).await?;
    queue.acknowledge(&got).await?;
    queue.acknowledge(&[]).await?;
    nothing_comes(&*queue, &line).await
}

/// A claim settles what came from all lines in one call.
pub async fn one_batch_acknowledges_in_many_lines(broker: Broker) -> Result<()> {
    let queue = broker.queue;
    let (one, two) = (line("acks-a")?, line("acks-b")?);
    queue.publish(&one, numbered(0..3)).await?;
    queue.publish(&two, numbered(3..6)).await?;
    let mut got = collect(&*queue, &one, 3).await?;
    got.extend(collect(&*queue, &two, 3).await?);
    queue.acknowledge(&got).await?;
    nothing_comes(&*queue, &one).await?;
    nothing_comes(&*queue, &two).await
}

/// PROTOCOL O5: a worker without room gives back, and another has it at once, unchanged.
pub async fn what_is_given_back_is_deliverable_at_once(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("back")?);
    let mut sent = message(vec![0, 159, 146, 150]);
    sent.attributes.insert("format".to_owned(), "1".to_owned());
    queue.publish(&line, vec![sent.clone()]).await?;
    for turn in 0..30 {
        let begun = Instant::now();
        let got = collect(&*queue, &line, 1).await?;
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "turn {turn} took {:?}",
            begun.elapsed()
        );
        assert_eq!((&got[0].message, &got[0].line), (&sent, &line), "turn {turn}");
        // O5 knows no limit of deliveries: a message that was given back often is not put aside.
        queue.give_back(got).await?;
    }
    queue.give_back(Vec::new()).await?;
    Ok(())
}

/// A receiver that waits has it as if it had just been published.
pub async fn what_is_given_back_wakes_a_waiting_receiver(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("back-wake")?);
    queue.publish(&line, numbered(7..8)).await?;
    let got = collect(&*queue, &line, 1).await?;
    let receiver = tokio::spawn({
        let (queue, line) = (Arc::clone(&queue), line.clone());
        async move { queue.receive(want(&[(&line, 1)], 1, Duration::from_secs(60))).await }
    });
    if queue.depth(&line).await?.receivers.is_some() {
        until("the receiver waits", SOON, async || {
            Ok((queue.depth(&line).await?.receivers == Some(1)).then_some(()))
        })
        .await?;
    }
    queue.give_back(got).await?;
    let again = tokio::time::timeout(SOON, receiver).await???;
    assert_eq!(again.iter().map(number).collect::<Result<Vec<_>>>()?, [7]);
    Ok(())
}

/// It is published again and acknowledged: one message stays one.
pub async fn what_is_given_back_comes_once(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("back-once")?);
    queue.publish(&line, numbered(0..10)).await?;
    let got = collect(&*queue, &line, 10).await?;
    queue.give_back(got).await?;
    let got = collect(&*queue, &line, 10).await?;
    let mut numbers = got.iter().map(number).collect::<Result<Vec<_>>>()?;
    numbers.sort_unstable();
    assert_eq!(numbers, (0..10).collect::<Vec<_>>());
    queue.acknowledge(&got).await?;
    nothing_comes(&*queue, &line).await
}

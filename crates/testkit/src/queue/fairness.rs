//! The share of each line: nobody starves, weights count, idle time is not owed.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use robata_core::{job::Line, queue::Queue};

use super::{Broker, SOON, line, numbered, want};

/// Receives `count` messages, `max` at a time, and counts them by line.
async fn shares(queue: &dyn Queue, wanted: &[(&Line, u32)], max: usize, count: usize) -> Result<BTreeMap<Line, usize>> {
    let mut shares = BTreeMap::new();
    let mut left = count;
    while left > 0 {
        let got = queue.receive(want(wanted, max.min(left), SOON)).await?;
        anyhow::ensure!(!got.is_empty(), "{left} of {count} messages did not come");
        for delivery in &got {
            *shares.entry(delivery.line.clone()).or_default() += 1;
        }
        left -= got.len();
        queue.acknowledge(&got).await?;
    }
    Ok(shares)
}

fn share(shares: &BTreeMap<Line, usize>, line: &Line) -> usize {
    shares.get(line).copied().unwrap_or(0)
}

/// Whichever stands first in the request.
pub async fn a_full_line_does_not_starve_another(broker: Broker) -> Result<()> {
    let queue = broker.queue;
    for full_first in [true, false] {
        let (full, small) = (line("full")?, line("small")?);
        queue.publish(&full, numbered(0..2000)).await?;
        queue.publish(&small, numbered(0..10)).await?;
        let wanted = if full_first {
            [(&full, 1), (&small, 1)]
        } else {
            [(&small, 1), (&full, 1)]
        };
        let shares = shares(&*queue, &wanted, 10, 60).await?;
        assert_eq!(share(&shares, &small), 10, "within the first 60 messages: {shares:?}");
    }
    Ok(())
}

/// A worker with one free slot at a time.
pub async fn one_message_at_a_time_is_shared_too(broker: Broker) -> Result<()> {
    let queue = broker.queue;
    let (one, two) = (line("one")?, line("two")?);
    queue.publish(&one, numbered(0..200)).await?;
    queue.publish(&two, numbered(0..200)).await?;
    let shares = shares(&*queue, &[(&one, 1), (&two, 1)], 1, 60).await?;
    assert!(share(&shares, &one) >= 15 && share(&shares, &two) >= 15, "{shares:?}");
    Ok(())
}

/// Twice the weight, twice the room.
pub async fn weights_share_the_room(broker: Broker) -> Result<()> {
    let queue = broker.queue;
    let (one, two, five) = (line("w1")?, line("w2")?, line("w5")?);
    for line in [&one, &two, &five] {
        queue.publish(line, numbered(0..600)).await?;
    }
    let shares = shares(&*queue, &[(&one, 1), (&two, 2), (&five, 5)], 16, 400).await?;
    let near = |line: &Line, fair: usize| {
        let got = share(&shares, line);
        assert!(
            got >= fair * 6 / 10 && got <= fair * 14 / 10,
            "about {fair} expected for {line}: {shares:?}"
        );
    };
    near(&one, 50);
    near(&two, 100);
    near(&five, 250);
    Ok(())
}

/// The line that worked alone for a while, and the one that comes to it, share from then on.
pub async fn a_line_that_was_empty_is_not_owed_that_time(broker: Broker) -> Result<()> {
    let queue = broker.queue;
    let (busy, idle) = (line("busy")?, line("idle")?);
    queue.publish(&busy, numbered(0..1500)).await?;
    let wanted = [(&busy, 1), (&idle, 1)];
    shares(&*queue, &wanted, 50, 1000).await?;
    assert!(queue.receive(want(&[(&idle, 1)], 1, Duration::ZERO)).await?.is_empty());
    queue.publish(&idle, numbered(0..500)).await?;
    let shares = shares(&*queue, &wanted, 10, 100).await?;
    assert!(share(&shares, &busy) >= 25 && share(&shares, &idle) >= 25, "{shares:?}");
    Ok(())
}

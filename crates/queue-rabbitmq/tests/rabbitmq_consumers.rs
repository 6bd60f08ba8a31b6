//! Consumers die, sleep and go away; what they held is another's, and what they hold is theirs.

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod broker;

use std::{future::Future, pin::pin, task::Poll, time::Duration};

use anyhow::Result;
use broker::*;
use robata_core::queue::Queue;
use robata_queue_rabbitmq::RabbitMqConfig;
use robata_testkit::case::until;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_that_lives_is_not_robbed() -> Result<()> {
    let config = config()?;
    let (slow, other, line) = (queue(&config)?, queue(&config)?, line("slow"));
    slow.publish(&line, numbered(0..5)).await?;
    let held = collect(&slow, &line, 5).await?;
    let got = other.receive(want(&line, 5, Duration::from_secs(3))).await?;
    assert!(got.is_empty(), "robbed: {got:?}");
    slow.acknowledge(&held).await?;
    let depth = slow.depth(&line).await?;
    assert_eq!((depth.waiting, depth.unacknowledged), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledging_what_the_broker_took_back_is_an_error_once() -> Result<()> {
    let config = config()?;
    let (proxy, by_proxy) = Proxy::to(&config.url).await?;
    let (direct, line) = (queue(&config)?, line("took-back"));
    let queue = queue(&RabbitMqConfig {
        url: by_proxy,
        ..config.clone()
    })?;
    direct.publish(&line, numbered(0..2)).await?;
    let held = collect(&queue, &line, 2).await?;
    proxy.cut_after(0);
    // Something must be said for the cut to come.
    drop(queue.depth(&line).await);
    assert_eq!(collect(&direct, &line, 2).await?.len(), 2, "the broker has them again");
    let error = queue.acknowledge(&held).await.expect_err("they are another's");
    assert_eq!(error.retry(), robata_core::Retry::No, "{error:?}");
    // Given back, they are where they should be already.
    queue.give_back(held).await?;
    assert!(direct.receive(want(&line, 1, Duration::ZERO)).await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_receives_leave_neither_channels_nor_messages_behind() -> Result<()> {
    let config = config()?;
    let (queue, other, line) = (queue(&config)?, queue(&config)?, line("dropped"));
    queue.publish(&line, numbered(0..50)).await?;
    let mut seen = std::collections::BTreeSet::new();
    for turn in 0..300_u64 {
        let receive = queue.receive(want(&line, 5, SOON));
        // Most are dropped on their way; what comes is acknowledged.
        if let Ok(got) = tokio::time::timeout(Duration::from_micros(turn * 30), receive).await {
            let got = got?;
            for delivery in &got {
                seen.insert(number(delivery)?);
            }
            queue.acknowledge(&got).await?;
        }
        if seen.len() == 50 {
            break;
        }
    }
    let begun = Instant::now();
    while seen.len() < 50 {
        anyhow::ensure!(begun.elapsed() < SOON, "{} of 50 came", seen.len());
        // To another queue, and without waiting for anybody's death.
        let got = other.receive(want(&line, 50, Duration::from_secs(1))).await?;
        for delivery in &got {
            seen.insert(number(delivery)?);
        }
        other.acknowledge(&got).await?;
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    Ok(())
}

/// Polls once, then drops.
async fn polled_once<T>(future: impl Future<Output = T>) {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        let _ = future.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_settled_by_a_caller_who_goes_away_is_settled_all_the_same() -> Result<()> {
    let config = config()?;
    let (queue, line) = (queue(&config)?, line("gone"));
    queue.publish(&line, numbered(0..20)).await?;
    let held = collect(&queue, &line, 20).await?;
    polled_once(queue.acknowledge(&held[..10])).await;
    polled_once(queue.give_back(held[10..].to_vec())).await;
    until("ten are settled and ten are back", SOON, async || {
        let depth = queue.depth(&line).await?;
        Ok(((depth.waiting, depth.unacknowledged) == (10, 0)).then_some(()))
    })
    .await?;
    let mut numbers = collect(&queue, &line, 10)
        .await?
        .iter()
        .map(number)
        .collect::<Result<Vec<_>>>()?;
    numbers.sort_unstable();
    assert_eq!(numbers, (10..20).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_dropped_gives_all_back_at_once() -> Result<()> {
    let config = config()?;
    let (queue, other, line) = (queue(&config)?, queue(&config)?, line("ended"));
    queue.publish(&line, numbered(0..5)).await?;
    let held = collect(&queue, &line, 5).await?;
    drop(queue);
    let begun = Instant::now();
    assert_eq!(collect(&other, &line, 5).await?.len(), held.len());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    Ok(())
}

/// Where this names an installation, this program is the process that will be killed.
const HOLD: &str = "ROBATA_TEST_RABBITMQ_HOLD";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_held_comes_to_another_at_once() -> Result<()> {
    let line = line("killed");
    if let Ok(installation) = std::env::var(HOLD) {
        let queue = queue(&RabbitMqConfig {
            installation,
            ..config()?
        })?;
        let held = collect(&queue, &line, 10).await?;
        // Holds them, with one more receive that waits, until it is killed; ends by itself if nobody does that.
        drop(tokio::time::timeout(SOON, queue.receive(want(&line, 1, SOON))).await);
        anyhow::bail!("nobody killed the holder of {} messages", held.len());
    }
    let config = config()?;
    let queue = queue(&config)?;
    queue.publish(&line, numbered(0..10)).await?;
    let mut holder = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", "what_a_killed_process_held_comes_to_another_at_once"])
        .env(HOLD, &config.installation)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    until("the other process holds them", SOON, async || {
        Ok((queue.depth(&line).await?.waiting == 0).then_some(()))
    })
    .await?;
    // SIGKILL.
    holder.kill()?;
    holder.wait()?;
    let begun = Instant::now();
    assert_eq!(collect(&queue, &line, 10).await?.len(), 10);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_away_while_a_line_is_made_keeps_nobody_from_it() -> Result<()> {
    let config = config()?;
    let (gone, other) = (queue(&config)?, queue(&config)?);
    let (connection, _channel) = by_hand(&config.url).await?;
    for turn in 0..5 {
        let line = line(&format!("left{turn}"));
        let making = tokio::spawn({
            let (gone, line) = (gone.clone(), line.clone());
            async move { gone.publish(&line, numbered(0..1)).await }
        });
        let lock = format!("robata.{}.lock.{line}", config.installation);
        until("it is being made", SOON, async || {
            let channel = connection.create_channel().await?;
            let passive = lapin::options::QueueDeclareOptions::durable().passive();
            let asked = channel
                .queue_declare(lock.as_str().into(), passive, lapin::types::FieldTable::default())
                .await;
            let is_held = asked.is_err_and(|error| match error.kind() {
                // Somebody else's own.
                lapin::ErrorKind::ProtocolError(error) => error.get_id() == 405,
                _ => false,
            });
            Ok((is_held || making.is_finished()).then_some(()))
        })
        .await?;
        making.abort();
        other.publish(&line, numbered(1..2)).await?;
        // Nor is it kept from whoever made the line by the same connection.
        gone.publish(&line, numbered(2..3)).await?;
    }
    Ok(())
}

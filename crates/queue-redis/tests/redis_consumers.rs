//! Consumers die, sleep and go away; what they held is another's, and what they hold is theirs.

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod server;

use std::time::Duration;

use anyhow::Result;
use robata_core::queue::Queue;
use robata_queue_redis::{RedisConfig, RedisQueue};
use robata_testkit::case::until;
use server::*;
use tokio::time::Instant;

/// A consumer in a runtime of its own, which is killed with everything in it: nothing of it can say good-bye.
fn dies_holding(queue: RedisQueue, line: robata_core::job::Line, count: usize) -> Result<()> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new()?;
        let got = runtime.block_on(collect(&queue, &line, count))?;
        anyhow::ensure!(got.len() == count, "{} of {count}", got.len());
        // One more receive is blocked when the end comes.
        let blocked = runtime.spawn(async move { queue.receive(want(&line, 1, SOON)).await });
        runtime.shutdown_background();
        drop((blocked, got));
        Ok(())
    })
    .join()
    .map_err(|_| anyhow::anyhow!("the consumer failed"))?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_consumer_held_comes_to_another_within_its_bound() -> Result<()> {
    let server = Server::start(&[]).await?;
    let (queue, line) = (server.queue()?, line("dead"));
    queue.publish(&line, numbered(0..250)).await?;
    dies_holding(server.queue()?, line.clone(), 250)?;
    let begun = Instant::now();
    let mut numbers = Vec::new();
    for delivery in collect(&queue, &line, 250).await? {
        numbers.push(number(&delivery)?);
    }
    // The dead one's sign must lapse, and the heir must have watched for as long.
    assert!(begun.elapsed() < EXPIRY * 3, "{:?}", begun.elapsed());
    numbers.sort_unstable();
    assert_eq!(numbers, (0..250).collect::<Vec<_>>());
    until("the dead one is deleted", SOON, async || {
        let consumers: Vec<redis::Value> = server
            .run("XINFO CONSUMERS {robata:test}:line:dead/docker robata")
            .await?;
        Ok((consumers.len() == 1).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_that_lives_is_not_robbed() -> Result<()> {
    let server = Server::start(&[]).await?;
    let (slow, other, line) = (server.queue()?, server.queue()?, line("slow"));
    slow.publish(&line, numbered(0..5)).await?;
    let held = collect(&slow, &line, 5).await?;
    // The other one judges all this time.
    let got = other.receive(want(&line, 5, EXPIRY * 4)).await?;
    assert!(got.is_empty(), "robbed: {got:?}");
    slow.acknowledge(&held).await?;
    let depth = other.depth(&line).await?;
    assert_eq!((depth.waiting, depth.unacknowledged), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_called_dead_because_the_server_was_away() -> Result<()> {
    const SAFE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = Server::start(SAFE).await?;
    let (holder, other, line) = (server.queue()?, server.queue()?, line("away"));
    holder.publish(&line, numbered(0..5)).await?;
    let held = collect(&holder, &line, 5).await?;
    // The other one has watched for long enough to judge.
    assert!(other.receive(want(&line, 5, EXPIRY * 2)).await?.is_empty());
    server.kill()?;
    // The fault itself: an outage that outlasts every sign of life.
    tokio::time::sleep(EXPIRY * 2).await;
    server.start_again(SAFE).await?;
    let deadline = Instant::now() + EXPIRY * 3;
    while Instant::now() < deadline {
        match other.receive(want(&line, 5, Duration::from_millis(300))).await {
            Ok(got) => assert!(got.is_empty(), "robbed: {got:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    insist("acknowledge", async || holder.acknowledge(&held).await).await?;
    let depth = other.depth(&line).await?;
    assert_eq!((depth.waiting, depth.unacknowledged), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_receives_leave_neither_connections_nor_messages_behind() -> Result<()> {
    let server = Server::start(&[]).await?;
    let (queue, line) = (server.queue()?, line("dropped"));
    queue.publish(&line, numbered(0..50)).await?;
    for turn in 0..300_u64 {
        let receive = queue.receive(want(&line, 5, SOON));
        drop(tokio::time::timeout(Duration::from_micros(turn * 10), receive).await);
    }
    let other = server.queue()?;
    let begun = Instant::now();
    // To another process's queue, too, and without waiting for anybody's death: what the last loop has got and thrown
    // away is held by this one, so only what was dropped inside a receive may come.
    let waiting = queue.depth(&line).await?;
    if waiting.waiting > 0 {
        collect(&other, &line, usize::try_from(waiting.waiting)?).await?;
    }
    assert!(begun.elapsed() < EXPIRY, "{:?}", begun.elapsed());
    let clients: String = server.run("CLIENT LIST").await?;
    assert!(clients.lines().count() < 20, "{clients}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_dropped_ends_its_connections_and_its_sign_of_life() -> Result<()> {
    let server = Server::start(&[]).await?;
    let (queue, line) = (server.queue()?, line("ended"));
    queue.publish(&line, numbered(0..1)).await?;
    collect(&queue, &line, 1).await?;
    assert!(!server.run::<Vec<String>>("KEYS *alive*").await?.is_empty());
    drop(queue);
    until("its connections and its sign end", SOON, async || {
        let clients: String = server.run("CLIENT LIST").await?;
        let signs: Vec<String> = server.run("KEYS *alive*").await?;
        // The connection that asks is one.
        Ok((clients.lines().count() == 1 && signs.is_empty()).then_some(()))
    })
    .await
}

/// Where this names a server, this program is the process that will be killed.
const HOLD: &str = "ROBATA_TEST_REDIS_HOLD";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_held_comes_to_another_within_its_bound() -> Result<()> {
    let line = line("killed");
    if let Ok(url) = std::env::var(HOLD) {
        let queue = RedisQueue::connect(RedisConfig {
            consumer_expiry: EXPIRY,
            ..RedisConfig::new(url, "test")
        })?;
        let held = collect(&queue, &line, 10).await?;
        // Holds them, with one more receive that waits, until it is killed; ends by itself if nobody does that.
        drop(tokio::time::timeout(SOON, queue.receive(want(&line, 1, SOON))).await);
        anyhow::bail!("nobody killed the holder of {} messages", held.len());
    }
    let server = Server::start(&[]).await?;
    let queue = server.queue()?;
    queue.publish(&line, numbered(0..10)).await?;
    let mut holder = std::process::Command::new(std::env::current_exe()?)
        .args([
            "--exact",
            "what_a_killed_process_held_comes_to_another_within_its_bound",
        ])
        .env(HOLD, server.url())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    until("the other process holds them", SOON, async || {
        let depth = queue.depth(&line).await?;
        Ok((depth.unacknowledged == 10).then_some(()))
    })
    .await?;
    // SIGKILL.
    holder.kill()?;
    holder.wait()?;
    let begun = Instant::now();
    assert_eq!(collect(&queue, &line, 10).await?.len(), 10);
    assert!(begun.elapsed() < EXPIRY * 3, "{:?}", begun.elapsed());
    Ok(())
}

//! The server, and the way to it, break; nothing that was published is lost.

mod server;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::Result;
use robata_core::{ErrorKind, queue::Queue};
use robata_queue_redis::{RedisConfig, RedisQueue};
use robata_testkit::case::until;
use server::*;
use tokio::time::Instant;

const SAFE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_in_the_middle_of_everything_loses_nothing() -> Result<()> {
    const MESSAGES: usize = 3000;
    let mut server = Server::start(SAFE).await?;
    let line = line("killed");
    let published = tokio::spawn({
        let (queue, line) = (server.queue()?, line.clone());
        async move {
            for start in (0..MESSAGES).step_by(20) {
                let deadline = Instant::now() + SOON;
                while let Err(error) = queue.publish(&line, numbered(start..start + 20)).await {
                    anyhow::ensure!(Instant::now() < deadline, "{}", error.full());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            anyhow::Ok(())
        }
    });
    let mut consumers = Vec::new();
    let seen = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let queues = [server.queue()?, server.queue()?];
    for (turn, queue) in queues.iter().cycle().take(4).enumerate() {
        let (queue, line, seen) = (queue.clone(), line.clone(), Arc::clone(&seen));
        consumers.push(tokio::spawn(async move {
            let deadline = Instant::now() + SOON * 2;
            while seen.lock().unwrap().len() < MESSAGES {
                anyhow::ensure!(Instant::now() < deadline, "{} came", seen.lock().unwrap().len());
                let Ok(got) = queue.receive(want(&line, 9, Duration::from_millis(200))).await else {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                if turn == 0 && got.len() > 7 {
                    // A worker without room. A failure leaves it to the queue to finish.
                    drop(queue.give_back(got).await);
                    continue;
                }
                for delivery in &got {
                    seen.lock().unwrap().insert(number(delivery)?);
                }
                // Not asked again: the queue itself must not forget it.
                drop(queue.acknowledge(&got).await);
            }
            Ok(())
        }));
    }
    for share in 1..=4 {
        until("a part of it came", SOON, async || {
            Ok((seen.lock().unwrap().len() >= MESSAGES * share / 6).then_some(()))
        })
        .await?;
        server.kill()?;
        server.start_again(SAFE).await?;
    }
    published.await??;
    for consumer in consumers {
        consumer.await??;
    }
    // What is left are second copies of what was published twice, or given back with a lost answer.
    until("nothing stays unacknowledged", SOON, async || {
        let got = queues[0].receive(want(&line, 100, Duration::ZERO)).await?;
        queues[0].acknowledge(&got).await?;
        let depth = queues[0].depth(&line).await?;
        Ok((depth.waiting == 0 && depth.unacknowledged == 0).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_changes_the_key_and_leaves_receivers_at_work() -> Result<()> {
    let server = Server::start(&[]).await?;
    let (queue, line) = (server.queue()?, line("flushed"));
    let key = queue.broker_key(&line).await?;
    queue.publish(&line, numbered(0..3)).await?;
    let held = collect(&queue, &line, 3).await?;
    let receiver = tokio::spawn({
        let (queue, line) = (queue.clone(), line.clone());
        async move { collect(&queue, &line, 1).await }
    });
    until("it is blocked", SOON, async || {
        let clients: String = server.run("INFO clients").await?;
        Ok(clients.contains("blocked_clients:1").then_some(()))
    })
    .await?;
    server.run::<()>("FLUSHALL").await?;
    let second = queue.broker_key(&line).await?;
    assert_ne!(second, key);
    queue.publish(&line, numbered(7..8)).await?;
    assert_eq!(number(&receiver.await??[0])?, 7);
    // What was held is gone for the server: both ways to settle it answer well, and giving back publishes it.
    queue.acknowledge(&held[..2]).await?;
    queue.give_back(held[2..].to_vec()).await?;
    assert_eq!(number(&collect(&queue, &line, 1).await?[0])?, 2);
    assert_eq!(queue.broker_key(&line).await?, second);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_alone_is_lost_changes_the_key() -> Result<()> {
    let server = Server::start(&[]).await?;
    let (queue, line) = (server.queue()?, line("deleted"));
    let key = queue.broker_key(&line).await?;
    queue.publish(&line, numbered(0..3)).await?;
    server.run::<()>("DEL {robata:test}:line:deleted/docker").await?;
    // Also where a publication has made the stream again in the meantime.
    queue.publish(&line, numbered(3..4)).await?;
    assert_ne!(queue.broker_key(&line).await?, key);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_with_an_older_state_changes_the_key() -> Result<()> {
    let mut server = Server::start(&["--dbfilename", "old.rdb"]).await?;
    let (queue, line) = (server.queue()?, line("older"));
    let key = queue.broker_key(&line).await?;
    queue.publish(&line, numbered(0..3)).await?;
    server.run::<()>("SAVE").await?;
    assert_eq!(queue.broker_key(&line).await?, key);
    queue.publish(&line, numbered(3..6)).await?;
    server.kill()?;
    server.start_again(&["--dbfilename", "old.rdb"]).await?;
    assert_eq!(
        server.run::<u64>("XLEN {robata:test}:line:older/docker").await?,
        3,
        "the snapshot was read"
    );
    let second = insist("broker key", async || queue.broker_key(&line).await).await?;
    assert_ne!(second, key);
    assert_eq!(queue.broker_key(&line).await?, second);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_cut_half_way_is_delivered_again() -> Result<()> {
    let server = Server::start(&[]).await?;
    let proxy = Proxy::to(server.port).await?;
    let direct = server.queue()?;
    let queue = RedisQueue::connect(RedisConfig {
        url: proxy.url(),
        ..server.config()
    })?;
    for (turn, bytes) in [1, 40, 100, 200, 400].into_iter().enumerate() {
        let line = line(&format!("cut{turn}"));
        direct.publish(&line, numbered(0..20)).await?;
        // The connections stand before the cut, so that it is the answer with the messages that is cut.
        drop(
            insist("a first look", async || {
                queue.receive(want(&line, 0, Duration::ZERO)).await
            })
            .await?,
        );
        proxy.cut_after(bytes);
        let mut numbers = Vec::new();
        for delivery in collect(&queue, &line, 20).await? {
            numbers.push(number(&delivery)?);
            insist("acknowledge", async || {
                queue.acknowledge(std::slice::from_ref(&delivery)).await
            })
            .await?;
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..20).collect::<Vec<_>>(), "cut after {bytes}");
        until("nothing is left", SOON, async || {
            let depth = direct.depth(&line).await?;
            Ok((depth.waiting + depth.unacknowledged == 0).then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_receive_whose_connection_died_silently_comes_back() -> Result<()> {
    let server = Server::start(&[]).await?;
    let proxy = Proxy::to(server.port).await?;
    let (direct, line) = (server.queue()?, line("silent"));
    let queue = RedisQueue::connect(RedisConfig {
        url: proxy.url(),
        response_timeout: Duration::from_secs(1),
        ..server.config()
    })?;
    let receiver = tokio::spawn({
        let (queue, line) = (queue.clone(), line.clone());
        async move { collect(&queue, &line, 1).await }
    });
    until("it is blocked", SOON, async || {
        let clients: String = server.run("INFO clients").await?;
        Ok(clients.contains("blocked_clients:1").then_some(()))
    })
    .await?;
    proxy.freeze();
    direct.publish(&line, numbered(5..6)).await?;
    let got = receiver.await??;
    assert_eq!(number(&got[0])?, 5);
    insist("acknowledge", async || queue.acknowledge(&got).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_may_be_made_while_the_server_is_away() -> Result<()> {
    let mut server = Server::start(&[]).await?;
    server.kill()?;
    let (queue, line) = (server.queue()?, line("later"));
    let begun = Instant::now();
    for _ in 0..3 {
        let error = queue.publish(&line, numbered(0..1)).await.expect_err("nobody is there");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        let error = queue.receive(want(&line, 1, SOON)).await.expect_err("nobody is there");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    server.start_again(&[]).await?;
    insist("publish", async || queue.publish(&line, numbered(0..1)).await).await?;
    assert_eq!(collect(&queue, &line, 1).await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_became_a_replica_is_told_and_left() -> Result<()> {
    let server = Server::start(&[]).await?;
    let (queue, line) = (server.queue()?, line("replica"));
    queue.publish(&line, numbered(0..1)).await?;
    server
        .run::<()>(&format!("REPLICAOF 127.0.0.1 {}", free_port()?))
        .await?;
    let error = queue
        .publish(&line, numbered(1..2))
        .await
        .expect_err("a replica takes nothing");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.message().contains("replica"), "{}", error.message());
    server.run::<()>("REPLICAOF NO ONE").await?;
    insist("publish", async || queue.publish(&line, numbered(1..2)).await).await?;
    assert_eq!(collect(&queue, &line, 2).await?.len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_memory_takes_nothing_of_a_batch_says_so_and_lets_messages_out() -> Result<()> {
    let server = Server::start(&[]).await?;
    let (queue, line) = (server.queue()?, line("full"));
    queue.publish(&line, numbered(0..3)).await?;
    let held = collect(&queue, &line, 1).await?;
    server.run::<()>("CONFIG SET maxmemory 1").await?;
    let error = queue
        .publish(&line, numbered(3..100))
        .await
        .expect_err("there is no room");
    assert_eq!(error.kind(), ErrorKind::NoCapacity, "{error:?}");
    // What is there goes out, also to who comes only now: else the memory would stay full for ever.
    queue.acknowledge(&held).await?;
    let got = collect(&server.queue()?, &line, 2).await?;
    queue.acknowledge(&got).await?;
    assert!(
        queue.receive(want(&line, 9, Duration::ZERO)).await?.is_empty(),
        "a part of the batch"
    );
    server.run::<()>("CONFIG SET maxmemory 0").await?;
    insist("publish", async || queue.publish(&line, numbered(1..2)).await).await
}

//! What comes out: everything, and to one receiver at a time; how much is there; and whether it is still the same broker.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result};
use robata_core::{job::Line, queue::Queue};

use super::{Broker, SOON, collect, line, number, numbered, want};
use crate::case::until;

const MESSAGES: usize = 2000;

/// Who holds what at this moment, and how often each message was finished.
#[derive(Default)]
struct Seen {
    held: HashSet<usize>,
    done: BTreeMap<usize, usize>,
}

/// Takes, holds for a moment, gives some back and acknowledges the others, until everything is done.
async fn consume(queue: Arc<dyn Queue>, line: Line, seen: Arc<Mutex<Seen>>, give_back: bool) -> Result<()> {
    let mut turn = 0;
    loop {
        if seen
            .lock()
            .map_err(|_| anyhow::anyhow!("a consumer failed"))?
            .done
            .len()
            == MESSAGES
        {
            return Ok(());
        }
        let got = queue
            .receive(want(&[(&line, 1)], 7, Duration::from_millis(200)))
            .await?;
        let numbers = got.iter().map(number).collect::<Result<Vec<_>>>()?;
        for number in &numbers {
            let fresh = seen
                .lock()
                .map_err(|_| anyhow::anyhow!("a consumer failed"))?
                .held
                .insert(*number);
            anyhow::ensure!(fresh, "message {number} is in two hands");
        }
        tokio::task::yield_now().await;
        turn += 1;
        let back = give_back && turn % 3 == 0;
        {
            // Before the broker hears of it: from then on another may have it.
            let mut seen = seen.lock().map_err(|_| anyhow::anyhow!("a consumer failed"))?;
            for number in &numbers {
                seen.held.remove(number);
                if !back {
                    *seen.done.entry(*number).or_default() += 1;
                }
            }
        }
        if back {
            queue.give_back(got).await?;
        } else {
            queue.acknowledge(&got).await?;
        }
    }
}

async fn consume_all(broker: Broker, give_back: bool) -> Result<BTreeMap<usize, usize>> {
    let (queue, line) = (broker.queue, line("shared")?);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let consumers: Vec<_> = (0..4)
        .map(|_| tokio::spawn(consume(Arc::clone(&queue), line.clone(), Arc::clone(&seen), give_back)))
        .collect();
    for start in (0..MESSAGES).step_by(50) {
        queue.publish(&line, numbered(start..start + 50)).await?;
    }
    for consumer in consumers {
        consumer.await??;
    }
    let seen = seen.lock().map_err(|_| anyhow::anyhow!("a consumer failed"))?;
    Ok(seen.done.clone())
}

/// At least once, each of them.
pub async fn every_message_is_delivered(broker: Broker) -> Result<()> {
    let done = consume_all(broker, false).await?;
    assert_eq!(
        done.keys().copied().collect::<Vec<_>>(),
        (0..MESSAGES).collect::<Vec<_>>()
    );
    Ok(())
}

/// To one receiver at a time, with messages that go back and forth.
pub async fn two_receivers_never_hold_one_message(broker: Broker) -> Result<()> {
    let done = consume_all(broker, true).await?;
    let twice: Vec<_> = done.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "acknowledged, and delivered again: {twice:?}");
    Ok(())
}

/// The numbers that O2's window and O3's repair count with.
pub async fn depth_tells_what_waits_and_what_is_out(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("depth")?);
    let depth = queue.depth(&line).await?;
    assert_eq!(
        (depth.waiting, depth.unacknowledged),
        (0, 0),
        "of a line that nobody has used"
    );
    queue.publish(&line, numbered(0..10)).await?;
    let got = collect(&*queue, &line, 4).await?;
    let shows = async |waiting: u64, unacknowledged: u64| {
        until(&format!("{waiting} waiting, {unacknowledged} out"), SOON, async || {
            let depth = queue.depth(&line).await?;
            Ok(((depth.waiting, depth.unacknowledged) == (waiting, unacknowledged)).then_some(()))
        })
        .await
    };
    shows(6, 4).await?;
    queue.acknowledge(&got[..3]).await?;
    shows(6, 1).await?;
    queue.give_back(got[3..].to_vec()).await?;
    shows(7, 0).await?;
    let rest = collect(&*queue, &line, 7).await?;
    queue.acknowledge(&rest).await?;
    shows(0, 0).await?;
    if depth.receivers.is_some() {
        let waiting = tokio::spawn({
            let (queue, line) = (Arc::clone(&queue), line.clone());
            async move { queue.receive(want(&[(&line, 1)], 1, SOON)).await }
        });
        until("one receiver", SOON, async || {
            Ok((queue.depth(&line).await?.receivers == Some(1)).then_some(()))
        })
        .await?;
        queue.publish(&line, numbered(0..1)).await?;
        waiting.await??;
        until("no receiver", SOON, async || {
            Ok((queue.depth(&line).await?.receivers == Some(0)).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Through publishing, receiving, acknowledging and waiting.
pub async fn the_broker_key_stays_while_messages_are_kept(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("key")?);
    let key = queue.broker_key(&line).await?;
    assert!(!key.0.is_empty(), "an empty key says nothing");
    queue.publish(&line, numbered(0..3)).await?;
    assert_eq!(queue.broker_key(&line).await?, key);
    let got = collect(&*queue, &line, 3).await?;
    assert_eq!(queue.broker_key(&line).await?, key);
    queue.acknowledge(&got).await?;
    assert_eq!(
        queue.broker_key(&line).await?,
        key,
        "a line that was emptied has lost nothing"
    );
    Ok(())
}

/// Otherwise a job would wait for ever for a reference that is gone.
pub async fn the_broker_key_changes_when_messages_are_gone(broker: Broker) -> Result<()> {
    let line = line("gone")?;
    let key = broker.queue.broker_key(&line).await?;
    broker.queue.publish(&line, numbered(0..3)).await?;
    let queue = (broker.lose)().await.context("making the broker lose everything")?;
    assert_ne!(queue.broker_key(&line).await?, key);
    queue.publish(&line, numbered(7..8)).await?;
    let got = collect(&*queue, &line, 1).await?;
    assert_eq!(number(&got[0])?, 7, "the lines are of use again");
    Ok(())
}

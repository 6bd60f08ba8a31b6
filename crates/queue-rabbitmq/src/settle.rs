//! What becomes of messages that were received: acknowledged, or given back for others. Each runs in a task of its own, so
//! that a caller who goes away leaves nothing half done.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::{try_join, try_join_all};
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicQosOptions};
use robata_core::{
    job::Line,
    queue::{Delivery, Message},
};

use crate::{
    error::Fault,
    held::{Settling, Tags},
    publish,
    queue::refuse,
    shared::{Shared, in_a_task},
};

/// So long a channel stays after its last message was settled: what was sent to a consumer that had ended is never seen
/// here, and comes back with the channel's end.
const REST: Duration = Duration::from_millis(500);
/// So long one stays that was told more than [`FEW`] steps. A queue's client in the broker holds back what comes while 32 of its
/// commands are not on disk (`SOFT_LIMIT` of rabbit_fifo_client.erl), and forgets it with the channel.
const LONG_REST: Duration = Duration::from_secs(10);
const FEW: usize = 16;

/// What the broker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Done,
    Requeue,
}

/// A receipt, read: the channel's number and the message's.
pub(crate) fn receipt(shared: &Shared, text: &str) -> Result<(u64, u64), Fault> {
    let read = || {
        let mut parts = text.split('.');
        let run = parts.next()?;
        let numbers = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        (run == shared.run && parts.next().is_none()).then_some(numbers)
    };
    read().ok_or_else(|| Fault::NoReceipt {
        receipt: text.to_owned(),
    })
}

fn tags(shared: &Shared, deliveries: &[Delivery]) -> Result<Tags, Fault> {
    let mut tags = Tags::new();
    for delivery in deliveries {
        let (channel, tag) = receipt(shared, &delivery.receipt.0)?;
        tags.entry(channel).or_default().push(tag);
    }
    Ok(tags)
}

/// Acknowledges; what was settled before is no fault, what the broker took back is.
pub(crate) async fn acknowledge(shared: &Arc<Shared>, deliveries: &[Delivery]) -> Result<(), Fault> {
    let tags = tags(shared, deliveries)?;
    let shared = Arc::clone(shared);
    in_a_task(async move { settle(&shared, tags, Word::Done).await }).await
}

/// Has others have them, at once.
pub(crate) async fn give_back(shared: &Arc<Shared>, deliveries: Vec<Delivery>) -> Result<(), Fault> {
    // Looked at first: a receipt that is none changes nothing.
    tags(shared, &deliveries)?;
    let shared = Arc::clone(shared);
    in_a_task(async move {
        // What was settled before stays so, and what went back with its channel is with others already.
        let here = |delivery: &Delivery| {
            let (channel, tag) = receipt(&shared, &delivery.receipt.0).ok()?;
            shared.held().is_out(channel, tag).then_some(())
        };
        let mut by_line: HashMap<Line, Vec<Delivery>> = HashMap::new();
        for delivery in deliveries {
            if here(&delivery).is_some() {
                by_line.entry(delivery.line.clone()).or_default().push(delivery);
            }
        }
        for (line, deliveries) in by_line {
            let messages: Vec<Message> = deliveries.iter().map(|delivery| delivery.message.clone()).collect();
            let published = async {
                refuse(&shared, &line, &messages)?;
                publish::publish(&shared, &line, &messages).await
            };
            // A broker that takes no messages takes these back all the same, and so it does what we may not publish.
            let word = match published.await {
                Ok(()) => Word::Done,
                Err(fault) => {
                    tracing::debug!(%line, %fault, "rabbitmq: not published again, but requeued");
                    Word::Requeue
                }
            };
            match settle(&shared, tags(&shared, &deliveries)?, word).await {
                // With their channel they went back by themselves.
                Ok(()) | Err(Fault::Gone { .. }) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    })
    .await
}

async fn settle(shared: &Shared, tags: Tags, word: Word) -> Result<(), Fault> {
    let settling: Vec<Settling> = {
        let mut held = shared.held();
        let each = tags.iter().filter_map(|(channel, tags)| held.settle(*channel, tags));
        each.collect()
    };
    let mut gone = 0;
    for settling in settling {
        let count = settling.count;
        if let Err(fault) = tell(settling, word).await {
            tracing::debug!(%fault, count, "rabbitmq: these could not be settled");
            gone += count;
        }
    }
    if gone > 0 {
        return Err(Fault::Gone { count: gone });
    }
    Ok(())
}

/// Tells one channel, and waits until the broker has read it.
async fn tell(settling: Settling, word: Word) -> Result<(), Fault> {
    let Settling {
        channel,
        live,
        steps,
        last,
        told,
        ..
    } = settling;
    let saying = try_join_all(steps.into_iter().map(async |(tag, multiple)| match word {
        Word::Done => channel.basic_ack(tag, BasicAckOptions { multiple }).await,
        Word::Requeue => {
            let options = BasicNackOptions {
                multiple,
                requeue: true,
            };
            channel.basic_nack(tag, options).await
        }
    }));
    // Neither has an answer, but what comes after them on their channel has.
    let read = channel.basic_qos(1, BasicQosOptions::default());
    live.within(try_join(saying, read)).await?;
    if last {
        tokio::spawn(async move {
            tokio::time::sleep(if told > FEW { LONG_REST } else { REST }).await;
            drop((channel, live));
        });
    }
    Ok(())
}

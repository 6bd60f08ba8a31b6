//! Publishing: in batches as large as SQS takes them, several at once.

use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use futures::{StreamExt, stream};
use robata_core::{job::Line, queue::Message};

use crate::{
    batch::{self, AT_ONCE, Answer, MOST, Outcome, told},
    error::Fault,
    lines,
    message::Wire,
    shared::Shared,
};

/// Publishes all; an error says which were not. Where one cannot be carried, none is sent.
pub(crate) async fn publish(shared: &Shared, line: &Line, messages: &[Message]) -> Result<(), Fault> {
    let max = shared.config.max_body_bytes();
    if let Some(large) = messages.iter().find(|message| message.body.len() > max) {
        return Err(Fault::BodyTooLarge {
            line: line.clone(),
            bytes: large.body.len(),
            max,
        });
    }
    let wires: Vec<_> = messages.iter().map(Wire::new).collect();
    fits(line, &wires, shared.config.max_message_bytes)?;
    if wires.is_empty() {
        return Ok(());
    }
    let own = most_bytes(shared, line).await?;
    fits(line, &wires, own)?;
    told("publishing", line, &send(shared, line, &wires, own).await)
}

/// What the line's own queue takes, in a message and in a batch: where SQS takes less than today's 1 MiB it does so in both.
pub(crate) async fn most_bytes(shared: &Shared, line: &Line) -> Result<usize, Fault> {
    lines::on(shared, line, |place| async move { Ok(place.max_bytes) }).await
}

fn fits(line: &Line, wires: &[Wire], max: usize) -> Result<(), Fault> {
    match wires.iter().map(Wire::bytes).find(|bytes| *bytes > max) {
        Some(bytes) => Err(Fault::MessageTooLarge {
            line: line.clone(),
            bytes,
            max,
        }),
        None => Ok(()),
    }
}

/// Sends all in batches of at most so many bytes, and tells of each what became of it.
pub(crate) async fn send(shared: &Shared, line: &Line, wires: &[Wire], most_bytes: usize) -> Outcome {
    let sending = stream::iter(batches(wires, most_bytes)).map(|range| async move {
        let wires = &wires[range.clone()];
        (range, one(shared, line, wires).await)
    });
    let mut outcome: Outcome = vec![None; wires.len()];
    let mut sending = sending.buffer_unordered(AT_ONCE);
    while let Some((range, faults)) = sending.next().await {
        outcome[range].clone_from_slice(&faults);
    }
    outcome
}

async fn one(shared: &Shared, line: &Line, wires: &[Wire]) -> Outcome {
    batch::each(wires.len(), |left| async move {
        let entries = left.iter().map(|place| wires[*place].entry(*place));
        let entries = &entries.collect::<Result<Vec<_>, _>>()?;
        lines::on(shared, line, |place| async move {
            call(shared, &place.url, entries.clone()).await
        })
        .await
    })
    .await
}

/// One request.
pub(crate) async fn call(
    shared: &Shared,
    url: &str,
    entries: Vec<SendMessageBatchRequestEntry>,
) -> Result<Answer, Fault> {
    let sending = shared.clients().await.prompt.send_message_batch();
    let answer = sending.queue_url(url).set_entries(Some(entries)).send().await?;
    Ok(Answer {
        done: answer.successful.into_iter().map(|entry| entry.id).collect(),
        failed: answer.failed,
    })
}

/// As few batches as the limits allow, in order.
fn batches(wires: &[Wire], most_bytes: usize) -> Vec<std::ops::Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (place, wire) in wires.iter().enumerate() {
        if place > start && (place - start == MOST || bytes + wire.bytes() > most_bytes) {
            batches.push(start..place);
            (start, bytes) = (place, 0);
        }
        bytes += wire.bytes();
    }
    if start < wires.len() {
        batches.push(start..wires.len());
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wires(sizes: &[usize]) -> Vec<Wire> {
        let message = |size: &usize| Message {
            body: vec![b'x'; *size].into(),
            ..Message::default()
        };
        sizes.iter().map(message).map(|message| Wire::new(&message)).collect()
    }

    #[test]
    fn a_batch_has_at_most_ten_entries_and_at_most_so_many_bytes() {
        assert!(batches(&[], 100).is_empty());
        assert_eq!(batches(&wires(&[1; 25]), 100), [0..10, 10..20, 20..25]);
        assert_eq!(batches(&wires(&[60, 40, 1, 99, 100]), 100), [0..2, 2..4, 4..5]);
    }
}

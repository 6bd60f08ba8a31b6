//! Publishing: a batch on a channel of its own, all of it sent, then all of it confirmed; what found no queue goes once more
//! into one that was made anew.

use std::sync::Arc;

use futures::future::try_join_all;
use lapin::{
    Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use robata_core::{job::Line, queue::Message};

use crate::{connect::Live, error::Fault, lines, message, shared::Shared};

/// At most so many bytes and messages are on their way at once.
const STEP_BYTES: usize = 4 * 1024 * 1024;
const STEP_MESSAGES: usize = 1000;

/// What became of a step's messages: indices of what came back because there was no queue, and how many were refused.
#[derive(Debug, Default)]
struct Sent {
    returned: Vec<usize>,
    refused: usize,
}

/// Publishes to a line. Where it fails nobody knows how much of the batch has been kept: whoever publishes again may
/// publish twice.
pub(crate) async fn publish(shared: &Arc<Shared>, line: &Line, messages: &[Message]) -> Result<(), Fault> {
    if messages.is_empty() {
        return Ok(());
    }
    let name = shared.names.line(line);
    let (_permit, live) = open(shared).await?;
    refuse_frames(&live, line, messages)?;
    lines::ensure(shared, &live, line).await?;
    let mut channel = channel(&live).await?;
    for step in steps(messages) {
        let step: Vec<&Message> = step.iter().collect();
        let mut sent = send(&live, &channel, &name, &step).await?;
        let mut refused = sent.refused;
        if !sent.returned.is_empty() {
            live.forget(line);
            lines::ensure(shared, &live, line).await?;
            let again: Vec<&Message> = sent
                .returned
                .iter()
                .filter_map(|index| step.get(*index).copied())
                .collect();
            sent = send(&live, &channel, &name, &again).await?;
            refused += sent.refused;
        }
        if !sent.returned.is_empty() {
            live.forget(line);
            return Err(Fault::Unroutable { line: line.clone() });
        }
        if refused > 0 {
            let (line, of) = (line.clone(), step.len());
            return Err(Fault::Refused { line, refused, of });
        }
        if !channel.status().connected() {
            channel = self::channel(&live).await?;
        }
    }
    live.leave(channel);
    Ok(())
}

/// Publishes to a queue that is there.
pub(crate) async fn to_queue(shared: &Shared, name: &str, messages: &[Message]) -> Result<(), Fault> {
    let (_permit, live) = open(shared).await?;
    let channel = channel(&live).await?;
    let sent = send(&live, &channel, name, &messages.iter().collect::<Vec<_>>()).await?;
    if !sent.returned.is_empty() || sent.refused > 0 {
        return Err(Fault::NoKey { name: name.to_owned() });
    }
    live.leave(channel);
    Ok(())
}

/// A turn, and the connection that publishes, where it may be published on.
async fn open(shared: &Shared) -> Result<(Option<tokio::sync::SemaphorePermit<'_>>, Arc<Live>), Fault> {
    // The semaphore is never closed.
    let permit = shared.publishers.acquire().await.ok();
    let live = shared.outward.get().await?;
    live.not_blocked()?;
    Ok((permit, live))
}

/// The whole header of a message stands in one frame, and a broker may have set frames to be small.
fn refuse_frames(live: &Live, line: &Line, messages: &[Message]) -> Result<(), Fault> {
    let max = live.frame_max().saturating_sub(message::FRAME_RESERVE);
    match messages.iter().map(message::header_bytes).find(|bytes| *bytes > max) {
        Some(bytes) => Err(Fault::AttributesTooLarge {
            line: line.clone(),
            bytes,
            max,
        }),
        None => Ok(()),
    }
}

async fn channel(live: &Live) -> Result<Channel, Fault> {
    if let Some(channel) = live.idle() {
        return Ok(channel);
    }
    let channel = live.channel().await?;
    live.within(channel.confirm_select(ConfirmSelectOptions::default()))
        .await?;
    Ok(channel)
}

/// Parts of a batch, none of which is too much at once.
fn steps(messages: &[Message]) -> impl Iterator<Item = &[Message]> {
    let mut left = messages;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut count = 0;
        for message in left.iter().take(STEP_MESSAGES) {
            bytes += message.body.len();
            if count > 0 && bytes > STEP_BYTES {
                break;
            }
            count += 1;
        }
        let (step, rest) = left.split_at(count);
        left = rest;
        (!step.is_empty()).then_some(step)
    })
}

/// Sends all, then waits for the broker's word on each. A broker that takes no messages says so by itself; a queue that says
/// nothing is waited for as long as for any answer.
async fn send(live: &Live, channel: &Channel, name: &str, messages: &[&Message]) -> Result<Sent, Fault> {
    let mandatory = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let sending = async {
        let publishing = messages.iter().enumerate().map(|(index, message)| {
            let properties = message::properties(message, index);
            channel.basic_publish("".into(), name.into(), mandatory, &message.body, properties)
        });
        let confirms = live.within(try_join_all(publishing)).await?;
        let mut sent = Sent::default();
        for confirm in confirms {
            match live.of_queue(name, confirm).await? {
                Confirmation::Ack(None) => {}
                // Which one it was stands in it: confirmations of many at once come in no order.
                Confirmation::Ack(Some(returned)) => sent.returned.extend(message::id(&returned.properties)),
                Confirmation::Nack(_) | Confirmation::NotRequested => sent.refused += 1,
            }
        }
        Ok(sent)
    };
    tokio::select! {
        sent = sending => sent,
        fault = live.blocks() => Err(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Message {
        Message {
            body: vec![0; bytes].into(),
            ..Message::default()
        }
    }

    #[test]
    fn a_batch_goes_in_steps_of_bounded_size_and_whole() {
        let many = vec![message(1); 2500];
        assert_eq!(steps(&many).map(<[_]>::len).collect::<Vec<_>>(), [1000, 1000, 500]);
        let large = vec![message(3 * 1024 * 1024); 3];
        assert_eq!(steps(&large).map(<[_]>::len).collect::<Vec<_>>(), [1, 1, 1]);
        let huge = [message(STEP_BYTES + 1), message(1)];
        assert_eq!(steps(&huge).map(<[_]>::len).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(steps(&[]).count(), 0);
    }
}

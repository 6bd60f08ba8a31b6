//! Messages out of lines: a consumer for each, with so much room as the line's share is, for as long as it takes.

use std::time::Duration;

use futures::{
    StreamExt,
    future::try_join,
    stream::{self, FuturesOrdered, SelectAll},
};
use lapin::{
    Channel,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use robata_core::queue::{hand::Hand, share::Plan};
use tokio::time::Instant;

use crate::{
    connect::Live,
    error::{At, Fault},
    shared::Shared,
};

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// So many messages are enough.
    pub(crate) enough: usize,
    /// Not beyond this.
    pub(crate) until: Option<Instant>,
    /// Not longer than this without another message.
    pub(crate) patience: Option<Duration>,
}

/// What came: the line's place in the plan, and the message.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) deliveries: Vec<(usize, Delivery)>,
    /// The places of lines whose queue was deleted.
    pub(crate) deleted: Vec<usize>,
}

/// Takes from each line of the plan at most its share. What it answers is out on this channel; where it fails, and where
/// nobody waits any more, the channel is to be dropped, and the broker delivers again what had come.
pub(crate) async fn take(
    shared: &Shared,
    live: &Live,
    channel: &Channel,
    plan: &Plan,
    wait: Wait,
    hand: &Hand,
) -> Result<Taken, At> {
    let mut standing: Vec<usize> = (0..plan.len()).filter(|place| plan[*place].2 > 0).collect();
    let beginning = standing.iter().map(async |place| {
        let (line, _, share) = &plan[*place];
        // The room is that of the consumers begun after it: both are sent before any answer comes.
        let room = channel.basic_qos(u16::try_from(*share).unwrap_or(u16::MAX), BasicQosOptions::default());
        let begin = channel.basic_consume(
            shared.names.line(line).into(),
            place.to_string().into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let ((), consumer) = try_join(room, begin).await?;
        Ok(consumer)
    });
    let begun = each(shared, live, plan, &standing, beginning.collect()).await?;
    let mut messages = SelectAll::new();
    for (place, consumer) in standing.iter().copied().zip(begun) {
        let end = stream::iter([(place, None)]);
        messages.push(consumer.map(move |message| (place, Some(message))).chain(end).boxed());
    }

    let mut taken = Taken::default();
    let mut last = Instant::now();
    while taken.deliveries.len() < wait.enough && taken.deleted.is_empty() {
        let patience = wait.patience.and_then(|patience| last.checked_add(patience));
        let limit = [wait.until, patience].into_iter().flatten().min();
        let over = async {
            match limit {
                Some(limit) => tokio::time::sleep_until(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            next = messages.next() => match next {
                Some((place, Some(message))) => taken.deliveries.push((place, message.map_err(Fault::from)?)),
                Some((place, None)) => {
                    standing.retain(|standing| *standing != place);
                    taken.deleted.push(place);
                }
                None => break,
            },
            () = hand.gone() => return Ok(Taken::default()),
            () = over => break,
        }
        last = Instant::now();
    }

    let ending = standing
        .iter()
        .map(|place| channel.basic_cancel(place.to_string().into(), BasicCancelOptions::default()));
    each(shared, live, plan, &standing, ending.collect()).await?;
    // What was on its way before the broker's word is here by now, and each consumer's messages have an end.
    let rest = async {
        while let Some((place, message)) = messages.next().await {
            if let Some(message) = message {
                taken.deliveries.push((place, message?));
            }
        }
        Ok(())
    };
    live.within(rest).await?;
    Ok(taken)
}

/// Waits for the answers of lines in the order in which they were asked. A broker works a channel off in that order: the first
/// that does not answer keeps back those after it.
async fn each<T>(
    shared: &Shared,
    live: &Live,
    plan: &Plan,
    places: &[usize],
    mut asked: FuturesOrdered<impl Future<Output = lapin::Result<T>>>,
) -> Result<Vec<T>, At> {
    let mut answers = Vec::with_capacity(places.len());
    for place in places {
        let line = &plan[*place].0;
        let next = async { asked.next().await.transpose() };
        let answer = live.of_queue(&shared.names.line(line), next).await;
        answers.extend(answer.map_err(|fault| At::line(line, fault))?);
    }
    Ok(answers)
}

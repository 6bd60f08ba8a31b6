//! One receive, in a task of its own: dropping the future that waits for it leaves the task to end it in good order.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use robata_core::{
    Result,
    job::Line,
    queue::{Delivery, Receipt, Receive, hand::Hand},
};
use tokio::time::Instant;

use crate::{
    batch::{AT_ONCE, MOST},
    error::Fault,
    held::Handle,
    keeper, lines, message, settle,
    shared::Shared,
};

const OPERATION: &str = "queue.receive";

/// Whoever waits for a receive's result.
struct Waiting<'a> {
    shared: &'a Shared,
    hand: Arc<Hand>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(Ok(deliveries)) = self.hand.leave() {
            settle::put_back(self.shared, &deliveries);
        }
    }
}

/// Receives; may be dropped at any await.
pub(crate) async fn receive(shared: &Arc<Shared>, request: Receive) -> Result<Vec<Delivery>> {
    if let Some((line, _)) = request.lines.iter().find(|(_, weight)| *weight == 0) {
        return Err(Fault::NoWeight { line: line.clone() }.at(OPERATION));
    }
    keeper::ensure(shared);
    let hand = Arc::new(Hand::default());
    let waiting = Waiting {
        shared,
        hand: Arc::clone(&hand),
    };
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let work = hand.work(OPERATION);
        let result = attempt(&shared, &request, &hand).await;
        if let Some(Ok(deliveries)) = work.put(result.map_err(|fault| fault.at(OPERATION))) {
            settle::put_back(&shared, &deliveries);
        }
    });
    waiting.hand.take().await
}

/// Looks at all lines, then waits for the first message of any; again where lines come and go that fail alone.
async fn attempt(shared: &Arc<Shared>, request: &Receive, hand: &Hand) -> Result<Vec<Delivery>, Fault> {
    // `None`: the wait is so long that it has no end.
    let until = Instant::now().checked_add(request.wait);
    if request.max == 0 || request.lines.is_empty() {
        tokio::select! {
            () = over(until) => {}
            () = hand.gone() => {}
        }
        return Ok(Vec::new());
    }
    let is_over = || hand.is_gone() || until.is_some_and(|until| Instant::now() >= until);
    loop {
        let promising = shared.left_out().promising(&request.lines, Instant::now().into_std());
        let looked = look(shared, &promising, request.max).await?;
        if !looked.is_empty() || is_over() {
            return Ok(looked);
        }
        let came = wait(shared, request, hand, until).await?;
        if !came.is_empty() || is_over() {
            return Ok(came);
        }
    }
}

/// Waits until this time; for ever where there is none.
async fn over(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Waits for the first message of any line that may do. Nothing: the time is over, nobody waits any more, or lines are to be
/// looked at again, for one has failed alone, or one that had may do again.
async fn wait(
    shared: &Arc<Shared>,
    request: &Receive,
    hand: &Hand,
    until: Option<Instant>,
) -> Result<Vec<Delivery>, Fault> {
    let (promising, next_try) = {
        let mut left_out = shared.left_out();
        let promising = left_out.promising(&request.lines, Instant::now().into_std());
        (promising, left_out.next_try(&request.lines).map(Instant::from_std))
    };
    let until = [until, next_try].into_iter().flatten().min();
    let wanted = shared.share().plan(&promising, 0, |_| usize::MAX);
    let lines = wanted.iter().map(|(line, ..)| line.clone()).collect();
    let (number, mut parcel, polls) = shared.desk().wait(lines, request.max, until);
    for line in polls {
        tokio::spawn(poll(Arc::clone(shared), line));
    }
    let came = tokio::select! {
        biased;
        came = &mut parcel => came.ok(),
        () = over(until) => None,
        () = hand.gone() => None,
    };
    let deliveries = match came {
        Some(came) => came?,
        None => {
            shared.desk().leave(number);
            // It may have come while we turned away.
            parcel.try_recv().unwrap_or_else(|_| Ok(Vec::new()))?
        }
    };
    let mut share = shared.share();
    for (line, weight, _) in &wanted {
        let count = deliveries.iter().filter(|delivery| delivery.line == *line).count();
        if count > 0 {
            share.pay(line, *weight, count, false);
        }
    }
    Ok(deliveries)
}

/// Takes what there is: of those whose turn it is, each line's share; where they have nothing, of the others.
async fn look(shared: &Shared, lines: &[(Line, u32)], max: usize) -> Result<Vec<Delivery>, Fault> {
    let mut rest = lines.to_vec();
    let (mut failed, mut has_answered) = (Vec::new(), false);
    while !rest.is_empty() {
        let plan = shared.share().plan(&rest, max, |_| usize::MAX);
        let calls: Vec<_> = plan
            .iter()
            .enumerate()
            .flat_map(|(index, (line, _, share))| tens(*share).map(move |room| (index, line.clone(), room)))
            .collect();
        let calls = stream::iter(calls)
            .map(|(index, line, room)| async move { (index, fetch(shared, &line, room, Duration::ZERO).await) });
        let mut calls = calls.buffer_unordered(AT_ONCE);
        let (mut counts, mut taken) = (vec![0; plan.len()], Vec::new());
        while let Some((index, came)) = calls.next().await {
            match came {
                Ok(deliveries) => {
                    has_answered = true;
                    counts[index] += deliveries.len();
                    taken.extend(deliveries);
                }
                Err(fault) => failed.push((plan[index].0.clone(), fault)),
            }
        }
        let mut share = shared.share();
        for ((line, weight, asked), count) in plan.iter().zip(counts) {
            if *asked > 0 {
                share.pay(line, *weight, count, count == *asked);
            }
        }
        drop(share);
        if !taken.is_empty() {
            if let Err(fault) = leave_out(shared, failed, has_answered) {
                // It is told as soon as there is nothing to do for it.
                tracing::debug!("sqs: not every line could be looked at: {fault}");
            }
            return Ok(taken);
        }
        let asked: Vec<_> = plan
            .into_iter()
            .filter(|(.., share)| *share > 0)
            .map(|(line, ..)| line)
            .collect();
        rest.retain(|(line, _)| !asked.contains(line));
    }
    leave_out(shared, failed, has_answered).map(|()| Vec::new())
}

/// Lines that failed alone do not keep back those that have answered; where none has, or the fault is no line's own, it is the
/// receive's.
fn leave_out(shared: &Shared, failed: Vec<(Line, Fault)>, others_answered: bool) -> Result<(), Fault> {
    let mut first = None;
    for (line, fault) in failed {
        if others_answered && fault.is_of_one_queue() {
            shared.left_out().leave_out(&line, Instant::now().into_std());
            tracing::warn!(%line, "sqs: receiving from other lines only: {fault}");
        } else {
            first.get_or_insert(fault);
        }
    }
    first.map_or(Ok(()), Err)
}

/// A share in parts that one request can bring.
fn tens(share: usize) -> impl Iterator<Item = usize> {
    (0..share).step_by(MOST).map(move |start| MOST.min(share - start))
}

/// Marks a line's poll as over however it ends.
struct Polling {
    shared: Arc<Shared>,
    line: Line,
    ended: bool,
}

impl Drop for Polling {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.desk().over(&self.line);
        }
    }
}

/// Polls a line for as long as somebody waits for it.
async fn poll(shared: Arc<Shared>, line: Line) {
    let mut polling = Polling {
        shared: Arc::clone(&shared),
        line: line.clone(),
        ended: false,
    };
    loop {
        let Some(wanted) = shared.desk().wanted(&line, Instant::now()) else {
            break;
        };
        match fetch(&shared, &line, wanted.room, wanted.wait).await {
            Ok(deliveries) => {
                let rest = shared.desk().hand(&line, deliveries);
                settle::put_back(&shared, &rest);
            }
            Err(fault) => {
                // Left out first: whoever is told to look again does so without it.
                if fault.is_of_one_queue() {
                    shared.left_out().leave_out(&line, Instant::now().into_std());
                }
                if shared.desk().fail(&line, &fault) {
                    tracing::warn!(%line, "sqs: receiving from other lines only: {fault}");
                }
                break;
            }
        }
    }
    polling.ended = true;
}

/// One request for messages, and what came, taken in.
async fn fetch(shared: &Shared, line: &Line, room: usize, wait: Duration) -> Result<Vec<Delivery>, Fault> {
    let seconds = |time: Duration| i32::try_from(time.as_secs()).unwrap_or(i32::MAX);
    lines::on(shared, line, |place| async move {
        let clients = shared.clients().await;
        let client = if wait.is_zero() {
            &clients.prompt
        } else {
            &clients.patient
        };
        let asking = client
            .receive_message()
            .queue_url(&place.url)
            .max_number_of_messages(i32::try_from(room.min(MOST)).unwrap_or(1))
            .wait_time_seconds(seconds(wait))
            .visibility_timeout(seconds(shared.config.visibility))
            .message_attribute_names("All");
        let answer = asking.send().await?;
        let until = Instant::now() + shared.config.visibility;
        let mut deliveries = Vec::new();
        for received in answer.messages.unwrap_or_default() {
            let (Some(id), Some(handle)) = (received.message_id(), received.receipt_handle()) else {
                return Err(Fault::Answer("a message without an id or a receipt handle".to_owned()));
            };
            let handle = Handle {
                line: line.clone(),
                place: Arc::clone(&place),
                handle: handle.to_owned(),
            };
            let taken_in = shared.held().take_in(id, handle, until);
            if let Some(number) = taken_in {
                deliveries.push(Delivery {
                    line: line.clone(),
                    message: message::message(&received),
                    receipt: Receipt(settle::receipt(shared, number)),
                });
            }
        }
        shared.left_out().answered(line);
        // From idle on, the keeper waits to be told; and what came again is to be deleted at once.
        shared.chores.notify_one();
        Ok(deliveries)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_asked_for_in_tens() {
        assert_eq!(tens(25).collect::<Vec<_>>(), [10, 10, 5]);
        assert_eq!(tens(10).collect::<Vec<_>>(), [10]);
        assert_eq!(tens(0).count(), 0);
    }
}

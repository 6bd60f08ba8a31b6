//! One receive, in a task of its own: dropping the future that waits for it leaves the task to end it in good order.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use robata_core::{
    Result,
    job::Line,
    queue::{Delivery, Receipt, Receive, hand::Hand, share::Plan},
};
use tokio::time::Instant;

use crate::{
    connect::Live,
    error::{At, Fault},
    look::look,
    message, settle,
    shared::Shared,
    take::{Taken, Wait, take},
};

const OPERATION: &str = "queue.receive";
/// So long a message that was seen to wait is waited for; others may have taken it meanwhile.
const PATIENCE: Duration = Duration::from_millis(100);

/// So long consumers stand until lines are looked at again: a broker that has not told of a deleted queue is found out.
const SLICE: Duration = Duration::from_secs(5);

/// Whoever waits for a receive's result.
struct Waiting<'a> {
    shared: &'a Shared,
    hand: Arc<Hand>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(Ok(deliveries)) = self.hand.leave() {
            put_back(self.shared, &deliveries);
        }
    }
}

/// Nobody wants it: with its channel all of it goes back to the broker.
fn put_back(shared: &Shared, deliveries: &[Delivery]) {
    for delivery in deliveries {
        if let Ok((channel, _)) = settle::receipt(shared, &delivery.receipt.0) {
            drop(shared.held().give_up(channel));
        }
    }
}

/// Receives; may be dropped at any await.
pub(crate) async fn receive(shared: &Arc<Shared>, request: Receive) -> Result<Vec<Delivery>> {
    // A full queue never waits: without this a consumer's loop would not let anybody else run.
    tokio::task::coop::consume_budget().await;
    if let Some((line, _)) = request.lines.iter().find(|(_, weight)| *weight == 0) {
        return Err(Fault::NoWeight { line: line.clone() }.at(OPERATION));
    }
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
            put_back(&shared, &deliveries);
        }
    });
    waiting.hand.take().await
}

async fn attempt(shared: &Arc<Shared>, request: &Receive, hand: &Hand) -> Result<Vec<Delivery>, Fault> {
    // `None`: the wait is so long that it has no end.
    let deadline = Instant::now().checked_add(request.wait);
    let over = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    if request.max == 0 || request.lines.is_empty() {
        tokio::select! {
            () = over => {}
            () = hand.gone() => {}
        }
        return Ok(Vec::new());
    }
    let _permit = tokio::select! {
        biased;
        permit = shared.receivers.acquire() => permit,
        () = over => return Ok(Vec::new()),
        () = hand.gone() => return Ok(Vec::new()),
    };
    let mut tries = 0;
    loop {
        let live = shared.inward.get().await?;
        match read(shared, &live, request, hand, deadline).await {
            // The connection may have been stale from the start: a new one is asked, once.
            Err(fault) if fault.is_broken_connection() && tries == 0 && !hand.is_gone() => tries += 1,
            answer => return answer,
        }
    }
}

/// Looks, takes what there is, or waits for a first message, until there is something, the time is over, or nobody waits.
async fn read(
    shared: &Arc<Shared>,
    live: &Arc<Live>,
    request: &Receive,
    hand: &Hand,
    deadline: Option<Instant>,
) -> Result<Vec<Delivery>, Fault> {
    let all_of_it = |_: &Line| usize::MAX;
    loop {
        let wanted = shared.promising(&request.lines);
        let lines: Vec<Line> = {
            let plan = shared.share().plan(&wanted, 0, all_of_it);
            plan.into_iter().map(|(line, ..)| line).collect()
        };
        let (channel, waiting) = match look(shared, live, &lines).await {
            Ok(looked) => looked,
            Err(at) => {
                leave_out(shared, request, at)?;
                continue;
            }
        };
        let has = |line: &Line| waiting.get(line).copied().unwrap_or_default();
        let mut plan = shared.share().plan(&wanted, request.max, has);
        let there: usize = plan.iter().map(|(.., share)| *share).sum();
        let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let wait = if there > 0 {
            Wait {
                enough: there,
                until: None,
                patience: Some(PATIENCE),
            }
        } else if is_over() || hand.is_gone() {
            return Ok(Vec::new());
        } else {
            plan = shared.share().plan(&wanted, request.max, all_of_it);
            for (.., share) in &mut plan {
                *share = (*share).max(1);
            }
            Wait {
                enough: 1,
                until: [deadline, Instant::now().checked_add(SLICE)]
                    .into_iter()
                    .flatten()
                    .min(),
                patience: None,
            }
        };
        let taken = take(shared, live, &channel, &plan, wait, hand).await;
        if taken.is_err() {
            Live::abandon(channel.clone());
        }
        match taken {
            Ok(taken) if !taken.deliveries.is_empty() => {
                let mut deliveries = deliver(shared, live, channel, &plan, taken, has);
                // Each line may give one: where there are more lines than room, that may be too much.
                let surplus = deliveries.split_off(deliveries.len().min(request.max));
                if !surplus.is_empty() {
                    settle::give_back(shared, surplus).await?;
                }
                return Ok(deliveries);
            }
            Ok(taken) => {
                for place in taken.deleted {
                    live.forget(&plan[place].0);
                }
            }
            Err(at) if at.fault.is_missing() => lines.iter().for_each(|line| live.forget(line)),
            Err(at) => leave_out(shared, request, at)?,
        }
        if hand.is_gone() || is_over() {
            return Ok(Vec::new());
        }
    }
}

/// A line that failed alone does not keep back the others; where none of them may do, its fault is the receive's.
fn leave_out(shared: &Shared, request: &Receive, At { line, fault }: At) -> Result<(), Fault> {
    match line {
        Some(line) if shared.leave_out(&line, &request.lines) => {
            tracing::warn!(%line, %fault, "rabbitmq: receiving from other lines only");
            Ok(())
        }
        _ => Err(fault),
    }
}

/// Notes messages as out, and each line's turn as taken, and makes deliveries of them.
fn deliver(
    shared: &Shared,
    live: &Arc<Live>,
    channel: lapin::Channel,
    plan: &Plan,
    taken: Taken,
    has: impl Fn(&Line) -> usize,
) -> Vec<Delivery> {
    let mut counts = vec![0; plan.len()];
    let mut out = BTreeMap::new();
    for (place, delivery) in &taken.deliveries {
        counts[*place] += 1;
        out.insert(delivery.delivery_tag, plan[*place].0.clone());
    }
    let mut share = shared.share();
    for ((line, weight, _), count) in plan.iter().zip(counts) {
        share.pay(line, *weight, count, has(line) > count);
    }
    drop(share);
    let number = shared.held().take_in(channel, Arc::clone(live), out);
    let each = taken.deliveries.into_iter().map(|(place, delivery)| Delivery {
        line: plan[place].0.clone(),
        receipt: Receipt(format!("{}.{number}.{}", shared.run, delivery.delivery_tag)),
        message: message::message(&delivery.properties, delivery.data),
    });
    each.collect()
}

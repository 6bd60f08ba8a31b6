//! From lines to attempts: receive, claim, acknowledge (PROTOCOL O5, O6). One loop per executor, for its own free slots.

use std::{collections::BTreeSet, mem, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt};
use robata_core::{
    ClaimId, ErrorKind, Result,
    attempt::{Claim, Claimed, HeldAttempt},
    job::{Line, Reference},
    part::words,
    queue::{Delivery, Receive},
    store::Hint,
};

use crate::{
    attempt, backoff::Backoff, engine::Engine, lease::Lease, metrics::METRICS, queues::Queues, shared::Shared,
    slots::Slot, unreadable,
};

/// A receive waits at most so long, so that lines that came by no hint are found, too.
const WAIT: Duration = Duration::from_secs(5);
/// While a queue is paused: that it was resumed is seen this soon, without a hint, too.
const WAIT_PAUSED: Duration = Duration::from_secs(1);
/// References claimed in one transaction.
const MAX_CLAIM: usize = 100;

/// Serves one executor until told to take nothing more.
pub(crate) async fn serve(shared: Arc<Shared>, engine: Arc<Engine>) {
    let queues = &shared.config.queues;
    let mut hints = shared.store.hints();
    let mut known = BTreeSet::new();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let lease = tokio::select! {
            () = shared.drain.cancelled() => return,
            lease = shared.lease.wait_valid() => lease,
        };
        tokio::select! {
            () = shared.drain.cancelled() => return,
            () = engine.slots.wait_free() => {}
        }
        let asked = async { tokio::try_join!(shared.store.lines(), shared.store.paused()) };
        let (records, paused) = tokio::select! {
            () = shared.drain.cancelled() => return,
            asked = asked => match asked {
                Ok(asked) => asked,
                Err(error) => {
                    tracing::warn!(error = %error.full(), "cannot read the lines");
                    backoff.wait().await;
                    continue;
                }
            },
        };
        let ours = |line: &Line| line.executor == engine.name && queues.takes(&line.queue);
        known.extend(records.into_iter().map(|record| record.line).filter(ours));
        // A claim would refuse what is paused in any case: this spares the way there.
        let mut lines = known.clone();
        lines.retain(|line| !paused.contains_key(&line.queue));
        let wait = if lines.len() < known.len() { WAIT_PAUSED } else { WAIT };
        let max = engine.slots.free().clamp(1, MAX_CLAIM);
        let received = tokio::select! {
            () = shared.drain.cancelled() => return,
            // Dropping a receive loses nothing; a line that is new, or was resumed, is received from at once.
            line = new_line(&mut hints, &lines, &engine, queues) => { known.extend(line); continue }
            received = receive(&shared, queues, &lines, max, wait) => received,
        };
        match received {
            Ok(deliveries) if deliveries.is_empty() => {}
            Ok(deliveries) => {
                if take_or_give_back(&shared, &engine, lease, deliveries).await.is_ok() {
                    backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
                } else {
                    METRICS.receive_error(&engine.name);
                    // Received again at once it would be claimed, and refused, in a circle.
                    backoff.wait().await;
                }
            }
            Err(error) => {
                METRICS.receive_error(&engine.name);
                tracing::warn!(error = %error.full(), "cannot receive");
                backoff.wait().await;
            }
        }
    }
}

async fn receive(
    shared: &Shared,
    queues: &Queues,
    lines: &BTreeSet<Line>,
    max: usize,
    wait: Duration,
) -> Result<Vec<Delivery>> {
    if lines.is_empty() {
        tokio::time::sleep(wait).await;
        return Ok(Vec::new());
    }
    let request = |lines, max, wait| Receive { lines, max, wait };
    let all = queues.weighted(lines);
    let Some(order) = queues.in_order(lines) else {
        return shared.queue.receive(request(all, max, wait)).await;
    };
    for line in order {
        let name = line.clone();
        match shared
            .queue
            .receive(request(vec![(line, 1)], max, Duration::ZERO))
            .await
        {
            Ok(received) if received.is_empty() => {}
            Ok(received) => return Ok(received),
            // It may be at fault alone: those after it must not wait for it. If all are, the one below tells.
            Err(error) => tracing::debug!(line = %name, error = %error.full(), "cannot receive from a line"),
        }
    }
    // All were empty: whichever has something first. Only one, so that the next look goes by the order again.
    shared.queue.receive(request(all, 1, wait)).await
}

/// Waits for a hint of a line that is not received from; `None` where it may have been missed.
async fn new_line(
    hints: &mut (impl futures::Stream<Item = Hint> + Unpin),
    lines: &BTreeSet<Line>,
    engine: &Engine,
    queues: &Queues,
) -> Option<Line> {
    while let Some(hint) = hints.next().await {
        match hint {
            Hint::Line(line) if line.executor == engine.name && queues.takes(&line.queue) && !lines.contains(&line) => {
                return Some(line);
            }
            Hint::Gap => return None,
            _ => {}
        }
    }
    std::future::pending().await
}

/// The same, whatever panics on the way: what was received must not stay with a worker that has forgotten it.
async fn take_or_give_back(
    shared: &Arc<Shared>,
    engine: &Arc<Engine>,
    lease: Lease,
    deliveries: Vec<Delivery>,
) -> Result<(), ()> {
    let received = deliveries.clone();
    match AssertUnwindSafe(take(shared, engine, lease, deliveries))
        .catch_unwind()
        .await
    {
        Ok(taken) => taken,
        Err(panic) => {
            tracing::error!(
                panic = words(&*panic),
                "claiming panicked; what was received is given back"
            );
            // What was claimed all the same is found by the net below, and its reference loses its next race.
            shared.give_back(received).await;
            Err(())
        }
    }
}

/// Claims what was received; `Err` where the claim failed, after the messages were given back.
async fn take(
    shared: &Arc<Shared>,
    engine: &Arc<Engine>,
    lease: Lease,
    mut deliveries: Vec<Delivery>,
) -> Result<(), ()> {
    let mut slots = Vec::new();
    while slots.len() < deliveries.len() {
        match engine.slots.try_take() {
            Some(slot) => slots.push(slot),
            None => break,
        }
    }
    // A start that waited may have taken a slot again meanwhile.
    let excess = deliveries.split_off(slots.len());
    shared.give_back(excess).await;
    let mut sorted = unreadable::sort(deliveries);
    let (good, references) = (mem::take(&mut sorted.good), mem::take(&mut sorted.references));
    let taken = match good.is_empty() {
        // What is dealt with below needs none of them.
        true => {
            drop(slots);
            Ok(())
        }
        false => claim(shared, engine, lease, slots, good, references).await,
    };
    sorted.deal(shared, lease).await;
    taken
}

async fn claim(
    shared: &Arc<Shared>,
    engine: &Arc<Engine>,
    lease: Lease,
    slots: Vec<Slot>,
    good: Vec<Delivery>,
    references: Vec<(Line, Reference)>,
) -> Result<(), ()> {
    let claim = Claim {
        claim: ClaimId::new(),
        incarnation: lease.incarnation,
        references,
    };
    // Until its attempts are followed: the net below must not take them for lost.
    let in_flight = shared.in_flight.claim(&claim);
    let Ok(held) = claim_until_known(shared, claim).await else {
        shared.give_back(good).await;
        return Err(());
    };
    let mut slots = slots.into_iter();
    METRICS.claims(&engine.name, held.len(), good.len().saturating_sub(held.len()));
    for attempt in held {
        let slot = slots.next().unwrap_or_else(|| engine.slots.take_adopted());
        start(shared, engine, lease, attempt, slot);
    }
    drop(in_flight);
    // Claims are in the store: the broker need not remember them any more.
    shared.acknowledge(&good).await;
    Ok(())
}

fn start(shared: &Arc<Shared>, engine: &Arc<Engine>, lease: Lease, held: HeldAttempt, slot: Slot) {
    attempt::spawn(shared, engine, lease.incarnation, held, slot, attempt::Origin::Claimed);
}

/// A claim whose answer was lost is fetched by its number before anything else is done (PROTOCOL H3).
async fn claim_until_known(shared: &Shared, claim: Claim) -> Result<Vec<HeldAttempt>, ()> {
    let error = match shared.store.claim(claim.clone()).await {
        Ok(answers) => {
            return Ok(answers
                .into_iter()
                .filter_map(|answer| match answer {
                    Claimed::Held(held) => Some(*held),
                    _ => None,
                })
                .collect());
        }
        Err(error) => error,
    };
    tracing::warn!(error = %error.full(), "a claim failed");
    if error.kind() == ErrorKind::Fenced {
        return Err(());
    }
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
    loop {
        match shared.store.claimed(claim.incarnation, claim.claim).await {
            Ok(held) if held.is_empty() => return Err(()),
            Ok(held) => return Ok(held),
            Err(error) if error.kind() == ErrorKind::Fenced => return Err(()),
            Err(error) => tracing::warn!(error = %error.full(), "cannot fetch a claim"),
        }
        backoff.wait().await;
    }
}

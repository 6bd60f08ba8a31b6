//! From lines to attempts: receive, claim, acknowledge (PROTOCOL O5, O6). One loop per executor, for its own free slots.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::StreamExt;
use robata_core::{
    ClaimId, ErrorKind, Result,
    attempt::{Claim, Claimed, HeldAttempt},
    job::{Line, Reference},
    queue::{Delivery, Receive},
    store::Hint,
};

use crate::{attempt, backoff::Backoff, engine::Engine, lease::Lease, shared::Shared, slots::Slot};

/// A receive waits at most so long, so that lines that came by no hint are found, too.
const WAIT: Duration = Duration::from_secs(5);
/// References claimed in one transaction.
const MAX_CLAIM: usize = 100;

/// Serves one executor until told to stop.
pub(crate) async fn serve(shared: Arc<Shared>, engine: Arc<Engine>) {
    let mut hints = shared.store.hints();
    let mut lines = BTreeSet::new();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let lease = tokio::select! {
            () = shared.stop.cancelled() => return,
            lease = shared.lease.wait_valid() => lease,
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = engine.slots.wait_free() => {}
        }
        match shared.store.lines().await {
            Ok(records) => lines.extend(
                records
                    .into_iter()
                    .map(|record| record.line)
                    .filter(|line| line.executor == engine.name),
            ),
            Err(error) => {
                tracing::warn!(error = %error.full(), "cannot read the lines");
                backoff.wait().await;
                continue;
            }
        }
        let received = tokio::select! {
            () = shared.stop.cancelled() => return,
            // Dropping a receive loses nothing; a line that is new is received from at once.
            line = new_line(&mut hints, &lines, &engine) => { lines.insert(line); continue }
            received = receive(&shared, &lines, engine.slots.free().clamp(1, MAX_CLAIM)) => received,
        };
        match received {
            Ok(deliveries) if deliveries.is_empty() => {}
            Ok(deliveries) => {
                if take(&shared, &engine, lease, deliveries).await.is_ok() {
                    backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
                } else {
                    // Received again at once it would be claimed, and refused, in a circle.
                    backoff.wait().await;
                }
            }
            Err(error) => {
                tracing::warn!(error = %error.full(), "cannot receive");
                backoff.wait().await;
            }
        }
    }
}

async fn receive(shared: &Shared, lines: &BTreeSet<Line>, max: usize) -> Result<Vec<Delivery>> {
    if lines.is_empty() {
        tokio::time::sleep(WAIT).await;
        return Ok(Vec::new());
    }
    let lines = lines.iter().map(|line| (line.clone(), 1)).collect();
    shared.queue.receive(Receive { lines, max, wait: WAIT }).await
}

/// Waits for a hint of a line that is not known yet.
async fn new_line(
    hints: &mut (impl futures::Stream<Item = Hint> + Unpin),
    lines: &BTreeSet<Line>,
    engine: &Engine,
) -> Line {
    while let Some(hint) = hints.next().await {
        if let Hint::Line(line) = hint
            && line.executor == engine.name
            && !lines.contains(&line)
        {
            return line;
        }
    }
    std::future::pending().await
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
    give_back(shared, excess).await;
    let (good, malformed): (Vec<_>, Vec<_>) = deliveries
        .into_iter()
        .partition(|delivery| Reference::decode(&delivery.message.body).is_some());
    for delivery in &malformed {
        tracing::error!(line = %delivery.line, bytes = delivery.message.body.len(), "dropped a malformed reference; its job goes out again");
    }
    acknowledge(shared, &malformed).await;
    if good.is_empty() {
        return Ok(());
    }
    let references = good
        .iter()
        .filter_map(|delivery| Some((delivery.line.clone(), Reference::decode(&delivery.message.body)?)));
    let claim = Claim {
        claim: ClaimId::new(),
        incarnation: lease.incarnation,
        references: references.collect(),
    };
    let Ok(held) = claim_until_known(shared, claim).await else {
        give_back(shared, good).await;
        return Err(());
    };
    let mut slots = slots.into_iter();
    for attempt in held {
        let slot = slots.next().unwrap_or_else(|| engine.slots.take_adopted());
        start(shared, engine, lease, attempt, slot);
    }
    // Claims are in the store: the broker need not remember them any more.
    acknowledge(shared, &good).await;
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

async fn acknowledge(shared: &Shared, deliveries: &[Delivery]) {
    if deliveries.is_empty() {
        return;
    }
    // Delivered again, a claimed reference loses its race and is dropped.
    if let Err(error) = shared.queue.acknowledge(deliveries).await {
        tracing::warn!(error = %error.full(), "cannot acknowledge");
    }
}

async fn give_back(shared: &Shared, deliveries: Vec<Delivery>) {
    if deliveries.is_empty() {
        return;
    }
    // A reference that is lost here goes out again from the store (PROTOCOL O3).
    if let Err(error) = shared.queue.give_back(deliveries).await {
        tracing::warn!(error = %error.full(), "cannot give back");
    }
}

//! Adoption: taking over what no live worker holds, and setting right what two lists do not agree on.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use robata_core::{
    AttemptId, ErrorKind, ExecutorName, IncarnationId,
    attempt::HeldAttempt,
    executor::RealmId,
    store::{Adopt, Hint},
};

use crate::{attempt, shared::Shared};

/// How often orphans are looked for without a hint (PROTOCOL H4).
const EVERY: Duration = Duration::from_secs(2);
/// Attempts taken over in one transaction.
const BATCH: usize = 200;
/// A follower's fast flushing lasts this long after each of its hints.
const FOLLOWED: Duration = Duration::from_secs(10);

/// Looks for orphans until told to stop.
pub(crate) async fn serve(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.orphans.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
        let Some(lease) = shared.lease.valid() else { continue };
        while adopt(&shared, lease.incarnation, None).await >= BATCH {}
    }
}

/// Hears the store's hints until told to stop.
pub(crate) async fn listen(shared: Arc<Shared>) {
    loop {
        let mut hints = shared.store.hints();
        loop {
            let hint = tokio::select! {
                () = shared.stop.cancelled() => return,
                hint = hints.next() => hint,
            };
            match hint {
                Some(Hint::Orphans) => shared.orphans.notify_one(),
                Some(Hint::Attempt(attempt)) if shared.held.contains(attempt) => asked(&shared, attempt).await,
                Some(_) => {}
                None => break,
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Somebody asked something of an attempt of ours: to cancel it, or to follow its log.
async fn asked(shared: &Shared, attempt: AttemptId) {
    shared.held.followed(attempt, tokio::time::Instant::now() + FOLLOWED);
    match shared.store.job(attempt.job).await {
        Ok(detail) if detail.job.cancel_requested_at.is_some() => shared.held.cancel(attempt),
        Ok(_) => {}
        // The next heartbeat tells it, too.
        Err(error) => tracing::warn!(%attempt, error = %error.full(), "cannot read what was asked"),
    }
}

/// The realms that this worker has reached.
fn realms(shared: &Shared) -> BTreeMap<ExecutorName, RealmId> {
    shared
        .engines
        .iter()
        .filter_map(|(name, engine)| Some((name.clone(), engine.realm()?)))
        .collect()
}

async fn adopt(shared: &Arc<Shared>, incarnation: IncarnationId, only: Option<Vec<AttemptId>>) -> usize {
    let request = Adopt {
        incarnation,
        realms: realms(shared),
        only,
        max: BATCH,
    };
    match shared.store.adopt(request).await {
        Ok(attempts) => {
            let count = attempts.len();
            for held in attempts {
                follow(shared, incarnation, held);
            }
            count
        }
        Err(error) if error.kind() == ErrorKind::Fenced => 0,
        Err(error) => {
            tracing::warn!(error = %error.full(), "cannot adopt");
            0
        }
    }
}

fn follow(shared: &Arc<Shared>, incarnation: IncarnationId, held: HeldAttempt) {
    let executor = held.request.executor.clone();
    let Some(engine) = shared.engines.get(&executor) else {
        tracing::error!(attempt = %held.id, %executor, "adopted an attempt of an executor that is not here");
        return;
    };
    tracing::info!(attempt = %held.id, epoch = held.epoch, state = %held.state, "adopted");
    let slot = engine.slots.take_adopted();
    attempt::spawn(shared, engine, incarnation, held, slot, attempt::Origin::Adopted);
}

/// The net below: what the store holds in our name and nobody follows is adopted, what it does not is let go (PROTOCOL H3).
pub(crate) async fn reconcile(shared: &Arc<Shared>, incarnation: IncarnationId) {
    let ours = shared.held.all(incarnation);
    let theirs = match shared.store.held(incarnation).await {
        Ok(theirs) => theirs,
        Err(error) => return tracing::warn!(error = %error.full(), "cannot read what is held"),
    };
    let unknown: Vec<_> = theirs
        .iter()
        .filter(|(attempt, _)| !shared.held.contains(*attempt))
        .map(|(attempt, _)| *attempt)
        .collect();
    if !unknown.is_empty() {
        tracing::warn!(
            count = unknown.len(),
            "the store holds attempts in our name that nobody follows; adopting them"
        );
        adopt(shared, incarnation, Some(unknown)).await;
    }
    let theirs: HashSet<_> = theirs.into_iter().collect();
    for (attempt, epoch) in ours {
        if !theirs.contains(&(attempt, epoch)) {
            // Finalised since the list was made, or not ours any more.
            shared.held.let_go(attempt, epoch);
        }
    }
}

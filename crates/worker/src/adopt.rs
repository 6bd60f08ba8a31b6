//! Adoption: taking over what no live worker holds.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt;
use robata_core::{
    AttemptId, ErrorKind, ExecutorName, Format, IncarnationId,
    attempt::HeldAttempt,
    executor::RealmId,
    store::{Adopt, Hint},
};

use crate::{attempt, shared::Shared};

/// How often orphans are looked for without a hint (PROTOCOL H4).
const EVERY: Duration = Duration::from_secs(2);
/// Attempts taken over in one transaction.
const BATCH: usize = 200;
/// A follower's fast flushing lasts this long after each of its hints, and after each heartbeat that tells of it.
pub(crate) const FOLLOWED: Duration = Duration::from_secs(10);

/// Looks for orphans until told to stop.
pub(crate) async fn serve(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.orphans.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
        let Some(lease) = shared.lease.valid() else { continue };
        if shared.drain.is_cancelled() {
            take_back(&shared, lease.incarnation).await;
            continue;
        }
        loop {
            let own = shared.own().clone();
            match adopt(&shared, lease.incarnation, None).await {
                Ok(count) if count >= BATCH => {}
                Ok(_) => {
                    settled(&shared, &own);
                    break;
                }
                Err(()) => break,
            }
        }
    }
}

/// A draining worker takes nothing new, but what it held itself before its lease ended it takes back.
async fn take_back(shared: &Arc<Shared>, incarnation: IncarnationId) {
    loop {
        let own = shared.own().clone();
        if own.is_empty() {
            return;
        }
        match adopt(shared, incarnation, Some(own.clone())).await {
            Ok(count) if count >= BATCH => {}
            // The rest is somebody else's, or over.
            Ok(_) => settled(shared, &own),
            Err(()) => return,
        }
    }
}

/// All that could be taken back of these was.
fn settled(shared: &Shared, own: &[AttemptId]) {
    if !own.is_empty() {
        shared.own().retain(|attempt| !own.contains(attempt));
        shared.held.wake();
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
                Some(Hint::Orphans | Hint::Gap) => shared.orphans.notify_one(),
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

pub(crate) async fn adopt(
    shared: &Arc<Shared>,
    incarnation: IncarnationId,
    only: Option<Vec<AttemptId>>,
) -> Result<usize, ()> {
    let _in_flight = shared.in_flight.adoption();
    let request = Adopt {
        incarnation,
        realms: realms(shared),
        only,
        max: BATCH,
        format: Format::OWN,
    };
    match shared.store.adopt(request).await {
        Ok(attempts) => {
            let count = attempts.len();
            for held in attempts {
                follow(shared, incarnation, held);
            }
            Ok(count)
        }
        Err(error) if error.kind() == ErrorKind::Fenced => Err(()),
        Err(error) => {
            tracing::warn!(error = %error.full(), "cannot adopt");
            Err(())
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

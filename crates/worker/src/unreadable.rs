//! Messages in a line that are no reference this release can read: malformed ones are put aside with their reason, those of
//! a later release are left for a worker of that release (PROTOCOL V1). Neither loops for ever, neither vanishes.

use std::{sync::Arc, time::Duration};

use robata_core::{
    format::Unreadable,
    job::{Line, Reference},
    queue::Delivery,
    store::SetAside,
};

use crate::{lease::Lease, shared::Shared};

/// What cannot be dealt with now is given back after this time: at once it would come in a circle.
const REST: Duration = Duration::from_secs(5);
/// Batches that rest at once; beyond it receiving itself is held back.
pub(crate) const RESTING: usize = 16;

/// What was received, by what can be done with it.
#[derive(Default)]
pub(crate) struct Sorted {
    /// Those that can be read, each with its line.
    pub(crate) good: Vec<Delivery>,
    pub(crate) references: Vec<(Line, Reference)>,
    /// A later release's.
    newer: Vec<Delivery>,
    /// With what is wrong with each.
    malformed: Vec<Delivery>,
    reasons: Vec<String>,
}

pub(crate) fn sort(deliveries: Vec<Delivery>) -> Sorted {
    let mut sorted = Sorted::default();
    for delivery in deliveries {
        match Reference::read(&delivery.message.body) {
            Ok(reference) => {
                sorted.references.push((delivery.line.clone(), reference));
                sorted.good.push(delivery);
            }
            Err(Unreadable::TooNew(format)) => {
                tracing::debug!(line = %delivery.line, %format, "a reference of a later release");
                sorted.newer.push(delivery);
            }
            Err(Unreadable::Malformed(reason)) => {
                sorted.reasons.push(reason);
                sorted.malformed.push(delivery);
            }
        }
    }
    sorted
}

impl Sorted {
    /// Deals with what cannot be read, after what can was claimed: that must not wait for this.
    pub(crate) async fn deal(self, shared: &Arc<Shared>, lease: Lease) {
        if !self.newer.is_empty() {
            leave(shared, lease, self.newer).await;
        }
        if !self.malformed.is_empty() {
            put_aside(shared, self.malformed, self.reasons).await;
        }
    }
}

/// Left for a worker of their release. After a while they are let go: as long as this worker's lease holds, none of them is
/// needed. What was out in a newer format when it registered was void from then on and went out again; what has gone out in one
/// since was not noted (PROTOCOL V1). Nobody else may be there to take them after an upgrade was taken back.
async fn leave(shared: &Arc<Shared>, lease: Lease, deliveries: Vec<Delivery>) {
    let (line, messages) = (&deliveries[0].line, deliveries.len());
    // They came before now, and under this lease.
    let now = shared.lease.valid();
    let is_held = now.is_some_and(|now| now.incarnation == lease.incarnation);
    if is_held && lease.age() >= shared.config.newer_patience {
        tracing::warn!(%line, messages, "references of a later release, which nobody takes and nobody needs any more, are let go");
        return shared.acknowledge(&deliveries).await;
    }
    tracing::warn!(%line, messages, "references of a later release are left for its workers");
    rest(shared, deliveries).await;
}

/// Kept in the store before it is acknowledged in the broker.
async fn put_aside(shared: &Arc<Shared>, deliveries: Vec<Delivery>, reasons: Vec<String>) {
    let messages = deliveries.iter().zip(reasons).map(|(delivery, reason)| {
        tracing::error!(line = %delivery.line, reason, "put aside a message that is no reference");
        SetAside {
            source: delivery.line.to_string(),
            reason,
            body: delivery.message.body.clone(),
            attributes: delivery.message.attributes.clone(),
        }
    });
    match shared.store.set_aside(messages.collect()).await {
        // Where this answer is lost it is put aside twice.
        Ok(()) => shared.acknowledge(&deliveries).await,
        Err(error) => {
            tracing::warn!(error = %error.full(), "cannot put a message aside; it is given back");
            rest(shared, deliveries).await;
        }
    }
}

/// Gives back after a while; this worker holds them until then.
async fn rest(shared: &Arc<Shared>, deliveries: Vec<Delivery>) {
    // Never closed.
    let place = Arc::clone(&shared.resting).acquire_owned().await;
    let all = Arc::clone(shared);
    shared.tasks.spawn(async move {
        tokio::select! {
            () = tokio::time::sleep(REST) => {}
            () = all.stop.cancelled() => {}
        }
        // Dropped half-way, the broker gives them to somebody else by itself.
        tokio::select! {
            () = all.give_back(deliveries) => {}
            () = all.leave.cancelled() => {}
        }
        drop(place);
    });
}

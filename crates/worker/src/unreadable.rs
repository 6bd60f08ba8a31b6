//! Messages in a line that are no reference this release can read: malformed ones are put aside with their reason, those of
//! a later release are left for a worker of that release (PROTOCOL V1). Neither loops, neither vanishes.

use std::{sync::Arc, time::Duration};

use robata_core::{
    format::Unreadable,
    job::{Line, Reference},
    queue::Delivery,
    store::SetAside,
};

use crate::shared::Shared;

/// What cannot be dealt with now is given back after this time: at once it would come in a circle.
const REST: Duration = Duration::from_secs(5);
/// Batches that rest at once; beyond it receiving itself is held back.
pub(crate) const RESTING: usize = 16;

/// Takes out of what was received what can be read, each with its line.
pub(crate) async fn sort(shared: &Arc<Shared>, deliveries: Vec<Delivery>) -> (Vec<Delivery>, Vec<(Line, Reference)>) {
    let (mut good, mut references) = (Vec::new(), Vec::new());
    let (mut newer, mut malformed, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    for delivery in deliveries {
        match Reference::read(&delivery.message.body) {
            Ok(reference) => {
                references.push((delivery.line.clone(), reference));
                good.push(delivery);
            }
            Err(Unreadable::TooNew(format)) => {
                tracing::warn!(line = %delivery.line, %format, "a reference of a later release; left for a worker of that release");
                newer.push(delivery);
            }
            Err(Unreadable::Malformed(reason)) => {
                reasons.push(reason);
                malformed.push(delivery);
            }
        }
    }
    if !newer.is_empty() {
        rest(shared, newer).await;
    }
    if !malformed.is_empty() {
        put_aside(shared, malformed, reasons).await;
    }
    (good, references)
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

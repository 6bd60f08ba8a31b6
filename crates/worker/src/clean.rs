//! Clean-up of a realm (PROTOCOL C1): lists the realm first, asks the store second, removes only what is finalised.

use std::{sync::Arc, time::Duration};

use robata_core::{
    AttemptId, Format, Result,
    attempt::Knowledge,
    executor::{Owned, label},
};

use crate::{backoff::Backoff, clock::wall_time, engine::Engine, shared::Shared};

/// After something may have been left behind.
const SOON: Duration = Duration::from_secs(3);

/// After that look: a busy engine makes what was asked of it later still.
const ONCE_MORE: Duration = Duration::from_secs(20);

/// Cleans one realm until told to stop.
pub(crate) async fn serve(shared: Arc<Shared>, engine: Arc<Engine>) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    let mut left_behind = false;
    loop {
        let wait = if engine.realm().is_none() || shared.lease.valid().is_none() {
            backoff.next()
        } else {
            match clean(&shared, &engine).await {
                Ok(()) if std::mem::take(&mut left_behind) => ONCE_MORE.min(shared.config.clean_every),
                Ok(()) => shared.config.clean_every,
                Err(error) => {
                    tracing::warn!(executor = %engine.name, error = %error.full(), "cannot clean up");
                    backoff.next()
                }
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            // Not at once: what is on its way may still come.
            () = engine.left_behind.notified() => {
                left_behind = true;
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    () = tokio::time::sleep(SOON.min(wait)) => {}
                }
            }
        }
    }
}

async fn clean(shared: &Shared, engine: &Engine) -> Result<()> {
    // Ages are the engine's: what it stamps is read by its own clock, and an engine that does not tell it removes nothing.
    let now = engine.executor.now().await?.unwrap_or_else(wall_time);
    let owned = engine.executor.owned().await?;
    let named: Vec<(Option<AttemptId>, Owned)> = owned
        .into_iter()
        .map(|thing| {
            (
                thing.labels.get(label::ATTEMPT).and_then(|text| text.parse().ok()),
                thing,
            )
        })
        .collect();
    // PROTOCOL V1: what a later release labelled means what that release knows.
    let (newer, named): (Vec<_>, Vec<_>) = named.into_iter().partition(|(_, thing)| is_newer(thing));
    if !newer.is_empty() {
        tracing::warn!(executor = %engine.name, things = newer.len(), "things of a later release are left for its workers");
    }
    let ids: Vec<AttemptId> = named.iter().filter_map(|(id, _)| *id).collect();
    let mut known = shared.store.known(&ids).await?.into_iter();
    for (id, thing) in named {
        let knowledge = if id.is_some() {
            known.next().unwrap_or(Knowledge::Open)
        } else {
            Knowledge::Unknown
        };
        let age = now.since(thing.created_at);
        let remove = match knowledge {
            Knowledge::Open => false,
            Knowledge::Finalised => true,
            Knowledge::Unknown => {
                tracing::warn!(executor = %engine.name, handle = %thing.handle, age_secs = age.as_secs(), "unknown to the store");
                age >= shared.config.orphan_after
            }
        };
        if !remove || shared.lease.valid().is_none() {
            continue;
        }
        match engine.executor.remove(&thing.handle, true).await {
            Ok(()) => tracing::info!(executor = %engine.name, handle = %thing.handle, "removed what was left behind"),
            Err(error) => {
                tracing::warn!(executor = %engine.name, handle = %thing.handle, error = %error.full(), "cannot remove")
            }
        }
    }
    Ok(())
}

/// Whether a later release made it, by its label. A label that is no number is none of ours: the store is asked.
fn is_newer(thing: &Owned) -> bool {
    let format = thing.labels.get(label::FORMAT).and_then(|text| text.parse().ok());
    format.is_some_and(|number| Format::new(number).is_newer())
}

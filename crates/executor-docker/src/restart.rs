//! Whether the engine was started anew while a container printed: then some of its output may be lost.
//!
//! dockerd itself carries output from the container's pipes to its log. What it holds when it ends is lost, and so is
//! what a container printed that ended before the engine was back. With live-restore the container notices nothing of
//! it. Seen on 20.10, after SIGKILL and after SIGTERM alike: 244 to 1,692 lines (3 to 20 KB) in the middle of a chatty
//! container's log, one line torn, and all of the last words of one that ended meanwhile; what a container prints while
//! the engine is away waits in its pipe and is kept.

use bollard::{models::EventMessage, query_parameters::EventsOptions};
use futures::TryStreamExt;
use robata_core::Timestamp;

use crate::{
    boot::Watched,
    engine::{Engine, Kind},
    error::Fault,
    state,
};

/// Whether the engine may have been started after `since`, at which `id` ran. It is asked only where we were not
/// connected to its events all the while.
pub(crate) async fn since(engine: &Engine, watched: &Watched, id: &str, since: Timestamp) -> Result<bool, Fault> {
    if watched.unbroken_since(since) {
        return Ok(false);
    }
    if booted(engine).await?.is_some_and(|booted| booted > since) {
        return Ok(true);
    }
    let info = engine.call(|client| client.info()).await?;
    if info.live_restore_enabled != Some(true) {
        return Ok(false);
    }
    // With live-restore the `bridge` network stays as it is where containers run. What the engine has in its memory
    // alone is its latest events: they reach back to before `since`, or to this container's start, or it was started
    // since, or has had too much to do to know.
    let options = EventsOptions {
        since: Some("1".to_owned()),
        until: info
            .system_time
            .as_ref()
            .and_then(|now| state::time(Some(now)))
            .map(state::seconds),
        ..EventsOptions::default()
    };
    let reaches_back = |event: EventMessage| {
        let before = event
            .time_nano
            .is_some_and(|nanos| nanos / 1_000_000 <= since.as_millis());
        let starts = event.action.as_deref() == Some("start");
        before || (starts && event.actor.and_then(|actor| actor.id).as_deref() == Some(id))
    };
    let reaches = engine
        .call(|client| {
            client
                .events(Some(options))
                .try_any(move |event| std::future::ready(reaches_back(event)))
        })
        .await?;
    Ok(!reaches)
}

/// When the engine was last started, as far as its `bridge` network tells. Podman's network says when its service was, which is
/// nothing to its containers: they run on without it.
pub(crate) async fn booted(engine: &Engine) -> Result<Option<Timestamp>, Fault> {
    if engine.kind().await? == Kind::Podman {
        return Ok(None);
    }
    match engine.call(|client| client.inspect_network("bridge", None)).await {
        Ok(bridge) => Ok(state::time(bridge.created.as_ref())),
        Err(fault) if fault.status() == Some(404) => Ok(None),
        Err(fault) => Err(fault),
    }
}

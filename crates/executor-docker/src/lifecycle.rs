//! Start, stop and remove: each looks first, acts, and confirms.

use std::{future::ready, path::Path, time::Duration};

use bollard::{
    models::{ContainerInspectResponse, ContainerStateStatusEnum as Status},
    query_parameters::{EventsOptions, KillContainerOptions, RemoveContainerOptions, StopContainerOptions},
};
use futures::TryStreamExt;
use robata_core::{Error, ErrorKind, Result, Timestamp};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    container::whole_seconds,
    engine::Engine,
    error::{Fault, is_room},
    payload, state,
};

const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long the engine may take to tell what became of a container that it has just removed.
const HISTORY: Duration = Duration::from_secs(5);

/// How long a removal, or an end after SIGKILL, is waited for.
fn confirm(engine: &Engine) -> Duration {
    engine.config.call_timeout * 2
}

/// Sets a container going that was never set going. The caller lets nobody else in this process start it meanwhile.
pub(crate) async fn start(engine: &Engine, id: &str) -> Result<()> {
    const OPERATION: &str = "docker.start";
    let gone = || Error::new(ErrorKind::NotFound, OPERATION, "there is no such container");
    let found = engine.ours(id).await.map_err(|fault| fault.into_error(OPERATION))?;
    let state = found.and_then(|found| found.state).ok_or_else(gone)?;
    // The engine would start an ended container again: this look is what keeps it from that.
    if state::has_run(&state) {
        return Ok(());
    }
    if state::was_refused(&state) {
        let words = state.error.unwrap_or_default();
        return Err(Error::new(ErrorKind::StartRefused, OPERATION, words));
    }
    if state.status != Some(Status::CREATED) {
        return Err(gone());
    }
    let client = engine.client().await.map_err(|fault| fault.into_error(OPERATION))?;
    let started = engine
        .bounded(engine.config.start_timeout, client.start_container(id, None))
        .await;
    match started {
        Ok(()) => Ok(()),
        Err(fault @ Fault::Refused { .. }) => {
            let words = fault.words();
            let kind = if is_room(&words) {
                ErrorKind::NoCapacity
            } else if is_passing(&words) {
                ErrorKind::Unavailable
            } else if words.to_lowercase().contains("no such container") || words.contains("marked for removal") {
                ErrorKind::NotFound
            } else {
                ErrorKind::StartRefused
            };
            Err(fault.of_kind(kind, OPERATION))
        }
        Err(fault) => Err(fault.into_error(OPERATION)),
    }
}

/// Whether words about a failed start mean the engine's own state and not the container's description.
pub(crate) fn is_passing(words: &str) -> bool {
    const WORDS: [&str; 8] = [
        "context deadline exceeded",
        "context canceled",
        "connection refused",
        "transport is closing",
        "ttrpc: closed",
        "failed to start shim",
        "containerd is not running",
        "shutting down",
    ];
    let words = words.to_lowercase();
    is_room(&words) || WORDS.iter().any(|part| words.contains(part))
}

/// Ends a container and confirms that no process of it is left.
pub(crate) async fn stop(engine: &Engine, id: &str, grace_period: Duration) -> Result<()> {
    const OPERATION: &str = "docker.stop";
    let runs = || async {
        let found = engine.ours(id).await.map_err(|fault| fault.into_error(OPERATION))?;
        let state = found.and_then(|found| found.state);
        Ok::<_, Error>(state.is_some_and(|state| state::runs(&state)))
    };
    if !runs().await? {
        return Ok(());
    }
    let client = engine.client().await.map_err(|fault| fault.into_error(OPERATION))?;
    let options = StopContainerOptions {
        t: i32::try_from(whole_seconds(grace_period)).ok(),
        ..StopContainerOptions::default()
    };
    let limit = grace_period.saturating_add(confirm(engine));
    let stopped = engine.bounded(limit, client.stop_container(id, Some(options))).await;
    if let Err(fault @ (Fault::Unreachable { .. } | Fault::Forbidden { .. })) = stopped {
        return Err(fault.into_error(OPERATION));
    }
    // Whatever was answered: only the container's own state counts.
    let deadline = Instant::now() + confirm(engine);
    while runs().await? {
        if Instant::now() > deadline {
            let message = format!(
                "the container has not ended {} s after SIGKILL",
                confirm(engine).as_secs()
            );
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, message));
        }
        let kill = KillContainerOptions {
            signal: "SIGKILL".to_owned(),
        };
        match engine.call(|client| client.kill_container(id, Some(kill))).await {
            // It has ended meanwhile, or it is gone.
            Ok(()) | Err(Fault::Refused { status: 404 | 409, .. }) => {}
            Err(fault) => return Err(fault.into_error(OPERATION)),
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Removes a container with its anonymous volumes and its payload file.
pub(crate) async fn remove(engine: &Engine, id: &str, force: bool) -> Result<()> {
    const OPERATION: &str = "docker.remove";
    let still_runs = || Error::new(ErrorKind::StillRuns, OPERATION, "the container still runs");
    let deadline = Instant::now() + confirm(engine);
    let mut files = Vec::new();
    let mut asked = None;
    // When it was made, where it had not run when we looked last.
    let mut unstarted = None;
    loop {
        let found = engine.ours(id).await.map_err(|fault| fault.into_error(OPERATION))?;
        let Some(found) = found else {
            break;
        };
        if files.is_empty() {
            files = payload_files(engine, &found);
        }
        if !force && found.state.as_ref().is_some_and(state::runs) {
            return Err(still_runs());
        }
        unstarted = match &found.state {
            Some(state) if !force && !state::has_run(state) => state::time(found.created.as_ref()),
            _ => None,
        };
        if Instant::now() > deadline {
            let words = asked.map_or_else(|| "it goes on removing it".to_owned(), |fault: Fault| fault.words());
            let message = format!(
                "the engine has not removed the container in {} s: {words}",
                confirm(engine).as_secs()
            );
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, message));
        }
        let options = RemoveContainerOptions {
            v: true,
            force,
            link: false,
        };
        match engine.call(|client| client.remove_container(id, Some(options))).await {
            Ok(()) => break,
            // Another removal is under way, or it came to run; the next look tells.
            Err(fault @ Fault::Refused { .. }) => asked = Some(fault),
            Err(fault) => return Err(fault.into_error(OPERATION)),
        }
        sleep(LOOK_AGAIN).await;
    }
    files.iter().for_each(|file| payload::remove(Path::new(file)));
    match unstarted {
        Some(made) => never_ran(engine, id, made, OPERATION).await,
        None => Ok(()),
    }
}

/// Whether what had not run when we looked, and is removed now, was set going and ended in between: the engine refuses to
/// remove what runs, and not what has ended. Its events tell, in which its removal is the last.
async fn never_ran(engine: &Engine, id: &str, made: Timestamp, operation: &'static str) -> Result<()> {
    let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
    let filters = [
        ("container".to_owned(), vec![id.to_owned()]),
        ("event".to_owned(), words(&["start", "die", "destroy"])),
    ];
    let options = EventsOptions {
        since: Some(state::seconds(made.minus(Duration::from_secs(1)))),
        filters: Some(filters.into()),
        ..EventsOptions::default()
    };
    let read = async {
        let client = engine.client().await?;
        let events = client.events(Some(options));
        let mut events = events.try_take_while(|event| ready(Ok(event.action.as_deref() != Some("destroy"))));
        let (mut started, mut code) = (false, None);
        while let Some(event) = events.try_next().await.map_err(|error| engine.fault(error))? {
            started |= event.action.as_deref() == Some("start");
            let attributes = event.actor.and_then(|actor| actor.attributes);
            code = attributes.and_then(|mut all| all.remove("exitCode")).or(code);
        }
        Ok::<_, Fault>(started.then_some(code))
    };
    let error = match timeout(HISTORY, read).await {
        Ok(Ok(None)) => return Ok(()),
        Ok(Ok(Some(code))) => {
            let code = code.unwrap_or_else(|| "unknown".to_owned());
            let message =
                format!("the container was set going and ended (exit code {code}) before it was removed, and is gone");
            return Err(Error::new(ErrorKind::StillRuns, operation, message));
        }
        Ok(Err(fault)) => fault.words(),
        Err(_) => "it does not tell".to_owned(),
    };
    // It is gone, and had not run a moment before.
    tracing::warn!(
        container = id,
        error,
        "cannot ask the engine whether what was removed had been set going"
    );
    Ok(())
}

/// The payload files of ours that a container has mounted.
fn payload_files(engine: &Engine, found: &ContainerInspectResponse) -> Vec<String> {
    let Some(folder) = &engine.config.payload_folder else {
        return Vec::new();
    };
    let sources = found.mounts.iter().flatten().filter_map(|mount| mount.source.clone());
    sources
        .filter(|source| payload::is_ours(Path::new(source), folder, engine.config.installation))
        .collect()
}

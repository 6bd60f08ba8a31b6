//! A command that docker-init could not run: to the engine the container ran and returned 126 or 127.

use bollard::{models::ContainerInspectResponse, query_parameters::LogsOptions};
use futures::{StreamExt, TryStreamExt};
use robata_core::{
    executor::{Observation, Stream, ThingState},
    finish::{End, NeverRan},
};

use crate::{
    engine::{Engine, frame},
    error::Fault,
};

/// How docker-init, which is tini, begins its last words (`FATAL` in tini's `src/tini.c`).
const LAST_WORDS: &[u8] = b"[FATAL tini (";

/// Tells a command that was never found, or may not be run, apart from one that returned such a code. The sign is
/// docker-init's complaint, as all that the container ever printed.
pub(crate) async fn tell_apart(
    engine: &Engine,
    found: &ContainerInspectResponse,
    observation: &mut Observation,
) -> Result<(), Fault> {
    let init = found.host_config.as_ref().and_then(|config| config.init);
    let (ThingState::Ended(ending), Some(true), Some(id)) = (&mut observation.state, init, &found.id) else {
        return Ok(());
    };
    if !matches!(ending.end, End::Exited(126 | 127)) {
        return Ok(());
    }
    let options = LogsOptions {
        stdout: true,
        stderr: true,
        tail: "2".to_owned(),
        ..LogsOptions::default()
    };
    let printed: Vec<_> = engine
        .call(|client| client.logs(id, Some(options)).take(2).try_collect())
        .await?;
    let [only] = &printed[..] else {
        return Ok(());
    };
    if let (Stream::Stderr, line) = frame(only.clone())
        && line.starts_with(LAST_WORDS)
    {
        ending.end = End::NeverRan(NeverRan::StartRefused);
        ending.message = Some(String::from_utf8_lossy(&line).trim().to_owned());
    }
    Ok(())
}

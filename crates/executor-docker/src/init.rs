//! A command that docker-init could not run: to the engine the container ran and returned 126 or 127.

use std::time::Duration;

use bollard::{models::ContainerInspectResponse, query_parameters::LogsOptions};
use futures::TryStreamExt;
use robata_core::{
    executor::{Ending, Observation, Stream, ThingState},
    finish::{End, NeverRan},
};

use crate::{
    engine::{Engine, Kind, frame},
    error::Fault,
};

/// How docker-init, which is tini, begins its last words (`FATAL` in tini's `src/tini.c`).
const LAST_WORDS: &[u8] = b"[FATAL tini (";
/// How Podman's init, catatonit, begins its own; it ends with 1 (seen on 0.1.7).
const PODMANS: &[u8] = b"ERROR (catatonit:";

/// How long an init takes to find that it cannot run the command, on a very busy machine: Podman's took more than half a
/// second once. What ran for longer ran, and may print such words itself.
const AT_ONCE: Duration = Duration::from_secs(5);
/// More of what was printed than any init's last words are.
const ENOUGH: usize = 4 << 10;

/// Tells a command that was never found, or may not be run, apart from one that returned such a code. The sign is
/// docker-init's complaint, at once and as all that the container ever printed.
pub(crate) async fn tell_apart(
    engine: &Engine,
    found: &ContainerInspectResponse,
    observation: &mut Observation,
) -> Result<(), Fault> {
    let init = found.host_config.as_ref().and_then(|config| config.init);
    let (ThingState::Ended(ending), Some(true), Some(id)) = (&mut observation.state, init, &found.id) else {
        return Ok(());
    };
    if !matches!(ending.end, End::Exited(1 | 126 | 127)) || !ended_at_once(ending) {
        return Ok(());
    }
    let last_words = match (engine.kind().await?, ending.end) {
        (Kind::Docker, End::Exited(126 | 127)) => LAST_WORDS,
        (Kind::Podman, End::Exited(1)) => PODMANS,
        _ => return Ok(()),
    };
    let Some(printed) = complaint(engine, id).await? else {
        return Ok(());
    };
    if printed.starts_with(last_words) {
        ending.end = End::NeverRan(NeverRan::StartRefused);
        let mut words = String::from_utf8_lossy(&printed).trim().to_owned();
        // Podman's does not say what it could not run.
        if let (Kind::Podman, Some(program)) = (engine.kind().await?, program(found)) {
            words = format!("{program}: {words}");
        }
        ending.message = Some(words);
    }
    Ok(())
}

/// All that the container printed, where that is one short line on its standard error. An engine may hand the line over in
/// pieces: Podman gives the end of catatonit's as a frame of its own, now and then.
async fn complaint(engine: &Engine, id: &str) -> Result<Option<Vec<u8>>, Fault> {
    let options = LogsOptions {
        stdout: true,
        stderr: true,
        ..LogsOptions::default()
    };
    let printed = engine.call(|client| async move {
        let mut frames = client.logs(id, Some(options));
        let mut printed = Vec::new();
        while let Some(output) = frames.try_next().await? {
            match frame(output) {
                Ok((Stream::Stderr, bytes)) if printed.len() + bytes.len() <= ENOUGH => {
                    printed.extend_from_slice(&bytes);
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(printed))
    });
    Ok(printed.await?.filter(|printed| {
        let printed = String::from_utf8_lossy(printed);
        printed.trim().lines().count() == 1
    }))
}

/// What the container was to run.
fn program(found: &ContainerInspectResponse) -> Option<&str> {
    let config = found.config.as_ref()?;
    let mut argv = config.entrypoint.iter().chain(&config.cmd).flatten();
    argv.next().map(String::as_str)
}

fn ended_at_once(ending: &Ending) -> bool {
    match (ending.started_at, ending.finished_at) {
        (Some(started), Some(finished)) => finished.since(started) < AT_ONCE,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use robata_core::Timestamp;

    use super::*;

    #[test]
    fn what_ran_for_a_while_was_found() {
        let ending = |millis: i64| Ending {
            end: End::Exited(127),
            started_at: Some(Timestamp::from_millis(1_000)),
            finished_at: Some(Timestamp::from_millis(1_000 + millis)),
            detail: None,
            message: None,
        };
        assert!(ended_at_once(&ending(30)));
        assert!(!ended_at_once(&ending(10_000)));
        assert!(!ended_at_once(&Ending {
            finished_at: None,
            ..ending(0)
        }));
    }
}

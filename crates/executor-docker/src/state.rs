//! From the engine's account of a container to ours.

use std::collections::BTreeMap;

use bollard::models::{ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status};
use robata_core::{
    Timestamp,
    executor::{Ending, Handle, Observation, ThingState},
    finish::{End, NeverRan},
};

/// Above this, an exit code is 128 and a signal's number (<https://docs.docker.com/engine/containers/run/#exit-status>,
/// and docker-init's own rule). A program that returns such a code by itself looks the same.
const SIGNAL_BASE: i64 = 128;
const LAST_SIGNAL: i64 = 64;

pub(crate) fn observation(found: &ContainerInspectResponse) -> Observation {
    let labels = found.config.as_ref().and_then(|config| config.labels.clone());
    Observation {
        handle: found.id.clone().map(Handle),
        labels: labels.map(BTreeMap::from_iter).unwrap_or_default(),
        state: found.state.as_ref().map_or(ThingState::Absent, state),
    }
}

pub(crate) fn absent() -> Observation {
    Observation {
        handle: None,
        labels: BTreeMap::new(),
        state: ThingState::Absent,
    }
}

/// A time of the engine's; its zero ("0001-01-01T00:00:00Z") is none.
pub(crate) fn time(text: Option<&String>) -> Option<Timestamp> {
    text?.parse::<Timestamp>().ok().filter(|time| time.as_millis() > 0)
}

/// A time as the engine takes it in its queries.
pub(crate) fn seconds(time: Timestamp) -> String {
    let millis = time.as_millis();
    format!("{}.{:03}000000", millis.div_euclid(1000), millis.rem_euclid(1000))
}

/// Whether its main process has ever been set going.
pub(crate) fn has_run(state: &ContainerState) -> bool {
    time(state.started_at.as_ref()).is_some()
}

/// Whether the engine has tried to start it and refused.
pub(crate) fn was_refused(state: &ContainerState) -> bool {
    // What passes is tried again, and has refused nothing.
    let refused = |error: &str| !error.is_empty() && !crate::lifecycle::is_passing(error);
    !has_run(state) && state.error.as_deref().is_some_and(refused)
}

/// Whether some process of it may be left.
pub(crate) fn runs(state: &ContainerState) -> bool {
    let status = matches!(
        state.status,
        Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING | Status::STOPPING)
    );
    status || state.running == Some(true)
}

fn state(state: &ContainerState) -> ThingState {
    let started_at = time(state.started_at.as_ref());
    match started_at {
        Some(started_at) if runs(state) => ThingState::Running { started_at },
        // Between the process's start and the engine's note of it, nothing is known yet.
        None if !was_refused(state) => ThingState::Prepared,
        _ => ThingState::Ended(ending(state)),
    }
}

fn ending(state: &ContainerState) -> Ending {
    let code = state.exit_code.unwrap_or_default();
    let words = state.error.clone().filter(|error| !error.is_empty());
    let started_at = time(state.started_at.as_ref());
    let end = if started_at.is_none() {
        End::NeverRan(NeverRan::StartRefused)
    } else {
        end(code, state.oom_killed == Some(true))
    };
    let message = words.or_else(|| match end {
        End::OutOfMemory(_) => {
            Some("a process of the container was killed for running over its memory limit".to_owned())
        }
        _ => None,
    });
    Ending {
        end,
        started_at,
        finished_at: time(state.finished_at.as_ref()),
        detail: Some(match end {
            End::OutOfMemory(_) => format!("OOMKilled, exit code {code}"),
            _ => format!("exit code {code}"),
        }),
        message,
    }
}

/// The engine calls a container out of memory when any of its processes was: one that returned 0 did well all the same.
fn end(code: i64, out_of_memory: bool) -> End {
    let code32 = i32::try_from(code).unwrap_or(i32::MAX);
    if out_of_memory && code != 0 {
        End::OutOfMemory(Some(code32))
    } else if (SIGNAL_BASE + 1..=SIGNAL_BASE + LAST_SIGNAL).contains(&code) {
        End::Signalled(code32 - 128)
    } else {
        End::Exited(code32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_memory_is_told_apart_from_a_plain_kill() {
        assert_eq!(end(137, true), End::OutOfMemory(Some(137)));
        assert_eq!(end(137, false), End::Signalled(9));
        assert_eq!(end(0, true), End::Exited(0));
        assert_eq!(end(143, false), End::Signalled(15));
        assert_eq!(end(128, false), End::Exited(128));
        assert_eq!(end(255, false), End::Exited(255));
    }

    #[test]
    fn the_engines_zero_is_no_time() {
        assert_eq!(time(Some(&"0001-01-01T00:00:00Z".to_owned())), None);
        assert!(time(Some(&"2026-11-22T23:57:49.230741661Z".to_owned())).is_some());
    }
}

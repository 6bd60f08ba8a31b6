//! An end by SIGKILL that the engine does not explain: perhaps out of memory, and the person who reads it should know.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use bollard::models::ContainerInspectResponse;
use robata_core::{
    definition::Memory,
    executor::{Observation, ThingState},
    finish::End,
};

const SIGKILL: i32 = 9;
/// So many stops are remembered.
const STOPS: usize = 4096;

/// Containers that this process was told to stop: their end by SIGKILL needs no explanation.
#[derive(Debug, Default)]
pub(crate) struct Stops(Mutex<VecDeque<String>>);

impl Stops {
    pub(crate) fn remember(&self, id: &str) {
        let mut stops = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !stops.iter().any(|stop| stop == id) {
            stops.push_back(id.to_owned());
        }
        if stops.len() > STOPS {
            stops.pop_front();
        }
    }

    fn has(&self, id: &str) -> bool {
        let stops = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stops.iter().any(|stop| stop == id)
    }

    /// Says of an end by SIGKILL what it may have been. The report of an end for want of memory is lost at times, where it
    /// comes before the shim watches, or when the cgroup goes at the same moment (<https://github.com/containerd/containerd/issues/8180>,
    /// <https://github.com/containerd/containerd/issues/8893>); the reason stays what the engine says.
    pub(crate) fn explain(&self, found: &ContainerInspectResponse, observation: &mut Observation) {
        let limit = found.host_config.as_ref().and_then(|config| config.memory);
        let (Some(limit), Some(id)) = (limit.filter(|&limit| limit > 0), &found.id) else {
            return;
        };
        if let ThingState::Ended(ending) = &mut observation.state
            && ending.end == End::Signalled(SIGKILL)
            && ending.message.is_none()
            && !self.has(id)
        {
            let limit = Memory {
                bytes: limit.unsigned_abs(),
            };
            ending.message = Some(format!(
                "killed by SIGKILL, and the engine does not say why: it may have run out of memory (limit {limit}); some \
                 engines lose that report at times"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerState, ContainerStateStatusEnum as Status, HostConfig};

    use super::*;
    use crate::state;

    fn message(stops: &Stops, code: i64, memory: Option<i64>, out_of_memory: bool) -> Option<String> {
        let found = ContainerInspectResponse {
            id: Some("x".to_owned()),
            host_config: Some(HostConfig {
                memory,
                ..HostConfig::default()
            }),
            state: Some(ContainerState {
                status: Some(Status::EXITED),
                started_at: Some("2026-11-22T23:57:49.2Z".to_owned()),
                finished_at: Some("2026-11-22T23:57:50.2Z".to_owned()),
                exit_code: Some(code),
                oom_killed: Some(out_of_memory),
                ..ContainerState::default()
            }),
            ..ContainerInspectResponse::default()
        };
        let mut observation = state::observation(&found);
        let end = |observation: &Observation| match &observation.state {
            ThingState::Ended(ending) => ending.end,
            other => panic!("{other:?}"),
        };
        let before = end(&observation);
        stops.explain(&found, &mut observation);
        assert_eq!(end(&observation), before, "the reason stays as it is");
        match observation.state {
            ThingState::Ended(ending) => ending.message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_kill_that_nobody_asked_for_may_have_been_for_want_of_memory() {
        let stops = Stops::default();
        let said = message(&stops, 137, Some(32 << 20), false).unwrap();
        assert!(said.contains("SIGKILL") && said.contains("limit 32Mi"), "{said}");
        assert_eq!(message(&stops, 137, None, false), None);
        assert_eq!(message(&stops, 137, Some(0), false), None);
        assert_eq!(message(&stops, 143, Some(32 << 20), false), None);
        assert!(!message(&stops, 137, Some(32 << 20), true).unwrap().contains("may have"));
        stops.remember("x");
        assert_eq!(message(&stops, 137, Some(32 << 20), false), None);
    }
}

//! The table of moves itself, event by event.

mod events;

use events::{attempt_events, job_events};
use robata_core::{
    AttemptState, IncarnationId, JobState,
    attempt::may_write,
    state::{AttemptEvent, JobEvent},
};

#[test]
fn only_the_holder_writes_and_only_with_its_own_epoch() {
    let (us, other) = (IncarnationId::new(), IncarnationId::new());
    assert!(may_write((us, 2), (us, 2)));
    for writer in [(us, 1), (us, 3), (other, 2)] {
        assert!(!may_write((us, 2), writer), "{writer:?}");
    }
}

#[test]
fn an_ended_job_is_left_by_nothing_but_a_retry_by_hand_of_a_failed_one() {
    for state in JobState::ALL.iter().copied().filter(|state| state.is_ended()) {
        for event in job_events() {
            let by_hand = state == JobState::Failed && event == JobEvent::RetriedByHand;
            let expected = by_hand.then_some(JobState::Queued);
            assert_eq!(state.after(event), expected, "{state} on {event:?}");
        }
    }
}

#[test]
fn an_ended_attempt_is_left_by_nothing_and_a_live_one_ends_only_in_an_end() {
    for state in AttemptState::ALL {
        for event in attempt_events() {
            let next = state.after(event);
            if !state.is_live() {
                assert_eq!(next, None, "{state} on {event:?}");
            }
            if let AttemptEvent::Ended(end) = event {
                assert!(
                    next.is_none_or(|next| next == end && !next.is_live()),
                    "{state} on {event:?}"
                );
            }
        }
    }
}

#[test]
fn every_state_can_be_reached_and_every_live_one_can_be_left() {
    for state in JobState::ALL
        .iter()
        .filter(|state| !matches!(state, JobState::Scheduled | JobState::Queued))
    {
        let reached = JobState::ALL
            .iter()
            .any(|from| job_events().any(|event| from.after(event) == Some(*state)));
        assert!(reached, "nothing leads to {state}");
    }
    for state in JobState::ALL.iter().filter(|state| !state.is_ended()) {
        assert!(
            job_events().any(|event| state.after(event).is_some()),
            "nothing leads out of {state}"
        );
    }
    for state in AttemptState::ALL
        .iter()
        .filter(|state| **state != AttemptState::Starting)
    {
        let reached = AttemptState::ALL
            .iter()
            .any(|from| attempt_events().any(|event| from.after(event) == Some(*state)));
        assert!(reached, "nothing leads to {state}");
    }
}

//! Every event of the table of moves.

use robata_core::{
    AttemptState,
    state::{AfterAttempt, AttemptEvent, JobEvent},
};

pub(crate) fn job_events() -> impl Iterator<Item = JobEvent> {
    use AfterAttempt as After;
    let after = [
        After::Succeed,
        After::Fail,
        After::Cancel,
        After::RetryLater,
        After::RetryNow,
    ];
    let others = [
        JobEvent::Due,
        JobEvent::Claimed,
        JobEvent::CancelledWaiting,
        JobEvent::Unrunnable,
        JobEvent::RetriedByHand,
    ];
    others.into_iter().chain(after.map(JobEvent::AttemptEnded))
}

pub(crate) fn attempt_events() -> impl Iterator<Item = AttemptEvent> {
    let ends = AttemptState::ALL.iter().copied().map(AttemptEvent::Ended);
    [AttemptEvent::Started, AttemptEvent::StopDecided]
        .into_iter()
        .chain(ends)
}

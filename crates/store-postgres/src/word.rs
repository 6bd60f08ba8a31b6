//! States as the numbers that rows keep. Fixed here, apart from the order of the enums, because rows outlive releases.

use std::str::FromStr;

use robata_core::{AttemptState, JobState, attempt::LogState, finish::StopCause};

use crate::error::{Fault, Result};

pub(crate) const SCHEDULED: i16 = 0;
pub(crate) const QUEUED: i16 = 1;
pub(crate) const RUNNING: i16 = 2;
pub(crate) const SUCCEEDED: i16 = 3;
pub(crate) const FAILED: i16 = 4;
pub(crate) const CANCELLED: i16 = 5;
/// Every job state.
pub(crate) const ALL: [i16; 6] = [SCHEDULED, QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED];

/// The number of a job's state.
pub(crate) fn job_state(state: JobState) -> i16 {
    match state {
        JobState::Scheduled => SCHEDULED,
        JobState::Queued => QUEUED,
        JobState::Running => RUNNING,
        JobState::Succeeded => SUCCEEDED,
        JobState::Failed => FAILED,
        JobState::Cancelled => CANCELLED,
        other => unreachable!("no number for the job state {other}"),
    }
}

/// The job's state of this number.
pub(crate) fn read_job_state(number: i16) -> Result<JobState> {
    JobState::ALL
        .iter()
        .copied()
        .find(|state| job_state(*state) == number)
        .ok_or_else(|| Fault::BadRow(format!("job state {number}")))
}

/// The number of an attempt's state; live ones are below 3.
pub(crate) fn attempt_state(state: AttemptState) -> i16 {
    match state {
        AttemptState::Starting => 0,
        AttemptState::Running => 1,
        AttemptState::Stopping => 2,
        AttemptState::Succeeded => 3,
        AttemptState::Failed => 4,
        AttemptState::TimedOut => 5,
        AttemptState::Cancelled => 6,
        AttemptState::Lost => 7,
        AttemptState::Error => 8,
        other => unreachable!("no number for the attempt state {other}"),
    }
}

/// The attempt's state of this number.
pub(crate) fn read_attempt_state(number: i16) -> Result<AttemptState> {
    AttemptState::ALL
        .iter()
        .copied()
        .find(|state| attempt_state(*state) == number)
        .ok_or_else(|| Fault::BadRow(format!("attempt state {number}")))
}

/// The number of a log's state.
pub(crate) fn log_state(state: LogState) -> i16 {
    match state {
        LogState::Open => 0,
        LogState::Complete => 1,
        LogState::Incomplete => 2,
    }
}

/// The log's state of this number.
pub(crate) fn read_log_state(number: i16) -> LogState {
    match number {
        0 => LogState::Open,
        1 => LogState::Complete,
        _ => LogState::Incomplete,
    }
}

/// The cause of this word.
pub(crate) fn read_stop_cause(word: &str) -> Result<StopCause> {
    [StopCause::Cancel, StopCause::Timeout]
        .into_iter()
        .find(|cause| cause.as_str() == word)
        .ok_or_else(|| Fault::BadRow(format!("stop cause {word:?}")))
}

/// A stored word or name.
pub(crate) fn parse<T: FromStr<Err = robata_core::Error>>(text: &str) -> Result<T> {
    text.parse()
        .map_err(|error: robata_core::Error| Fault::BadRow(error.full()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_number_of_its_own() {
        for state in JobState::ALL {
            assert_eq!(read_job_state(job_state(*state)).unwrap(), *state);
        }
        for state in AttemptState::ALL {
            assert_eq!(read_attempt_state(attempt_state(*state)).unwrap(), *state);
            assert_eq!(state.is_live(), attempt_state(*state) < 3);
        }
    }
}

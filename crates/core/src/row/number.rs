//! States as the numbers that rows keep. Fixed here, apart from the order of the enums, because rows outlive releases.

use crate::{
    AttemptState, JobState,
    attempt::LogState,
    error::{Error, ErrorKind, Result},
};

/// [`JobState::Scheduled`].
pub const SCHEDULED: i16 = 0;
/// [`JobState::Queued`].
pub const QUEUED: i16 = 1;
/// [`JobState::Running`].
pub const RUNNING: i16 = 2;
/// [`JobState::Succeeded`].
pub const SUCCEEDED: i16 = 3;
/// [`JobState::Failed`].
pub const FAILED: i16 = 4;
/// [`JobState::Cancelled`].
pub const CANCELLED: i16 = 5;
/// Every job state.
pub const ALL: [i16; 6] = [SCHEDULED, QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED];

fn unknown(what: &str, number: i16) -> Error {
    Error::new(ErrorKind::Internal, "row.read", format!("there is no {what} {number}"))
}

/// The number of a job's state.
#[must_use]
pub const fn of_job(state: JobState) -> i16 {
    match state {
        JobState::Scheduled => SCHEDULED,
        JobState::Queued => QUEUED,
        JobState::Running => RUNNING,
        JobState::Succeeded => SUCCEEDED,
        JobState::Failed => FAILED,
        JobState::Cancelled => CANCELLED,
    }
}

/// The job's state of this number.
///
/// # Errors
/// `Internal` where there is none.
pub fn job(number: i16) -> Result<JobState> {
    let mut states = JobState::ALL.iter().copied();
    states
        .find(|state| of_job(*state) == number)
        .ok_or_else(|| unknown("job state", number))
}

/// The number of an attempt's state; live ones are below 3.
#[must_use]
pub const fn of_attempt(state: AttemptState) -> i16 {
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
    }
}

/// The attempt's state of this number.
///
/// # Errors
/// `Internal` where there is none.
pub fn attempt(number: i16) -> Result<AttemptState> {
    let mut states = AttemptState::ALL.iter().copied();
    states
        .find(|state| of_attempt(*state) == number)
        .ok_or_else(|| unknown("attempt state", number))
}

/// The number of a log's state.
#[must_use]
pub const fn of_log(state: LogState) -> i16 {
    match state {
        LogState::Open => 0,
        LogState::Complete => 1,
        LogState::Incomplete => 2,
    }
}

/// The log's state of this number; what is unknown is not called whole.
#[must_use]
pub const fn log(number: i16) -> LogState {
    match number {
        0 => LogState::Open,
        1 => LogState::Complete,
        _ => LogState::Incomplete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_number_of_its_own() {
        for state in JobState::ALL {
            assert_eq!(job(of_job(*state)).unwrap(), *state);
        }
        for state in AttemptState::ALL {
            assert_eq!(attempt(of_attempt(*state)).unwrap(), *state);
            assert_eq!(state.is_live(), of_attempt(*state) < 3);
        }
        assert!(job(6).is_err() && attempt(9).is_err());
    }
}

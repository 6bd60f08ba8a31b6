//! Exit codes (DESIGN.md §6): a command that waits exits with the job's own code.

use std::process::ExitCode;

use robata_client::{Attempt, Job};
use robata_core::{AttemptState, JobState, Reason};

/// Any error that has no code of its own.
pub(crate) const ERROR: u8 = 1;
/// The job ran into its time limit.
pub(crate) const TIMED_OUT: u8 = 124;
/// There is no code, or the fault is the platform's.
pub(crate) const NO_CODE: u8 = 125;
/// The job was cancelled.
pub(crate) const CANCELLED: u8 = 130;
/// Added to the number of the signal that ended a job.
const SIGNALLED: i32 = 128;

/// The exit code of a command that waited for this job.
pub(crate) fn of(job: &Job) -> ExitCode {
    ExitCode::from(code(job))
}

/// The same as a number.
pub(crate) fn code(job: &Job) -> u8 {
    match job.state.known() {
        Some(JobState::Succeeded) => 0,
        Some(JobState::Cancelled) => CANCELLED,
        Some(JobState::Failed) => job
            .attempts
            .as_deref()
            .and_then(<[Attempt]>::last)
            .map_or(NO_CODE, |attempt| failed(job, attempt)),
        _ => NO_CODE,
    }
}

fn failed(job: &Job, attempt: &Attempt) -> u8 {
    let reason = job.reason.as_ref().or(attempt.reason.as_ref());
    match reason.and_then(robata_client::Word::known) {
        Some(Reason::TimedOut) => TIMED_OUT,
        _ if attempt.state.known() == Some(AttemptState::TimedOut) => TIMED_OUT,
        Some(Reason::ExitCode | Reason::Signal | Reason::OutOfMemory) => own(attempt),
        _ => NO_CODE,
    }
}

/// The process's own code; 0 would say that all is well, which it is not.
fn own(attempt: &Attempt) -> u8 {
    let code = match (attempt.exit_code, attempt.signal) {
        (Some(code), _) => code,
        (None, Some(signal)) => SIGNALLED + signal,
        (None, None) => return NO_CODE,
    };
    u8::try_from(code).ok().filter(|&code| code != 0).unwrap_or(NO_CODE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(state: &str, reason: Option<&str>, attempt: serde_json::Value) -> Job {
        let time = "2026-11-20T09:30:00.000Z";
        let mut whole = json!({
            "number": 1, "counted": true, "state": "failed", "reason": reason, "executor": "process",
            "created_at": time, "log": {"state": "complete", "reason": null, "bytes": 0},
        });
        for (key, value) in attempt.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(json!({
            "id": "01930000-0000-7000-8000-000000000000", "app": "a", "job": "b", "queue": "a", "executor": "process",
            "state": state, "reason": reason, "labels": {}, "priority": 0, "attempt": 1, "max_attempts": 1,
            "created_at": time, "run_at": time, "attempts": [whole],
        }))
        .unwrap()
    }

    #[test]
    fn each_end_has_the_code_that_the_design_says() {
        for (state, reason, attempt, expected) in [
            ("succeeded", None, json!({"exit_code": 0}), 0),
            ("failed", Some("exit_code"), json!({"exit_code": 3}), 3),
            ("failed", Some("signal"), json!({"signal": 15}), 143),
            ("failed", Some("out_of_memory"), json!({"exit_code": 137}), 137),
            ("failed", Some("out_of_memory"), json!({"signal": 9}), 137),
            ("failed", Some("out_of_memory"), json!({"exit_code": 0}), 125),
            (
                "failed",
                Some("timed_out"),
                json!({"state": "timed_out", "signal": 15}),
                124,
            ),
            ("failed", Some("image_pull"), json!({"state": "error"}), 125),
            ("failed", Some("lost"), json!({"state": "lost"}), 125),
            (
                "cancelled",
                Some("cancelled"),
                json!({"state": "cancelled", "signal": 15}),
                130,
            ),
            ("failed", Some("a_new_word"), json!({"exit_code": 3}), 125),
        ] {
            assert_eq!(
                code(&job(state, reason, attempt.clone())),
                expected,
                "{state} {reason:?} {attempt}"
            );
        }
    }

    #[test]
    fn a_job_without_an_attempt_has_no_code() {
        let mut job = job("failed", Some("expired"), json!({}));
        job.attempts = Some(Vec::new());
        assert_eq!(code(&job), NO_CODE);
    }
}

//! What follows from an attempt's end: one pure decision (PROTOCOL X4 to X6), used by every store inside its transaction.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    error::{Error, ErrorKind},
    retry::RetryPolicy,
    state::{AfterAttempt, AttemptState, Reason},
};

/// Attempts of a job that may end before they were set going, which use up neither budget.
pub const MAX_NEVER_SET_GOING: u32 = 20;

/// Why a stop was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// Somebody cancelled the job.
    Cancel,
    /// The time limit.
    Timeout,
}

impl StopCause {
    /// The word kept in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Timeout => "timeout",
        }
    }
}

impl std::str::FromStr for StopCause {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self, Error> {
        let mut causes = [Self::Cancel, Self::Timeout].into_iter();
        causes.find(|cause| cause.as_str() == word).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                "word.parse",
                format!("{word:?} is no cause of a stop"),
            )
        })
    }
}

/// How an attempt ended, as its executor and worker saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How.
    pub end: End,
    /// Whether a stop had been sent when the end was seen.
    pub stop_sent: bool,
    /// The engine's own start time.
    pub started_at: Option<Timestamp>,
    /// The engine's own end time.
    pub finished_at: Option<Timestamp>,
    /// The engine's own code.
    pub detail: Option<String>,
    /// The engine's own words.
    pub message: Option<String>,
}

impl Outcome {
    /// An end of this kind with nothing else known.
    #[must_use]
    pub fn new(end: End) -> Self {
        Self {
            end,
            stop_sent: false,
            started_at: None,
            finished_at: None,
            detail: None,
            message: None,
        }
    }

    /// The same with words for a person.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum End {
    /// Its main process returned this code.
    Exited(i32),
    /// A signal ended its main process.
    Signalled(i32),
    /// It ran over its memory limit; with the exit code, if there was one.
    OutOfMemory(Option<i32>),
    /// It never ran, for this reason.
    NeverRan(NeverRan),
    /// Its realm says that it is gone, or nobody came for it.
    Lost,
    /// It ran, and its engine ended it (restart, host gone).
    EngineFault,
}

/// Why an attempt never ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NeverRan {
    /// The registry says that the image is missing or forbidden.
    ImagePull,
    /// The engine refuses it as it is described.
    StartRefused,
    /// `start_within` passed while the engine had no room.
    NoCapacity,
    /// `start_within` passed while the engine could not be reached, or the image could not be had.
    EngineUnreachable,
    /// The job's `expires_in` passed.
    Expired,
    /// It was taken over, or given up, before it was set going: uses up neither budget.
    NotSetGoing,
    /// The job was cancelled before it was set going.
    Cancelled,
}

/// What a store knows when an attempt ends.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The cause of a stop that was committed.
    pub stop_cause: Option<StopCause>,
    /// Whether somebody asked to cancel, read under the job's lock.
    pub cancel_requested: bool,
    /// The policy frozen in the attempt's request.
    pub policy: &'a RetryPolicy,
    /// The job's own attempts: the policy's, or what a retry by hand allows.
    pub max_attempts: u32,
    /// The time limit frozen in the attempt's request.
    pub timeout: Option<Duration>,
    /// Attempts that counted, before this one.
    pub counted: u32,
    /// Attempts that the platform paid for, before this one.
    pub platform: u32,
    /// Attempts that were never set going, before this one.
    pub never_set_going: u32,
    /// A uniform number in 0..1 for the back-off's jitter.
    pub chance: f64,
}

/// Which budget an attempt used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// The job's own: it counted.
    Own,
    /// The platform's.
    Platform,
    /// Neither: it was never set going.
    Neither,
}

/// What follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The attempt's end state.
    pub attempt: AttemptState,
    /// The attempt's reason; `None` for success.
    pub reason: Option<Reason>,
    /// Who pays.
    pub budget: Budget,
    /// What follows for the job.
    pub job: AfterAttempt,
    /// Before the next attempt, where there is one.
    pub delay: Duration,
}

/// Decides.
#[must_use]
pub fn decide(outcome: &Outcome, facts: &Facts<'_>) -> Verdict {
    let (attempt, reason) = attempt_end(outcome, facts);
    let budget = match (outcome.end, reason) {
        (End::NeverRan(NeverRan::NotSetGoing), _) if attempt == AttemptState::Error => Budget::Neither,
        (_, Some(reason)) if reason.platform_pays() => Budget::Platform,
        _ => Budget::Own,
    };
    let counted = facts.counted + u32::from(budget == Budget::Own);
    let platform = facts.platform + u32::from(budget == Budget::Platform);
    let never_set_going = facts.never_set_going + u32::from(budget == Budget::Neither);
    let refused_code = matches!(outcome.end, End::Exited(code) if facts.policy.not_on_exit_codes.contains(&code));
    let again = match budget {
        Budget::Own => counted < facts.max_attempts && !refused_code && reason != Some(Reason::Expired),
        // What waited for capacity until `start_within` passed has had its time: the job fails.
        Budget::Platform => platform <= facts.policy.platform && !matches!(outcome.end, End::NeverRan(_)),
        Budget::Neither => never_set_going < MAX_NEVER_SET_GOING,
    };
    let delay = match budget {
        Budget::Own => facts.policy.delay(counted, facts.chance),
        // Back-off counts only attempts that counted; what never ran goes again at once.
        Budget::Platform => facts.policy.delay(counted, facts.chance),
        Budget::Neither => Duration::ZERO,
    };
    let job = if attempt == AttemptState::Succeeded {
        AfterAttempt::Succeed
    } else if facts.cancel_requested {
        // A cancelled job never runs again; where we could not know its end, it must not be called cancelled.
        if attempt == AttemptState::Lost {
            AfterAttempt::Fail
        } else {
            AfterAttempt::Cancel
        }
    } else if !again {
        AfterAttempt::Fail
    } else if delay.is_zero() {
        AfterAttempt::RetryNow
    } else {
        AfterAttempt::RetryLater
    };
    Verdict {
        attempt,
        reason,
        budget,
        job,
        delay,
    }
}

fn attempt_end(outcome: &Outcome, facts: &Facts<'_>) -> (AttemptState, Option<Reason>) {
    use AttemptState as State;
    match outcome.end {
        End::Lost => return (State::Lost, Some(Reason::Lost)),
        End::Exited(0) if !outcome.stop_sent => return (State::Succeeded, None),
        End::NeverRan(_) if facts.cancel_requested => {
            return (State::Cancelled, Some(Reason::Cancelled));
        }
        End::NeverRan(why) => {
            let reason = match why {
                NeverRan::ImagePull => Reason::ImagePull,
                NeverRan::StartRefused => Reason::StartError,
                NeverRan::NoCapacity => Reason::NoCapacity,
                NeverRan::EngineUnreachable | NeverRan::NotSetGoing => Reason::Platform,
                NeverRan::Expired => Reason::Expired,
                NeverRan::Cancelled => return (State::Cancelled, Some(Reason::Cancelled)),
            };
            return (State::Error, Some(reason));
        }
        _ => {}
    }
    // The stop for time was decided first: the attempt is timed out, whatever else came since (the job may be cancelled).
    if facts.stop_cause == Some(StopCause::Timeout) && outcome.stop_sent {
        return (State::TimedOut, Some(Reason::TimedOut));
    }
    if facts.cancel_requested {
        return (State::Cancelled, Some(Reason::Cancelled));
    }
    match outcome.end {
        // A worker without a lease stops what is past its limit without having recorded it (PROTOCOL H2, X5).
        End::Signalled(_) if past_timeout(outcome, facts) => (State::TimedOut, Some(Reason::TimedOut)),
        End::Signalled(_) => (State::Failed, Some(Reason::Signal)),
        End::OutOfMemory(_) => (State::Failed, Some(Reason::OutOfMemory)),
        End::EngineFault => (State::Failed, Some(Reason::Platform)),
        // Exit 0 after a stop that nobody remembers asking for: it ended well.
        End::Exited(0) => (State::Succeeded, None),
        _ => (State::Failed, Some(Reason::ExitCode)),
    }
}

fn past_timeout(outcome: &Outcome, facts: &Facts<'_>) -> bool {
    match (outcome.started_at, outcome.finished_at, facts.timeout) {
        (Some(started), Some(finished), Some(timeout)) => finished >= started.plus(timeout),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(policy: &RetryPolicy) -> Facts<'_> {
        Facts {
            stop_cause: None,
            cancel_requested: false,
            policy,
            max_attempts: policy.max_attempts,
            timeout: Some(Duration::from_secs(10)),
            counted: 0,
            platform: 0,
            never_set_going: 0,
            chance: 0.5,
        }
    }

    fn twice() -> RetryPolicy {
        RetryPolicy {
            max_attempts: 2,
            not_on_exit_codes: vec![2],
            ..RetryPolicy::default()
        }
    }

    #[test]
    fn exit_zero_seen_before_the_stop_was_sent_is_succeeded() {
        let policy = twice();
        let facts = Facts {
            cancel_requested: true,
            stop_cause: Some(StopCause::Cancel),
            ..facts(&policy)
        };
        assert_eq!(decide(&Outcome::new(End::Exited(0)), &facts).job, AfterAttempt::Succeed);
        let stopped = Outcome {
            stop_sent: true,
            ..Outcome::new(End::Exited(0))
        };
        assert_eq!(decide(&stopped, &facts).job, AfterAttempt::Cancel);
    }

    #[test]
    fn a_cancelled_job_is_never_retried() {
        let policy = twice();
        let facts = Facts {
            cancel_requested: true,
            ..facts(&policy)
        };
        for end in [
            End::Exited(1),
            End::Signalled(15),
            End::EngineFault,
            End::NeverRan(NeverRan::ImagePull),
            End::NeverRan(NeverRan::NotSetGoing),
        ] {
            assert_eq!(decide(&Outcome::new(end), &facts).job, AfterAttempt::Cancel, "{end:?}");
        }
        let lost = decide(&Outcome::new(End::Lost), &facts);
        assert_eq!(
            (lost.attempt, lost.job, lost.reason),
            (AttemptState::Lost, AfterAttempt::Fail, Some(Reason::Lost))
        );
    }

    #[test]
    fn cancel_while_stopping_for_time_makes_the_job_cancelled() {
        let policy = twice();
        let facts = Facts {
            cancel_requested: true,
            stop_cause: Some(StopCause::Timeout),
            ..facts(&policy)
        };
        let verdict = decide(
            &Outcome {
                stop_sent: true,
                ..Outcome::new(End::Signalled(9))
            },
            &facts,
        );
        assert_eq!(
            (verdict.attempt, verdict.job),
            (AttemptState::TimedOut, AfterAttempt::Cancel)
        );
    }

    #[test]
    fn an_end_by_signal_past_the_limit_is_timed_out_though_no_stop_was_recorded() {
        let policy = twice();
        let outcome = Outcome {
            started_at: Some(Timestamp::from_millis(0)),
            finished_at: Some(Timestamp::from_millis(10_000)),
            ..Outcome::new(End::Signalled(9))
        };
        assert_eq!(decide(&outcome, &facts(&policy)).reason, Some(Reason::TimedOut));
    }

    #[test]
    fn the_platform_pays_up_to_its_budget() {
        let policy = RetryPolicy::default();
        for platform in 0..5 {
            let verdict = decide(
                &Outcome::new(End::Lost),
                &Facts {
                    platform,
                    ..facts(&policy)
                },
            );
            assert_eq!(
                (verdict.budget, verdict.job),
                (Budget::Platform, AfterAttempt::RetryNow)
            );
        }
        let verdict = decide(
            &Outcome::new(End::Lost),
            &Facts {
                platform: 5,
                ..facts(&policy)
            },
        );
        assert_eq!((verdict.job, verdict.reason), (AfterAttempt::Fail, Some(Reason::Lost)));
        let never = RetryPolicy {
            platform: 0,
            ..RetryPolicy::default()
        };
        assert_eq!(
            decide(&Outcome::new(End::EngineFault), &facts(&never)).job,
            AfterAttempt::Fail
        );
    }

    #[test]
    fn what_was_never_set_going_uses_up_neither_budget() {
        let policy = RetryPolicy {
            platform: 0,
            ..RetryPolicy::default()
        };
        let verdict = decide(&Outcome::new(End::NeverRan(NeverRan::NotSetGoing)), &facts(&policy));
        assert_eq!(
            (verdict.budget, verdict.job, verdict.attempt),
            (Budget::Neither, AfterAttempt::RetryNow, AttemptState::Error)
        );
        let last = decide(
            &Outcome::new(End::NeverRan(NeverRan::NotSetGoing)),
            &Facts {
                never_set_going: 19,
                ..facts(&policy)
            },
        );
        assert_eq!(last.job, AfterAttempt::Fail);
    }

    #[test]
    fn a_refused_exit_code_is_not_retried() {
        let policy = twice();
        assert_eq!(
            decide(&Outcome::new(End::Exited(2)), &facts(&policy)).job,
            AfterAttempt::Fail
        );
        assert_eq!(
            decide(&Outcome::new(End::Exited(1)), &facts(&policy)).job,
            AfterAttempt::RetryLater
        );
        assert_eq!(
            decide(
                &Outcome::new(End::Exited(1)),
                &Facts {
                    counted: 1,
                    ..facts(&policy)
                }
            )
            .job,
            AfterAttempt::Fail
        );
    }
}

//! The states of jobs and attempts, and the one table of allowed moves.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// All values, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word used in the API, the store and the command line.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text).ok_or_else(|| {
                    let words: Vec<_> = Self::ALL.iter().map(|value| value.as_str()).collect();
                    Error::new(ErrorKind::Invalid, "word.parse", format!("{text:?} is none of {}", words.join(", ")))
                })
            }
        }
    };
}

words!(
    /// Where a job stands.
    JobState {
        /// Not due: delayed, or backing off before a retry.
        Scheduled = "scheduled",
        /// Due, waiting for a worker.
        Queued = "queued",
        /// Has a live attempt.
        Running = "running",
        /// Ended well.
        Succeeded = "succeeded",
        /// Ended badly; may be retried by hand.
        Failed = "failed",
        /// Ended on somebody's request.
        Cancelled = "cancelled",
    }
);

words!(
    /// Where an attempt stands.
    AttemptState {
        /// Claimed; not running yet.
        Starting = "starting",
        /// The engine runs it.
        Running = "running",
        /// A stop was decided and is not confirmed yet.
        Stopping = "stopping",
        /// Exit code 0.
        Succeeded = "succeeded",
        /// Ended by itself, not well.
        Failed = "failed",
        /// Ended by its time limit.
        TimedOut = "timed_out",
        /// Ended on request.
        Cancelled = "cancelled",
        /// We could not know how it ended.
        Lost = "lost",
        /// Never ran.
        Error = "error",
    }
);

words!(
    /// Why a job or an attempt ended as it did.
    Reason {
        /// The process ended with a code other than 0.
        ExitCode = "exit_code",
        /// The process was ended by a signal that we did not send.
        Signal = "signal",
        /// It used more memory than its limit.
        OutOfMemory = "out_of_memory",
        /// It ran into its time limit.
        TimedOut = "timed_out",
        /// The registry says that the image is missing or forbidden.
        ImagePull = "image_pull",
        /// The engine refused to start it as described.
        StartError = "start_error",
        /// The app has no such job definition (any more).
        NoDefinition = "no_definition",
        /// Its `expires_in` passed before it started.
        Expired = "expired",
        /// Somebody cancelled it.
        Cancelled = "cancelled",
        /// The engine had no room for it within `start_within`.
        NoCapacity = "no_capacity",
        /// We could not know what became of it.
        Lost = "lost",
        /// The platform or the engine ended it.
        Platform = "platform",
    }
);

words!(
    /// Why a job waits.
    WaitingReason {
        /// Its `run_at` is not reached.
        Delayed = "delayed",
        /// Waits before a retry.
        Backoff = "backoff",
        /// Its queue is paused.
        Paused = "paused",
        /// No live worker takes its line.
        NoWorker = "no_worker",
        /// A `max_running` is reached.
        MaxRunning = "max_running",
        /// Not yet out in its line.
        Unpublished = "unpublished",
        /// Its image is being pulled.
        Pulling = "pulling",
        /// The engine has no room now.
        NoCapacity = "no_capacity",
        /// The engine cannot be reached now.
        EngineUnreachable = "engine_unreachable",
    }
);

impl Reason {
    /// Whether the platform's budget pays for an attempt that ended so, not the job's own.
    #[must_use]
    pub const fn platform_pays(self) -> bool {
        matches!(self, Self::NoCapacity | Self::Lost | Self::Platform)
    }
}

/// What happens to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobEvent {
    /// Its time has come.
    Due,
    /// A worker claimed it.
    Claimed,
    /// Somebody cancelled it while it waited.
    CancelledWaiting,
    /// It cannot run: expired, or without definition.
    Unrunnable,
    /// Its live attempt ended and this follows from it.
    AttemptEnded(AfterAttempt),
    /// Somebody retries it by hand.
    RetriedByHand,
}

/// What follows for the job from an attempt's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AfterAttempt {
    /// The job succeeded.
    Succeed,
    /// The job failed for good.
    Fail,
    /// The job is cancelled.
    Cancel,
    /// Another attempt after a back-off.
    RetryLater,
    /// Another attempt at once.
    RetryNow,
}

/// What happens to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptEvent {
    /// The engine runs it.
    Started,
    /// A stop was decided.
    StopDecided,
    /// It ended so.
    Ended(AttemptState),
}

impl JobState {
    /// Whether nothing but a retry by hand leads out of this state.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The table: where `event` leads from here; `None` where the move is not allowed.
    #[must_use]
    pub const fn after(self, event: JobEvent) -> Option<Self> {
        use AfterAttempt as After;
        use JobEvent as On;
        Some(match (self, event) {
            (Self::Scheduled, On::Due) => Self::Queued,
            (Self::Queued, On::Claimed) => Self::Running,
            (Self::Scheduled | Self::Queued, On::CancelledWaiting) => Self::Cancelled,
            (Self::Scheduled | Self::Queued, On::Unrunnable) => Self::Failed,
            (Self::Running, On::AttemptEnded(After::Succeed)) => Self::Succeeded,
            (Self::Running, On::AttemptEnded(After::Fail)) => Self::Failed,
            (Self::Running, On::AttemptEnded(After::Cancel)) => Self::Cancelled,
            (Self::Running, On::AttemptEnded(After::RetryLater)) => Self::Scheduled,
            (Self::Running, On::AttemptEnded(After::RetryNow)) => Self::Queued,
            (Self::Failed, On::RetriedByHand) => Self::Queued,
            _ => return None,
        })
    }
}

impl AttemptState {
    /// Whether something of the attempt may be alive in the engine.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Stopping)
    }

    /// The table: where `event` leads from here; `None` where the move is not allowed.
    #[must_use]
    pub const fn after(self, event: AttemptEvent) -> Option<Self> {
        use AttemptEvent as On;
        Some(match (self, event) {
            (Self::Starting, On::Started) => Self::Running,
            (Self::Starting | Self::Running, On::StopDecided) => Self::Stopping,
            // What never ran cannot be found to have never run once it was seen running.
            (Self::Running, On::Ended(Self::Error)) => return None,
            // A short attempt may be seen ended before it was seen running.
            (Self::Starting | Self::Running | Self::Stopping, On::Ended(end)) if !end.is_live() => end,
            _ => return None,
        })
    }
}

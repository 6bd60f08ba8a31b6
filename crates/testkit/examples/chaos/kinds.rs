//! The jobs of the run: what they do, how often they come, and what may become of them.

use std::path::Path;

use robata_core::JobState;
use serde_json::json;

use crate::chance::Chance;

/// The lines that every attempt prints; the last one has no newline.
const LINES: usize = 20;
/// The limit of the queue `narrow`.
pub(crate) const NARROW: usize = 3;

/// A kind of job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Ends well at once.
    Short,
    /// Ends well after three seconds.
    Slow,
    /// Ends well after 25 s: longer than a lease.
    Long,
    /// Fails twice, then ends well.
    Retried,
    /// Fails as often as it may.
    Hopeless,
    /// Runs past its time limit.
    Overtime,
    /// Of a queue that runs [`NARROW`] at once.
    Narrow,
    /// Is due later.
    Delayed,
    /// Is cancelled while it waits or runs.
    Cancelled,
    /// In a container: ends well at once.
    Contained,
    /// In a container: ends well after 20 s, longer than a lease.
    ContainedLong,
    /// In a container: fails once, then ends well.
    ContainedRetried,
    /// In a container: runs past its time limit.
    ContainedOvertime,
    /// In a container: is cancelled while it waits or runs.
    ContainedCancelled,
}

/// So many of a hundred jobs run in containers, where there is an engine: it starts some five a second on two cores that do
/// nothing else.
const CONTAINED: usize = 10;
/// Their kinds, as often as they come.
const CONTAINED_MIX: [Kind; 8] = [
    Kind::Contained,
    Kind::Contained,
    Kind::Contained,
    Kind::ContainedLong,
    Kind::ContainedLong,
    Kind::ContainedRetried,
    Kind::ContainedOvertime,
    Kind::ContainedCancelled,
];

/// The other kinds, as often as they come.
const MIX: [Kind; 16] = [
    Kind::Short,
    Kind::Short,
    Kind::Short,
    Kind::Short,
    Kind::Short,
    Kind::Short,
    Kind::Slow,
    Kind::Slow,
    Kind::Long,
    Kind::Retried,
    Kind::Retried,
    Kind::Hopeless,
    Kind::Overtime,
    Kind::Narrow,
    Kind::Delayed,
    Kind::Cancelled,
];

impl Kind {
    /// One of them, as often as they come.
    pub(crate) fn pick(chance: &mut Chance, containers: bool) -> Self {
        if containers && chance.percent(CONTAINED) {
            *chance.pick(&CONTAINED_MIX)
        } else {
            *chance.pick(&MIX)
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Slow => "slow",
            Self::Long => "long",
            Self::Retried => "retried",
            Self::Hopeless => "hopeless",
            Self::Overtime => "overtime",
            Self::Narrow => "narrow",
            Self::Delayed => "delayed",
            Self::Cancelled => "cancelled",
            Self::Contained => "contained",
            Self::ContainedLong => "contained-long",
            Self::ContainedRetried => "contained-retried",
            Self::ContainedOvertime => "contained-overtime",
            Self::ContainedCancelled => "contained-cancelled",
        }
    }

    /// Whether it runs in a container.
    pub(crate) fn is_contained(self) -> bool {
        CONTAINED_MIX.contains(&self)
    }

    /// Whether it is to be cancelled.
    pub(crate) fn is_cancelled(self) -> bool {
        matches!(self, Self::Cancelled | Self::ContainedCancelled)
    }

    /// What may become of it: state and reason.
    pub(crate) fn may_end(self, state: JobState, reason: &str) -> bool {
        match self {
            Self::Hopeless => state == JobState::Failed && reason == "exit_code",
            Self::Overtime | Self::ContainedOvertime => state == JobState::Failed && reason == "timed_out",
            // It may have ended before it was cancelled.
            Self::Cancelled | Self::ContainedCancelled => matches!(state, JobState::Cancelled | JobState::Succeeded),
            _ => state == JobState::Succeeded,
        }
    }
}

/// What every attempt prints that runs to its own end.
pub(crate) fn output() -> String {
    let lines: String = (0..LINES).map(|line| format!("line {line}\n")).collect();
    lines + "the last line"
}

/// The document that defines the jobs; they write their journal to this file.
pub(crate) fn document(journal: &Path, image: Option<&str>) -> String {
    let script = format!(
        r#"note() {{ echo "$1 $ROBATA_JOB_ID $ROBATA_ATTEMPT $(date +%s%3N)" >> "$JOURNAL"; }}
note begin
i=0; while [ $i -lt {LINES} ]; do echo "line $i"; i=$((i+1)); done
sleep "$1"
printf 'the last line'
note end
[ "$ROBATA_ATTEMPT" -gt "$2" ] || exit "$3""#
    );
    let job = |kind: Kind, arguments: [&str; 3], more: &str| {
        let command = json!(["/bin/sh", "-c", script, "job", arguments[0], arguments[1], arguments[2]]);
        format!("[apps.chaos.jobs.{}]\ncommand = {command}\n{more}\n", kind.name())
    };
    let contained = image.map_or_else(String::new, |image| contained(&script, image));
    let well = "retry = { max_attempts = 1, platform = 100 }";
    let again = r#"retry = { max_attempts = 40, base = "1s", backoff = "fixed", platform = 100 }"#;
    [
        format!(
            "[queues.narrow]\nmax_running = {NARROW}\n[apps.chaos]\nexecutor = \"process\"\nenv = {{ JOURNAL = {journal:?} }}\n"
        ),
        job(Kind::Short, ["0.2", "0", "0"], well),
        job(Kind::Slow, ["3", "0", "0"], well),
        job(Kind::Long, ["25", "0", "0"], well),
        job(Kind::Retried, ["0.2", "2", "1"], again),
        job(
            Kind::Hopeless,
            ["0.2", "1000", "7"],
            r#"retry = { max_attempts = 2, base = "1s", platform = 100 }"#,
        ),
        job(
            Kind::Overtime,
            ["600", "0", "0"],
            "retry = { max_attempts = 1, platform = 100 }\ntimeout = \"2s\"\ngrace_period = \"1s\"",
        ),
        job(
            Kind::Narrow,
            ["0.5", "0", "0"],
            "retry = { max_attempts = 1, platform = 100 }\nqueue = \"narrow\"",
        ),
        job(Kind::Delayed, ["0.2", "0", "0"], well),
        job(Kind::Cancelled, ["20", "0", "0"], well),
        contained,
    ]
    .concat()
}

/// Those that run in containers do the same; what a journal would say of them the engine's events tell.
fn contained(script: &str, image: &str) -> String {
    let job = |kind: Kind, arguments: [&str; 3], more: &str| {
        let command = json!(["/bin/sh", "-c", script, "job", arguments[0], arguments[1], arguments[2]]);
        let retry = r#"retry = { max_attempts = 40, base = "1s", backoff = "fixed", platform = 100 }"#;
        let retry = if kind == Kind::ContainedRetried {
            retry
        } else {
            "retry = { max_attempts = 1, platform = 100 }"
        };
        format!(
            "[apps.contained.jobs.{}]\ncommand = {command}\n{retry}\n{more}\n",
            kind.name()
        )
    };
    [
        format!(
            "[apps.contained]\nexecutor = \"docker\"\nimage = {image:?}\nenv = {{ JOURNAL = \"/dev/null\" }}\n\
             docker = {{ network = \"none\" }}\n"
        ),
        job(Kind::Contained, ["0.2", "0", "0"], ""),
        job(Kind::ContainedLong, ["20", "0", "0"], ""),
        job(Kind::ContainedRetried, ["0.2", "1", "1"], ""),
        job(
            Kind::ContainedOvertime,
            ["600", "0", "0"],
            "timeout = \"4s\"\ngrace_period = \"1s\"",
        ),
        job(Kind::ContainedCancelled, ["20", "0", "0"], "grace_period = \"1s\""),
    ]
    .concat()
}

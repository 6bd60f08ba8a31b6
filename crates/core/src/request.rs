//! The start request: what an attempt runs, frozen at its claim, so that two tries of one start are the same.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    definition::{Definition, duration},
    format::{Format, Unreadable},
    id::{AttemptId, JobId},
    job::{Line, Mark},
    name::{AppName, ExecutorName, JobName},
    retry::RetryPolicy,
};

/// The payload is in the environment, too, up to this size.
pub const MAX_PAYLOAD_ENV_BYTES: usize = 32 << 10;

/// What a request is made of besides the definition.
#[derive(Clone, Debug)]
pub struct Origin<'a> {
    /// The job.
    pub job: JobId,
    /// The app.
    pub app: &'a AppName,
    /// The job definition's name.
    pub name: &'a JobName,
    /// The line it was claimed from.
    pub line: &'a Line,
    /// The claim's mark.
    pub mark: Mark,
    /// The attempt's number.
    pub number: u32,
    /// The job's own attempts.
    pub max_attempts: u32,
    /// Attempts that counted before this one.
    pub counted: u32,
    /// When the job was stored.
    pub enqueued_at: Timestamp,
    /// When the job expires.
    pub expires_at: Option<Timestamp>,
    /// The enqueuer's environment, within `env_allow` when it came.
    pub env: &'a BTreeMap<String, String>,
    /// `traceparent` of the enqueue.
    pub traceparent: Option<&'a str>,
    /// The definition's version; `None` for a one-off.
    pub definition_version: Option<u32>,
}

/// A start request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    /// The format in use when it was frozen (PROTOCOL V1): everything of its attempt is in this one.
    pub format: Format,
    /// Which attempt.
    pub attempt: AttemptId,
    /// The mark that the engine's thing carries.
    pub mark: Mark,
    /// The app.
    pub app: AppName,
    /// The job definition's name.
    pub job: JobName,
    /// The executor.
    pub executor: ExecutorName,
    /// The definition's version; `None` for a one-off.
    pub definition_version: Option<u32>,
    /// The definition as it stood at the claim.
    pub definition: Definition,
    /// The environment whole, but for what the executor adds (payload file, secrets).
    pub env: BTreeMap<String, String>,
    /// When the job expires.
    pub expires_at: Option<Timestamp>,
    /// From the first claim to the engine's start.
    #[serde(with = "duration")]
    pub start_within: Duration,
    /// What the test's next release adds.
    #[cfg(feature = "next-format")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<bool>,
}

/// What an attempt's end needs of its request.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The policy of retries.
    pub retry: &'a RetryPolicy,
    /// The time limit.
    pub timeout: Option<Duration>,
    /// Whether it has a definition, in whose line it is retried; a one-off has none.
    pub is_defined: bool,
}

/// The terms of a request, read alone: also of one that a later release wrote, whose other fields are passed over, for by
/// these alone nothing is started. Else an attempt that nobody comes for would never end where that release is gone.
#[derive(Clone, Debug, Deserialize)]
pub struct ReadTerms {
    definition: ReadDefinition,
    #[serde(default)]
    definition_version: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
struct ReadDefinition {
    #[serde(default)]
    retry: RetryPolicy,
    #[serde(default, with = "duration::or_none")]
    timeout: Option<Duration>,
}

impl ReadTerms {
    /// The terms.
    #[must_use]
    pub fn terms(&self) -> Terms<'_> {
        Terms {
            retry: &self.definition.retry,
            timeout: self.definition.timeout,
            is_defined: self.definition_version.is_some(),
        }
    }
}

impl StartRequest {
    /// Reads a stored request, or says why it cannot be read.
    ///
    /// # Errors
    /// [`Unreadable::TooNew`] where a later release wrote it.
    pub fn read(text: &str) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Number {
            format: Format,
        }
        let malformed = match serde_json::from_str::<Self>(text) {
            Ok(request) if request.is_of_its_format() => return Ok(request),
            Ok(request) => format!("it is not of the format {}", request.format),
            Err(error) => error.to_string(),
        };
        match serde_json::from_str::<Number>(text) {
            Ok(Number { format }) if format.is_newer() => Err(Unreadable::TooNew(format)),
            _ => Err(Unreadable::Malformed(malformed)),
        }
    }

    fn is_of_its_format(&self) -> bool {
        #[cfg(feature = "next-format")]
        if self.next.is_some() != self.format.is_next() {
            return false;
        }
        self.format.is_read()
    }

    /// What its attempt's end needs of it.
    #[must_use]
    pub fn terms(&self) -> Terms<'_> {
        Terms {
            retry: &self.definition.retry,
            timeout: self.definition.timeout,
            is_defined: self.definition_version.is_some(),
        }
    }

    /// Freezes `definition` for an attempt, in the format in use.
    ///
    /// An enqueuer's environment is held to `env_allow` as it stands now, too: a deploy that narrows it narrows it for
    /// waiting jobs.
    #[must_use]
    pub fn freeze(definition: &Definition, origin: &Origin<'_>, format: Format) -> Self {
        let format = format.to_write();
        let mut env = definition.env.clone();
        let allowed = |name: &str| {
            let listed = definition.env_allow.iter().any(|allowed| allowed == name);
            listed && !definition.secrets.contains_key(name)
        };
        env.extend(
            origin
                .env
                .iter()
                .filter(|(name, _)| allowed(name))
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        let left = origin.max_attempts.saturating_sub(origin.counted + 1);
        for (name, value) in [
            ("ROBATA_JOB_ID", origin.job.to_string()),
            ("ROBATA_ATTEMPT", origin.number.to_string()),
            ("ROBATA_ATTEMPTS_LEFT", left.to_string()),
            ("ROBATA_APP", origin.app.to_string()),
            ("ROBATA_JOB", origin.name.to_string()),
            ("ROBATA_QUEUE", origin.line.queue.to_string()),
            ("ROBATA_ENQUEUED_AT", origin.enqueued_at.to_string()),
        ] {
            env.insert(name.to_owned(), value);
        }
        let traceparent = origin
            .traceparent
            .map_or_else(|| traceparent_of(origin.job, origin.number), str::to_owned);
        env.insert("TRACEPARENT".to_owned(), traceparent);
        Self {
            format,
            attempt: AttemptId {
                job: origin.job,
                number: origin.number,
            },
            mark: origin.mark,
            app: origin.app.clone(),
            job: origin.name.clone(),
            executor: origin.line.executor.clone(),
            definition_version: origin.definition_version,
            definition: definition.clone(),
            env,
            expires_at: origin.expires_at,
            start_within: definition.start_within,
            #[cfg(feature = "next-format")]
            next: format.is_next().then_some(true),
        }
    }
}

/// A `traceparent` of its own for a job that came without one: the trace is the job, the span the attempt.
fn traceparent_of(job: JobId, number: u32) -> String {
    format!("00-{}-{:016x}-00", job.uuid().simple(), u64::from(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(format: Format) -> StartRequest {
        let line = Line {
            queue: "images".parse().unwrap(),
            executor: "docker".parse().unwrap(),
        };
        let origin = Origin {
            job: JobId::new(),
            app: &"shop".parse().unwrap(),
            name: &"resize".parse().unwrap(),
            line: &line,
            mark: Mark::new(),
            number: 1,
            max_attempts: 3,
            counted: 0,
            enqueued_at: Timestamp::default(),
            expires_at: None,
            env: &BTreeMap::new(),
            traceparent: None,
            definition_version: Some(7),
        };
        let definition = Definition {
            retry: RetryPolicy {
                max_attempts: 3,
                ..RetryPolicy::default()
            },
            timeout: None,
            ..Definition::default()
        };
        StartRequest::freeze(&definition, &origin, format)
    }

    #[test]
    fn a_request_is_read_in_its_own_format_and_a_later_one_is_too_new() {
        for format in [Format::PREVIOUS, Format::OWN] {
            let request = request(format);
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(StartRequest::read(&text), Ok(request.clone()));
            assert_eq!(request.format, format);
            let mut later: serde_json::Value = serde_json::from_str(&text).unwrap();
            later["more"] = true.into();
            let read = StartRequest::read(&later.to_string());
            assert!(matches!(read, Err(Unreadable::Malformed(_))), "{read:?}");
            let newer = Format::new(Format::OWN.number() + 1);
            later["format"] = newer.number().into();
            assert_eq!(StartRequest::read(&later.to_string()), Err(Unreadable::TooNew(newer)));
            // The same shape with another number is another format all the same.
            let mut renumbered: serde_json::Value = serde_json::from_str(&text).unwrap();
            renumbered["format"] = newer.number().into();
            assert_eq!(
                StartRequest::read(&renumbered.to_string()),
                Err(Unreadable::TooNew(newer))
            );
        }
    }

    #[test]
    fn the_terms_of_an_end_are_read_of_a_later_releases_request_too() {
        let request = request(Format::OWN);
        let mut later = serde_json::to_value(&request).unwrap();
        later["format"] = 9.into();
        later["more"] = true.into();
        later["definition"]["more"] = true.into();
        let read: ReadTerms = serde_json::from_value(later).unwrap();
        assert_eq!(read.terms().retry, request.terms().retry);
        assert_eq!(read.terms().timeout, request.terms().timeout);
        assert!(read.terms().is_defined);
    }
}

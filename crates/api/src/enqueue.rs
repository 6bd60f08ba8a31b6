//! From a request to a job that the store can take: checked against the definition, resolved, and with its hash.

use std::{collections::BTreeMap, time::Duration};

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use robata_api_types::{EnqueueRequest, Span};
use robata_core::{
    AppName, JobId, JobName, Payload, QueueName,
    definition::{App, Catalog, Definition, JobEntry, document::check_env_name},
    job::{Key, Line, NewJob, PRIORITIES, When},
};
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny},
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{
    body::{OneJob, Purpose, parse},
    config::ApiConfig,
    refused::{Refused, Result, nearest},
};

/// An idempotency key has at most this many bytes.
pub(crate) const MAX_KEY_BYTES: usize = 256;
/// Delays and expiries are at most this long.
const MAX_SPAN: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// A label's key has at most this many bytes.
const MAX_LABEL_KEY_BYTES: usize = 128;
/// A label's value has at most this many bytes.
const MAX_LABEL_VALUE_BYTES: usize = 1024;
/// The text of a smaller request can be kept whatever it says.
const COUNTED: usize = 64 << 10;
/// An enqueuer's environment has together at most this many bytes: an engine's limit is not far above.
const MAX_ENV_BYTES: usize = 64 << 10;

/// A request that is good as far as it can be told without the catalog.
#[derive(Debug)]
pub(crate) struct Checked {
    app: AppName,
    job: JobName,
    payload: Payload,
    queue: Option<QueueName>,
    when: When,
    expires_in: Option<Duration>,
    priority: i8,
    env: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    key: Option<Key>,
}

impl Checked {
    pub(crate) fn new(request: EnqueueRequest, config: &ApiConfig) -> Result<Self> {
        let payload = payload(request.payload, config)?;
        check_labels(&request.labels, config)?;
        check_env(&request.env)?;
        let mut checked = Self {
            app: request.app,
            job: request.job,
            payload,
            queue: request.queue,
            when: when(request.delay_seconds, request.run_at)?,
            expires_in: expires_in(request.expires_in)?,
            priority: priority(request.priority)?,
            env: request.env,
            labels: request.labels,
            key: None,
        };
        checked.key = match request.idempotency_key {
            Some(key) => Some(Key {
                key: check_key(key)?,
                request: checked.hash(),
            }),
            None => None,
        };
        Ok(checked)
    }

    /// The app that it is for.
    pub(crate) fn app(&self) -> &AppName {
        &self.app
    }

    /// The job definition's name.
    pub(crate) fn job(&self) -> &JobName {
        &self.job
    }

    /// The key, with the app in which it is one.
    pub(crate) fn key(&self) -> Option<(AppName, Key)> {
        Some((self.app.clone(), self.key.clone()?))
    }

    /// Whether the catalog lets it be; what is refused here a newer catalog may allow.
    pub(crate) fn allowed_by(&self, catalog: &Catalog) -> Result<()> {
        let definition = &*entry(catalog, &self.app, &self.job)?.definition;
        check_env_allowed(&self.env, definition)?;
        queue(catalog, &self.app, self.queue.clone(), definition).map(drop)
    }

    /// The job for the store.
    pub(crate) fn resolve(self, catalog: &Catalog, config: &ApiConfig, traceparent: Option<&str>) -> Result<NewJob> {
        let definition = &*entry(catalog, &self.app, &self.job)?.definition;
        check_env_allowed(&self.env, definition)?;
        let queue_chosen = self.queue.is_some();
        Ok(NewJob {
            id: JobId::new(),
            line: Line {
                queue: queue(catalog, &self.app, self.queue, definition)?,
                executor: executor(definition, config),
            },
            app: self.app,
            job: self.job,
            queue_chosen,
            payload: self.payload,
            labels: self.labels,
            env: self.env,
            priority: self.priority,
            when: self.when,
            expires_in: self.expires_in,
            key: self.key,
            max_attempts: definition.retry.max_attempts,
            definition: None,
            traceparent: traceparent.map(str::to_owned),
        })
    }

    /// SHA-256 over the parsed request (DESIGN.md §6): each part with its length before it, so that no two read alike.
    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(self.app.as_str().as_bytes());
        part(self.job.as_str().as_bytes());
        part(self.queue.as_ref().map_or(b"", |queue| queue.as_str().as_bytes()));
        match self.when {
            When::Now => part(b"now"),
            When::In(delay) => part(format!("in {}", delay.as_millis()).as_bytes()),
            When::At(at) => part(format!("at {}", at.as_millis()).as_bytes()),
        }
        let expires = self.expires_in.map(|span| span.as_millis().to_string());
        part(expires.unwrap_or_default().as_bytes());
        part(&self.priority.to_be_bytes());
        for map in [&self.env, &self.labels] {
            part(&map.len().to_be_bytes());
            for (key, value) in map {
                part(key.as_bytes());
                part(value.as_bytes());
            }
        }
        part(&self.payload.compact());
        hash.finalize().into()
    }
}

/// Reads one job. What would take far more memory than its text is counted before it is kept.
pub(crate) fn read(json: &[u8], config: &ApiConfig) -> Result<Checked> {
    // In a batch, too, where the body may be larger.
    if json.len() > OneJob::most(config) {
        return Err(OneJob::too_large(config));
    }
    if json.len() > COUNTED
        // What cannot be counted is no good request either, and the second look says why.
        && let Ok(counted) = serde_json::from_slice::<Counted>(json)
    {
        bounded_labels(counted.labels.0, config)?;
        // Each has a name of a byte at least.
        bounded_env(counted.env.0)?;
    }
    Checked::new(parse::<EnqueueRequest>(json)?, config)
}

/// How many labels and variables a request has; nothing else of it is looked at.
#[derive(Deserialize)]
struct Counted {
    #[serde(default)]
    labels: Count,
    #[serde(default)]
    env: Count,
}

/// The number of a map's entries, which are read over.
#[derive(Default)]
struct Count(usize);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Counter;

        impl<'de> de::Visitor<'de> for Counter {
            type Value = Count;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> std::result::Result<Count, A::Error> {
                let mut count = 0;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Count(count))
            }
        }

        deserializer.deserialize_map(Counter)
    }
}

/// The definition, or 404 with the nearest ones.
pub(crate) fn entry<'c>(catalog: &'c Catalog, name: &AppName, job: &JobName) -> Result<&'c JobEntry> {
    let jobs = &app(catalog, name)?.jobs;
    jobs.get(job).ok_or_else(|| {
        let detail = format!("app {name} has no job definition {job}");
        let known = jobs.keys().map(JobName::as_str);
        Refused::not_found("unknown_definition", detail).near(nearest(job.as_str(), known))
    })
}

/// The app, or 404 with the nearest ones.
pub(crate) fn app<'c>(catalog: &'c Catalog, name: &AppName) -> Result<&'c App> {
    catalog
        .apps
        .get(name)
        .map(|app| &**app)
        .ok_or_else(|| unknown_app(catalog, name))
}

/// 404 with the nearest ones of the catalog.
pub(crate) fn unknown_app(catalog: &Catalog, name: &AppName) -> Refused {
    let known = catalog.apps.keys().map(AppName::as_str);
    Refused::not_found("unknown_app", format!("there is no app {name}")).near(nearest(name.as_str(), known))
}

/// The executor of a definition.
pub(crate) fn executor(definition: &Definition, config: &ApiConfig) -> robata_core::ExecutorName {
    let named = definition.executor.as_ref();
    named.unwrap_or(&config.default_executor).clone()
}

/// The queue that was chosen, if it may be, else the definition's.
pub(crate) fn queue(
    catalog: &Catalog,
    app: &AppName,
    chosen: Option<QueueName>,
    definition: &Definition,
) -> Result<QueueName> {
    let Some(chosen) = chosen else {
        return Ok(Catalog::queue_of(app, definition));
    };
    if chosen == Catalog::queue_of(app, definition) || catalog.may_use_queue(app, &chosen) {
        return Ok(chosen);
    }
    let detail = format!("queue {chosen} is none that the definitions of app {app} name");
    Err(Refused::invalid("queue_not_allowed", detail))
}

fn payload(raw: Option<Box<RawValue>>, config: &ApiConfig) -> Result<Payload> {
    let Some(raw) = raw else {
        return Ok(Payload::null());
    };
    let text: Box<str> = raw.into();
    if text.len() > config.max_payload_bytes {
        let (bytes, most) = (text.len(), config.max_payload_bytes);
        let detail = format!("the payload has {bytes} bytes; at most {most} are allowed");
        return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail));
    }
    let bytes = Bytes::from(String::from(text));
    Payload::new(bytes, config.max_payload_bytes, config.max_depth)
        .map_err(|error| Refused::invalid("invalid_payload", error.message()))
}

fn when(delay: Option<f64>, at: Option<robata_core::Timestamp>) -> Result<When> {
    match (delay, at) {
        (None, None) => Ok(When::Now),
        (Some(_), Some(_)) => Err(Refused::invalid(
            "invalid",
            "delay_seconds and run_at exclude each other",
        )),
        (None, Some(at)) => Ok(When::At(at)),
        (Some(0.0), None) => Ok(When::Now),
        (Some(seconds), None) => Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|delay| *delay <= MAX_SPAN)
            .map(When::In)
            .ok_or_else(|| {
                let detail = "delay_seconds must be from 0 to ten years";
                Refused::invalid("invalid", detail)
            }),
    }
}

fn expires_in(span: Option<Span>) -> Result<Option<Duration>> {
    match span {
        Some(Span(span)) if span < Duration::from_millis(1) || span > MAX_SPAN => {
            Err(Refused::invalid("invalid", "expires_in must be from 1ms to ten years"))
        }
        span => Ok(span.map(|Span(span)| span)),
    }
}

fn priority(priority: Option<i64>) -> Result<i8> {
    i8::try_from(priority.unwrap_or(0))
        .ok()
        .filter(|priority| PRIORITIES.contains(priority))
        .ok_or_else(|| Refused::invalid("invalid", "priority must be from -100 to 100"))
}

fn check_key(key: String) -> Result<String> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        let detail = format!("idempotency_key must have 1 to {MAX_KEY_BYTES} bytes");
        return Err(Refused::invalid("invalid", detail));
    }
    Ok(key)
}

fn bounded_labels(count: usize, config: &ApiConfig) -> Result<()> {
    if count > config.max_labels {
        let most = config.max_labels;
        let detail = format!("there are {count} labels; at most {most} are allowed");
        return Err(Refused::invalid("too_many_labels", detail));
    }
    Ok(())
}

fn check_labels(labels: &BTreeMap<String, String>, config: &ApiConfig) -> Result<()> {
    bounded_labels(labels.len(), config)?;
    for (key, value) in labels {
        let bad_key =
            key.is_empty() || key.len() > MAX_LABEL_KEY_BYTES || key.chars().any(|c| c == '=' || c.is_control());
        if bad_key {
            let detail =
                format!("a label's key has 1 to {MAX_LABEL_KEY_BYTES} bytes, no '=' and no control characters");
            return Err(Refused::invalid("invalid_label", detail));
        }
        // They would reach the terminals of those who list jobs.
        if value.len() > MAX_LABEL_VALUE_BYTES || value.chars().any(char::is_control) {
            let detail =
                format!("label {key}: a value has at most {MAX_LABEL_VALUE_BYTES} bytes and no control characters");
            return Err(Refused::invalid("invalid_label", detail));
        }
    }
    Ok(())
}

fn bounded_env(bytes: usize) -> Result<()> {
    if bytes > MAX_ENV_BYTES {
        let detail = format!("env has more than the {MAX_ENV_BYTES} bytes that are allowed");
        return Err(Refused::invalid("invalid", detail));
    }
    Ok(())
}

/// Values are never told.
fn check_env(env: &BTreeMap<String, String>) -> Result<()> {
    bounded_env(env.iter().map(|(name, value)| name.len() + value.len()).sum())?;
    for (name, value) in env {
        check_env_name(name).map_err(|message| Refused::invalid("env_not_allowed", message))?;
        if value.contains('\0') {
            let detail = format!("env {name}: the value has a NUL, which no environment can hold");
            return Err(Refused::invalid("invalid", detail));
        }
    }
    Ok(())
}

/// An enqueuer sets only what the definition lists.
fn check_env_allowed(env: &BTreeMap<String, String>, definition: &Definition) -> Result<()> {
    let Some(name) = env.keys().find(|name| !definition.env_allow.contains(name)) else {
        return Ok(());
    };
    let detail = if definition.env_allow.is_empty() {
        format!("env {name:?}: the definition's env_allow lists nothing that may be set")
    } else {
        let allowed = definition.env_allow.join(", ");
        format!("env {name:?} is not in the definition's env_allow ({allowed})")
    };
    Err(Refused::invalid("env_not_allowed", detail))
}

/// The request's `traceparent`, if it is a valid one; else there is none, as the W3C's text wants it.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = text.split('-');
    let mut hex = |length: usize| {
        let part = parts.next()?;
        let is_hex = part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_hex.then_some(part)
    };
    let (version, trace, span, _) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    let whole = version == "00" && parts.next().is_none() && !zero(trace) && !zero(span);
    whole.then_some(text)
}

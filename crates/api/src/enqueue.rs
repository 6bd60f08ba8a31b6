//! From a request to a job that the store can take: checked against the definition, resolved, and with its hash.

use std::{collections::BTreeMap, time::Duration};

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use robata_api_types::{EnqueueRequest, Span};
use robata_core::{
    AppName, JobId, Payload, QueueName,
    definition::{App, Catalog, Definition, JobEntry},
    job::{Key, Line, NewJob, PRIORITIES, When},
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{
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
/// An enqueuer's environment has together at most this many bytes: an engine's limit is not far above.
const MAX_ENV_BYTES: usize = 64 << 10;

/// A job for the store, of a request.
pub(crate) fn resolve(
    request: EnqueueRequest,
    catalog: &Catalog,
    config: &ApiConfig,
    traceparent: Option<&str>,
) -> Result<NewJob> {
    let (_, entry) = entry(catalog, &request)?;
    let definition = &*entry.definition;
    let payload = payload(request.payload, config)?;
    check_labels(&request.labels, config)?;
    check_env(&request.env, definition)?;
    let options = Options {
        queue: request.queue.as_ref(),
        when: when(request.delay_seconds, request.run_at)?,
        expires_in: expires_in(request.expires_in)?,
        priority: priority(request.priority)?,
        env: &request.env,
        labels: &request.labels,
    };
    let key = match request.idempotency_key {
        Some(key) => {
            let request = hash(&request.app, request.job.as_str(), &options, &payload);
            Some(Key {
                key: check_key(key)?,
                request,
            })
        }
        None => None,
    };
    let (when, expires_in, priority) = (options.when, options.expires_in, options.priority);
    let queue_chosen = request.queue.is_some();
    let queue = queue(catalog, &request.app, request.queue, definition)?;
    Ok(NewJob {
        id: JobId::new(),
        line: Line {
            queue,
            executor: executor(definition, config),
        },
        app: request.app,
        job: request.job,
        queue_chosen,
        payload,
        labels: request.labels,
        env: request.env,
        priority,
        when,
        expires_in,
        key,
        max_attempts: definition.retry.max_attempts,
        definition: None,
        traceparent: traceparent.map(str::to_owned),
    })
}

/// Whether the refusal is for a name that a newer catalog may know.
pub(crate) fn is_unknown_name(refused: &Refused) -> bool {
    matches!(
        &*refused.0.code,
        "unknown_app" | "unknown_definition" | "queue_not_allowed"
    )
}

fn entry<'c>(catalog: &'c Catalog, request: &EnqueueRequest) -> Result<(&'c App, &'c JobEntry)> {
    let app = app(catalog, &request.app)?;
    let entry = app.jobs.get(&request.job).ok_or_else(|| {
        let detail = format!("app {} has no job definition {}", request.app, request.job);
        let known = app.jobs.keys().map(|job| job.as_str());
        Refused::not_found("unknown_definition", detail).near(nearest(request.job.as_str(), known))
    })?;
    Ok((app, entry))
}

/// The app, or 404 with the nearest ones.
pub(crate) fn app<'c>(catalog: &'c Catalog, name: &AppName) -> Result<&'c App> {
    catalog.apps.get(name).map(|app| &**app).ok_or_else(|| {
        let known = catalog.apps.keys().map(AppName::as_str);
        Refused::not_found("unknown_app", format!("there is no app {name}")).near(nearest(name.as_str(), known))
    })
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

fn check_labels(labels: &BTreeMap<String, String>, config: &ApiConfig) -> Result<()> {
    if labels.len() > config.max_labels {
        let (count, most) = (labels.len(), config.max_labels);
        let detail = format!("there are {count} labels; at most {most} are allowed");
        return Err(Refused::invalid("too_many_labels", detail));
    }
    for (key, value) in labels {
        let bad_key =
            key.is_empty() || key.len() > MAX_LABEL_KEY_BYTES || key.chars().any(|c| c == '=' || c.is_control());
        if bad_key {
            let detail =
                format!("a label's key has 1 to {MAX_LABEL_KEY_BYTES} bytes, no '=' and no control characters");
            return Err(Refused::invalid("invalid_label", detail));
        }
        if value.len() > MAX_LABEL_VALUE_BYTES || value.contains('\0') {
            let detail = format!("label {key}: a value has at most {MAX_LABEL_VALUE_BYTES} bytes and no NUL");
            return Err(Refused::invalid("invalid_label", detail));
        }
    }
    Ok(())
}

/// An enqueuer sets only what the definition lists. Values are never told.
fn check_env(env: &BTreeMap<String, String>, definition: &Definition) -> Result<()> {
    let mut bytes = 0;
    for (name, value) in env {
        if !definition.env_allow.contains(name) {
            let detail = if definition.env_allow.is_empty() {
                format!("env {name:?}: the definition's env_allow lists nothing that may be set")
            } else {
                let allowed = definition.env_allow.join(", ");
                format!("env {name:?} is not in the definition's env_allow ({allowed})")
            };
            return Err(Refused::invalid("env_not_allowed", detail));
        }
        robata_core::definition::document::check_env_name(name)
            .map_err(|message| Refused::invalid("env_not_allowed", message))?;
        if value.contains('\0') {
            let detail = format!("env {name}: the value has a NUL, which no environment can hold");
            return Err(Refused::invalid("invalid", detail));
        }
        bytes += name.len() + value.len();
    }
    if bytes > MAX_ENV_BYTES {
        let detail = format!("env has {bytes} bytes; at most {MAX_ENV_BYTES} are allowed");
        return Err(Refused::invalid("invalid", detail));
    }
    Ok(())
}

/// What a key's hash covers besides app, job and payload.
struct Options<'r> {
    queue: Option<&'r QueueName>,
    when: When,
    expires_in: Option<Duration>,
    priority: i8,
    env: &'r BTreeMap<String, String>,
    labels: &'r BTreeMap<String, String>,
}

/// SHA-256 over the parsed request (DESIGN.md §6): each part with its length before it, so that no two read alike.
fn hash(app: &AppName, job: &str, options: &Options<'_>, payload: &Payload) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(app.as_str().as_bytes());
    part(job.as_bytes());
    part(options.queue.map_or(b"", |queue| queue.as_str().as_bytes()));
    match options.when {
        When::Now => part(b"now"),
        When::In(delay) => part(format!("in {}", delay.as_millis()).as_bytes()),
        When::At(at) => part(format!("at {}", at.as_millis()).as_bytes()),
    }
    let expires = options.expires_in.map(|span| span.as_millis().to_string());
    part(expires.unwrap_or_default().as_bytes());
    part(&options.priority.to_be_bytes());
    for map in [options.env, options.labels] {
        part(&map.len().to_be_bytes());
        for (key, value) in map {
            part(key.as_bytes());
            part(value.as_bytes());
        }
    }
    part(&payload.compact());
    hash.finalize().into()
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

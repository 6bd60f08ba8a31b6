//! Reading a JSON body within its bounds, and saying where it is malformed.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::{StatusCode, header},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    guard::too_large,
    refused::{Refused, Result, internal},
    shared::Shared,
};

/// Smaller bodies than this do not count against the bodies' common bound.
const SMALL: usize = 64 << 10;
/// The common bound is counted in pieces of this size.
const PIECE: usize = 64 << 10;
/// A larger body than this is parsed on a thread where nobody waits for it.
const LARGE: usize = 256 << 10;

/// A request's body, read whole.
pub(crate) struct JsonBody {
    bytes: Bytes,
    // Freed when the request is answered.
    permit: Option<OwnedSemaphorePermit>,
}

/// The common bound of all bodies.
pub(crate) fn budget(max_bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((max_bytes / PIECE).clamp(1, Semaphore::MAX_PERMITS)))
}

impl FromRequest<Arc<Shared>> for JsonBody {
    type Rejection = Refused;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self> {
        let config = &shared.config;
        let body = request.into_parts();
        let (parts, body) = body;
        let declared = parts
            .headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let read = async {
            let permit = reserve(shared, declared).await?;
            let bytes = collect(body, shared).await?;
            Ok(Self { bytes, permit })
        };
        match timeout(config.body_timeout, read).await {
            Ok(read) => read,
            Err(_) => Err(Refused::new(
                StatusCode::REQUEST_TIMEOUT,
                "too_slow",
                format!("the body did not arrive within {} s", config.body_timeout.as_secs()),
            )),
        }
    }
}

/// Room for a body of this length; of an unknown one, for the largest.
async fn reserve(shared: &Shared, declared: Option<usize>) -> Result<Option<OwnedSemaphorePermit>> {
    let bytes = declared.unwrap_or(shared.config.max_body_bytes);
    if bytes <= SMALL {
        return Ok(None);
    }
    let whole = (shared.config.max_bodies_bytes / PIECE).max(1);
    let pieces = u32::try_from(bytes.div_ceil(PIECE).min(whole)).unwrap_or(u32::MAX);
    match Arc::clone(&shared.bodies).acquire_many_owned(pieces).await {
        Ok(permit) => Ok(Some(permit)),
        Err(_) => Err(internal()),
    }
}

async fn collect(body: Body, shared: &Shared) -> Result<Bytes> {
    match Limited::new(body, shared.config.max_body_bytes).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(&shared.config)),
        Err(error) => {
            let detail = format!("the body could not be read: {error}");
            Err(Refused::bad("broken_body", detail))
        }
    }
}

impl JsonBody {
    /// Parses and works on the body by `work`, where it is large on a thread of its own.
    pub(crate) async fn with<T: Send + 'static>(
        self,
        work: impl FnOnce(&Bytes) -> Result<T> + Send + 'static,
    ) -> Result<(T, BodyRoom)> {
        let room = BodyRoom { _permit: self.permit };
        if self.bytes.len() <= LARGE {
            return Ok((work(&self.bytes)?, room));
        }
        let bytes = self.bytes;
        let done = tokio::task::spawn_blocking(move || work(&bytes)).await;
        match done {
            Ok(done) => Ok((done?, room)),
            Err(error) => {
                tracing::error!(%error, "parsing a body failed");
                Err(internal())
            }
        }
    }

    /// Parses the body.
    pub(crate) async fn parse<T: for<'a> Deserialize<'a> + Send + 'static>(self) -> Result<T> {
        let (value, _room) = self.with(|bytes| parse(bytes)).await?;
        Ok(value)
    }
}

/// The room that a body takes in the common bound, until it is dropped.
#[derive(Debug)]
pub(crate) struct BodyRoom {
    _permit: Option<OwnedSemaphorePermit>,
}

/// Parses JSON; an error says line and column, and the key where it is a wrong value.
pub(crate) fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| malformed::<T>(json, &error))
}

fn malformed<'a, T: Deserialize<'a>>(json: &'a [u8], error: &serde_json::Error) -> Refused {
    if json.iter().all(u8::is_ascii_whitespace) {
        return Refused::bad("invalid_json", "the body is empty; JSON is needed");
    }
    let text = error.to_string();
    // serde_json ends with the place, which stands in fields of its own here.
    let what = text.rsplit_once(" at line ").map_or(&*text, |(what, _)| what);
    let mut refused = if error.is_data() {
        // Only a refused body is read a second time, for the key.
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let path = serde_path_to_error::deserialize::<_, T>(&mut deserializer)
            .err()
            .map(|error| error.path().to_string())
            .filter(|path| path != "." && !path.is_empty());
        let detail = path.map_or_else(|| what.to_owned(), |path| format!("{path}: {what}"));
        Refused::invalid("invalid_request", detail)
    } else {
        let detail = format!(
            "the body is no valid JSON: {what} at line {}, column {}",
            error.line(),
            error.column()
        );
        Refused::bad("invalid_json", detail)
    };
    refused.0.line = Some(error.line());
    refused.0.column = Some(error.column());
    refused
}

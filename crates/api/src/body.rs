//! Reading a JSON body within its bounds, and saying where it is malformed.

use std::{marker::PhantomData, sync::Arc};

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, Request},
    http::{StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{
    access::Identity,
    config::ApiConfig,
    guard::too_large,
    refused::{Refused, Result, internal, nearest},
    shared::Shared,
};

/// Smaller bodies than this do not count against the bodies' common bound.
const SMALL: usize = 64 << 10;
/// The common bound is counted in pieces of this size.
const PIECE: usize = 64 << 10;
/// A larger body than this is parsed on a thread where nobody waits for it.
const LARGE: usize = 256 << 10;
/// What a job may say besides its payload: labels and environment, each character escaped.
const JOB_ROOM: usize = 1 << 20;
/// An error quotes at most so much of what was sent.
const QUOTED: usize = 1000;

/// What a body is for, and so how large it may be and how much memory it becomes.
pub(crate) trait Purpose: Send + 'static {
    /// A body has at most this many bytes.
    fn most(config: &ApiConfig) -> usize;
    /// So many bytes are taken for each one of the body.
    const COST: usize;

    /// 413 for a body that is larger.
    fn too_large(config: &ApiConfig) -> Refused {
        too_large(Self::most(config))
    }
}

/// Settings and all else that is read into a tree, of which a byte may become many.
#[derive(Debug)]
pub(crate) struct Tree;

/// One job, whose payload stays as it is.
#[derive(Debug)]
pub(crate) struct OneJob;

/// Many jobs.
#[derive(Debug)]
pub(crate) struct ManyJobs;

impl Purpose for Tree {
    fn most(config: &ApiConfig) -> usize {
        config.max_document_bytes.min(config.max_body_bytes)
    }

    // `[0,0,…` is 2 bytes a value in text and 32 in memory, and a list doubles as it grows.
    const COST: usize = 16;
}

impl Purpose for OneJob {
    fn most(config: &ApiConfig) -> usize {
        config
            .max_payload_bytes
            .saturating_add(JOB_ROOM)
            .min(config.max_body_bytes)
    }

    const COST: usize = 1;

    fn too_large(config: &ApiConfig) -> Refused {
        let mut refused = too_large(Self::most(config));
        let payload = format!("; of these the payload has at most {}", config.max_payload_bytes);
        refused.0.detail.push_str(&payload);
        refused
    }
}

impl Purpose for ManyJobs {
    fn most(config: &ApiConfig) -> usize {
        config.max_body_bytes
    }

    const COST: usize = 1;
}

/// A request's body, read whole.
pub(crate) struct JsonBody<P = Tree> {
    bytes: Bytes,
    // Freed when the request is answered.
    permit: Option<OwnedSemaphorePermit>,
    purpose: PhantomData<fn() -> P>,
}

/// The common bound of all bodies.
pub(crate) fn budget(max_bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((max_bytes / PIECE).clamp(1, Semaphore::MAX_PERMITS)))
}

impl<P: Purpose> FromRequest<Arc<Shared>> for JsonBody<P> {
    type Rejection = Refused;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self> {
        let most = P::most(&shared.config);
        let (parts, body) = request.into_parts();
        let declared = parts
            .headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if declared.is_some_and(|declared| declared > most) {
            return Err(P::too_large(&shared.config));
        }
        let mut reader = Reader {
            shared,
            most,
            cost: P::COST,
            too_large: P::too_large,
            deadline: Instant::now() + shared.config.body_timeout,
            permit: None,
        };
        if let Some(declared) = declared {
            reader.reserve(declared).await?;
        }
        let bytes = reader.read(body, declared).await?;
        // A body may take its time; what was revoked meanwhile does nothing any more.
        if let Some(who) = parts.extensions.get::<Identity>() {
            who.still()?;
        }
        Ok(Self {
            bytes,
            permit: reader.permit,
            purpose: PhantomData,
        })
    }
}

struct Reader<'s> {
    shared: &'s Shared,
    most: usize,
    cost: usize,
    too_large: fn(&ApiConfig) -> Refused,
    deadline: Instant,
    permit: Option<OwnedSemaphorePermit>,
}

impl Reader<'_> {
    /// Waits for room for a body of this length. The time to send it begins when there is.
    async fn reserve(&mut self, bytes: usize) -> Result<()> {
        if bytes <= SMALL {
            return Ok(());
        }
        let config = &self.shared.config;
        let whole = (config.max_bodies_bytes / PIECE).max(1);
        let pieces = bytes.saturating_mul(self.cost).div_ceil(PIECE).min(whole);
        let pieces = u32::try_from(pieces).unwrap_or(u32::MAX);
        let acquired = Arc::clone(&self.shared.bodies).acquire_many_owned(pieces);
        match timeout_at(self.deadline, acquired).await {
            Ok(Ok(permit)) => self.permit = Some(permit),
            Ok(Err(_closed)) => return Err(internal()),
            Err(_elapsed) => {
                let detail = "other requests' large bodies took all the room there is for them";
                return Err(Refused::unavailable(detail, std::time::Duration::from_secs(1)));
            }
        }
        self.deadline = Instant::now() + config.body_timeout;
        Ok(())
    }

    async fn read(&mut self, body: Body, declared: Option<usize>) -> Result<Bytes> {
        // hyper answers no more than was declared; what is not known is read as it comes.
        let mut sized = declared.is_some() || body.size_hint().exact().is_some_and(|length| length <= SMALL as u64);
        let mut pieces = body.into_data_stream();
        let mut bytes = BytesMut::with_capacity(declared.unwrap_or(0));
        loop {
            let piece = match timeout_at(self.deadline, pieces.next()).await {
                Ok(Some(Ok(piece))) => piece,
                Ok(None) => return Ok(bytes.freeze()),
                Ok(Some(Err(error))) => {
                    let detail = format!("the body could not be read: {error}");
                    return Err(Refused::bad("broken_body", detail));
                }
                Err(_elapsed) => {
                    let seconds = self.shared.config.body_timeout.as_secs_f64();
                    let detail = format!("the body did not arrive within {seconds} s");
                    return Err(Refused::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail));
                }
            };
            if bytes.len() + piece.len() > self.most {
                return Err((self.too_large)(&self.shared.config));
            }
            // One of an unknown length takes room once it shows that it is not small: then for the largest, at once,
            // since two that grow piece by piece could wait for each other.
            if !sized && bytes.len() + piece.len() > SMALL {
                self.reserve(self.most).await?;
                sized = true;
            }
            bytes.extend_from_slice(&piece);
        }
    }
}

impl<P: Purpose> JsonBody<P> {
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

    /// Parses the body. What came of it takes room until it is dropped.
    pub(crate) async fn parse<T: for<'a> Deserialize<'a> + Send + 'static>(self) -> Result<Roomed<T>> {
        let (value, room) = self.with(|bytes| parse(bytes)).await?;
        Ok(Roomed { value, _room: room })
    }
}

/// What a body was parsed into, with the room that it takes.
#[derive(Debug)]
pub(crate) struct Roomed<T> {
    pub(crate) value: T,
    _room: BodyRoom,
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
        let said = quoted(what);
        let detail = path.map_or_else(|| said.clone(), |path| format!("{}: {said}", quoted(&path)));
        Refused::invalid("invalid_request", detail).near(nearest_field(what))
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

/// The fields that serde expected, which are near to the one that it does not know. Its words are
/// ``unknown field `X`, expected one of `A`, `B` ``; X is the client's own and may hold anything.
fn nearest_field(words: &str) -> Vec<String> {
    let Some((unknown, expected)) = words
        .strip_prefix("unknown field `")
        .and_then(|words| words.rsplit_once("`, expected "))
    else {
        return Vec::new();
    };
    nearest(unknown, expected.split('`').skip(1).step_by(2))
}

/// As much of a text as an error quotes.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_names_the_nearest() {
        for (words, near) in [
            (
                "unknown field `paylod`, expected one of `app`, `payload`, `job`",
                "payload",
            ),
            ("unknown field `jbo`, expected `app` or `job`", "job"),
            ("unknown field `reasno`, expected `reason`", "reason"),
            ("unknown field `x`, expected `app`, `jb`, expected `app` or `job`", ""),
            ("missing field `app`", ""),
            ("unknown field `x`, there are no fields", ""),
        ] {
            assert_eq!(nearest_field(words).first().map_or("", String::as_str), near, "{words}");
        }
    }
}

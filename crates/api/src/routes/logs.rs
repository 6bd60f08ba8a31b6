//! An attempt's log, as printed or as NDJSON.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use robata_api_types::{LogLine, Problem, logs::NDJSON};
use robata_core::{Error, executor::Stream as Output, log_store::Entry};

use crate::{
    access::{Identity, while_valid},
    follow::{Entries, Wanted, open},
    path::{self, Path},
    query::{MOST, Query},
    refused::{Refused, Result},
    shared::Shared,
};

/// Entries that are there already go out together, at most so many.
const TOGETHER: usize = 128;

/// A job's log: its last attempt's, unless another is named.
#[utoipa::path(
    operation_id = "get_logs",
    get, path = "/api/v1/jobs/{id}/logs", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job's id"),
        ("attempt" = Option<u32>, Query, minimum = 1, description = "The attempt; default: the last one"),
        ("stream" = Option<String>, Query, description = "`stdout` or `stderr`; default: both, merged by time"),
        ("follow" = Option<bool>, Query, description = "Wait for more until this attempt's log is sealed"),
        ("offset" = Option<u64>, Query, minimum = 0, description = "From this byte of the stream; needs `stream`"),
    ),
    security(("token" = ["read"])),
    responses(
        (status = 200, description = "As printed; or with `Accept: application/x-ndjson` one LogLine a line, the last one with `end`.",
         content((String = "text/plain"), (LogLine = "application/x-ndjson"))),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn logs(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response> {
    let attempt = query.number("attempt", 1..=u64::from(u32::MAX))?;
    let stream = stream(&query)?;
    let offset = query.number("offset", 0..=MOST)?;
    if offset.is_some() && stream.is_none() {
        let detail = "offset needs stream: merged streams have no common offset";
        return Err(Refused::bad("invalid_query", detail));
    }
    let mut wanted = Wanted {
        job: path::job_id(&id)?,
        attempt: attempt.and_then(|number| u32::try_from(number).ok()),
        stream,
        offset: offset.unwrap_or(0),
        follow: query.flag("follow")?,
    };
    // An unknown job is told apart from an unknown attempt; and the job of an alias has another id.
    wanted.job = who.job(&shared, wanted.job).await?.job.id;
    let entries = open(&shared, wanted).await.map_err(|mut refused| {
        if refused.0.code == "not_found" {
            let what = if wanted.attempt.is_some() { "attempt" } else { "job" };
            refused.0.code = format!("unknown_{what}");
            refused.0.kind = format!("urn:robata:problem:unknown_{what}");
        }
        refused
    })?;
    let entries = while_valid(entries, who);
    let ndjson = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains(NDJSON)));
    let (media_type, body) = if ndjson {
        (NDJSON, Body::from_stream(as_lines(entries)))
    } else {
        ("text/plain; charset=utf-8", Body::from_stream(as_printed(entries)))
    };
    Ok(([(header::CONTENT_TYPE, media_type)], body).into_response())
}

fn stream(query: &Query) -> Result<Option<Output>> {
    let Some(text) = query.text("stream")? else {
        return Ok(None);
    };
    let found = Output::ALL.into_iter().find(|stream| stream.as_str() == text);
    match found {
        Some(stream) => Ok(Some(stream)),
        None => Err(Refused::bad("invalid_query", "stream must be stdout or stderr")),
    }
}

/// The bytes alone. An error cuts the transfer, so that nobody takes the part for the whole.
fn as_printed(entries: Entries) -> impl futures::Stream<Item = std::result::Result<Bytes, Error>> {
    entries.ready_chunks(TOGETHER).flat_map(|entries| {
        let mut bytes = BytesMut::new();
        let mut failed = None;
        for entry in entries {
            match entry {
                Ok(Entry::Piece(piece)) => bytes.extend_from_slice(&piece.data),
                Ok(Entry::Gap { .. } | Entry::End(_)) => {}
                Err(error) => {
                    tracing::warn!(error = %error.full(), "a log was cut");
                    failed = Some(Err(error));
                }
            }
        }
        let printed = (!bytes.is_empty()).then(|| Ok(bytes.freeze()));
        futures::stream::iter(printed.into_iter().chain(failed))
    })
}

/// One JSON line an entry; an error becomes a last line that says so.
fn as_lines(entries: Entries) -> impl futures::Stream<Item = std::result::Result<Bytes, Error>> {
    entries.ready_chunks(TOGETHER).map(|entries| {
        let mut bytes = BytesMut::new();
        for entry in entries {
            let line = match entry {
                Ok(entry) => LogLine::from(entry),
                Err(error) => {
                    tracing::warn!(error = %error.full(), "a log was cut");
                    LogLine {
                        end: Some(true),
                        complete: Some(false),
                        reason: Some(error.message().to_owned()),
                        ..LogLine::default()
                    }
                }
            };
            // Text and numbers alone: writing them into memory cannot fail.
            if serde_json::to_writer((&mut bytes).writer(), &line).is_ok() {
                bytes.put_u8(b'\n');
            }
        }
        Ok(bytes.freeze())
    })
}

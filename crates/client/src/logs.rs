//! Logs: as printed, or as entries that say stream, time, gaps and the end.

use crate::{error::ClientError, http::Client};
use bytes::{Bytes, BytesMut};
use futures::{
    Stream, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use reqwest::{Method, Response, header};
use robata_api_types::{LogEntry, LogLine, logs::NDJSON};
use robata_core::JobId;

/// Which part of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogsRequest {
    /// The attempt; default: the last one.
    pub attempt: Option<u32>,
    /// `stdout` or `stderr`; default: both, merged.
    pub stream: Option<String>,
    /// Wait for more until the attempt's log is sealed. A retry's log is another attempt's and is not followed.
    pub follow: bool,
    /// From this byte of the one stream.
    pub offset: Option<u64>,
}

impl Client {
    /// The log as printed.
    pub async fn logs(
        &self,
        id: JobId,
        request: &LogsRequest,
    ) -> Result<impl Stream<Item = Result<Bytes, ClientError>> + use<>, ClientError> {
        let response = self.open(id, request, "text/plain").await?;
        Ok(self.bytes(response))
    }

    /// The log as entries. A stream that does not end with [`LogEntry::End`] ends with an error.
    pub async fn log_entries(
        &self,
        id: JobId,
        request: &LogsRequest,
    ) -> Result<impl Stream<Item = Result<LogEntry, ClientError>> + use<>, ClientError> {
        let response = self.open(id, request, NDJSON).await?;
        let lines = Lines {
            client: self.clone(),
            bytes: self.bytes(response).boxed(),
            rest: BytesMut::new(),
            ended: false,
        };
        Ok(stream::try_unfold(lines, |mut lines| async move {
            Ok(lines.next().await?.map(|entry| (entry, lines)))
        }))
    }

    async fn open(&self, id: JobId, request: &LogsRequest, accept: &str) -> Result<Response, ClientError> {
        let mut query = Vec::new();
        query.extend(request.attempt.map(|number| ("attempt", number.to_string())));
        query.extend(request.stream.clone().map(|stream| ("stream", stream)));
        query.extend(request.offset.map(|offset| ("offset", offset.to_string())));
        query.extend(request.follow.then(|| ("follow", "true".to_owned())));
        let id = id.to_string();
        let path = ["jobs", &id, "logs"];
        let call = if request.follow {
            self.api_endless(Method::GET, &path)
        } else {
            self.api_long(Method::GET, &path)
        };
        self.send(call.query(&query).header(header::ACCEPT, accept)).await
    }

    fn bytes(&self, response: Response) -> impl Stream<Item = Result<Bytes, ClientError>> + use<> {
        let client = self.clone();
        response
            .bytes_stream()
            .map_err(move |source| client.broke_off(Some(source)))
    }
}

/// Cuts a stream of bytes into lines.
struct Lines {
    client: Client,
    bytes: BoxStream<'static, Result<Bytes, ClientError>>,
    rest: BytesMut,
    ended: bool,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<LogEntry>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        // Where the search goes on: a long line is not searched again with each piece.
        let mut searched = 0;
        loop {
            if let Some(end) = self.rest[searched..].iter().position(|&byte| byte == b'\n') {
                let line = self.rest.split_to(searched + end + 1);
                let entry = self.entry(&line)?;
                self.ended = matches!(entry, LogEntry::End { .. });
                return Ok(Some(entry));
            }
            searched = self.rest.len();
            match self.bytes.next().await {
                Some(piece) => self.rest.extend_from_slice(&piece?),
                None => return Err(self.client.broke_off(None)),
            }
        }
    }

    fn entry(&self, line: &[u8]) -> Result<LogEntry, ClientError> {
        serde_json::from_slice::<LogLine>(line)
            .map_err(|error| error.to_string())
            .and_then(LogLine::entry)
            .map_err(|message| ClientError::Log {
                server: self.client.server().to_owned(),
                message,
            })
    }
}

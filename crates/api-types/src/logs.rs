//! An attempt's log as NDJSON: `{t, stream, offset, data | data_base64 | gap}`, ending in `{end, complete}`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use robata_core::{
    Timestamp,
    attempt::{LogState, LogSummary},
    executor::Stream,
    log_store::{Entry, Piece},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The media type that asks for this form.
pub const NDJSON: &str = "application/x-ndjson";

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// When it was printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub t: Option<Timestamp>,
    /// `stdout` or `stderr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The place in the stream, in bytes from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The bytes, where they are UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The bytes, where they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    /// Bytes that are missing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
    /// True on the last line. A stream without a last line was cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<bool>,
    /// On the last line: whether the log is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<bool>,
    /// On the last line: why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Missing bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Gap {
    /// How many, where that is known.
    pub bytes: Option<u64>,
}

/// A line, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEntry {
    /// Output.
    Output {
        /// When it was printed.
        at: Timestamp,
        /// `stdout`, `stderr`.
        stream: String,
        /// The place in the stream.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// Missing bytes.
    Gap {
        /// The stream.
        stream: String,
        /// From.
        offset: u64,
        /// How many, where that is known.
        bytes: Option<u64>,
    },
    /// The end.
    End {
        /// Whether the log is whole.
        complete: bool,
        /// Why it is not.
        reason: Option<String>,
    },
}

impl LogLine {
    /// The line decided; an error says what is wrong with it.
    pub fn entry(self) -> Result<LogEntry, String> {
        if self.end == Some(true) {
            return Ok(LogEntry::End {
                complete: self.complete.unwrap_or(false),
                reason: self.reason,
            });
        }
        let stream = self.stream.ok_or("a line without stream")?;
        let offset = self.offset.ok_or("a line without offset")?;
        if let Some(gap) = self.gap {
            return Ok(LogEntry::Gap {
                stream,
                offset,
                bytes: gap.bytes,
            });
        }
        let data = match (self.data, self.data_base64) {
            (Some(data), None) => Bytes::from(data),
            (None, Some(data)) => STANDARD.decode(data).map_err(|error| error.to_string())?.into(),
            _ => return Err("a line without data".to_owned()),
        };
        Ok(LogEntry::Output {
            at: self.t.unwrap_or_default(),
            stream,
            offset,
            data,
        })
    }
}

impl From<Entry> for LogLine {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::Piece(piece) => piece.into(),
            Entry::Gap { stream, offset, bytes } => Self {
                stream: Some(word(stream)),
                offset: Some(offset),
                gap: Some(Gap { bytes }),
                ..Self::default()
            },
            Entry::End(summary) => summary.into(),
        }
    }
}

impl From<Piece> for LogLine {
    fn from(piece: Piece) -> Self {
        let mut line = Self {
            t: Some(piece.at),
            stream: Some(word(piece.stream)),
            offset: Some(piece.offset),
            ..Self::default()
        };
        match std::str::from_utf8(&piece.data) {
            Ok(text) => line.data = Some(text.to_owned()),
            Err(_) => line.data_base64 = Some(STANDARD.encode(&piece.data)),
        }
        line
    }
}

impl From<LogSummary> for LogLine {
    fn from(summary: LogSummary) -> Self {
        let reason = match summary.state {
            LogState::Open => Some("the log is still being written".to_owned()),
            LogState::Complete | LogState::Incomplete => summary.reason,
        };
        Self {
            end: Some(true),
            complete: Some(summary.state == LogState::Complete),
            reason,
            ..Self::default()
        }
    }
}

fn word(stream: Stream) -> String {
    stream.as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_come_through() {
        for data in [&b"ab\n"[..], b"\xff\x00", b""] {
            let piece = Piece {
                at: Timestamp::from_millis(7),
                stream: Stream::Stderr,
                offset: 3,
                data: Bytes::copy_from_slice(data),
            };
            let line = serde_json::to_string(&LogLine::from(piece)).unwrap();
            let read: LogLine = serde_json::from_str(&line).unwrap();
            let expected = LogEntry::Output {
                at: Timestamp::from_millis(7),
                stream: "stderr".into(),
                offset: 3,
                data: Bytes::copy_from_slice(data),
            };
            assert_eq!(read.entry().unwrap(), expected);
        }
    }

    #[test]
    fn the_last_line_says_whether_the_log_is_whole() {
        let summary = LogSummary {
            state: LogState::Incomplete,
            reason: Some("the disk is full".into()),
            bytes: 3,
        };
        let line = serde_json::to_string(&LogLine::from(summary)).unwrap();
        assert_eq!(line, r#"{"end":true,"complete":false,"reason":"the disk is full"}"#);
    }
}

//! The seam to where attempts' output is kept (PROTOCOL X7).

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::{
    Timestamp,
    attempt::LogSummary,
    error::Result,
    executor::{Position, Stream},
    id::{AttemptId, Epoch},
};

/// A piece of one stream, with the time it was printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// When it was printed.
    pub at: Timestamp,
    /// Which stream.
    pub stream: Stream,
    /// Its place in the stream, in bytes from the beginning.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
}

/// A chunk: pieces of one stream that follow each other without a gap. Named (attempt, stream, offset, epoch).
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Whose.
    pub attempt: AttemptId,
    /// The writer's epoch; readers take the highest epoch at an offset.
    pub epoch: Epoch,
    /// The pieces, of one stream, in the order of their offsets; not empty.
    pub pieces: Vec<Piece>,
    /// From where the executor reads on after this chunk.
    pub position: Position,
}

/// How far an attempt's log has come, for the worker that goes on with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// From where the executor reads on.
    pub position: Position,
    /// Bytes kept of stdout.
    pub stdout: u64,
    /// Bytes kept of stderr.
    pub stderr: u64,
    /// The seal, where it is sealed.
    pub sealed: Option<LogSummary>,
}

impl Progress {
    /// Bytes kept of `stream`.
    #[must_use]
    pub fn bytes(&self, stream: Stream) -> u64 {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }
}

/// A request to seal a log.
#[derive(Clone, Debug)]
pub struct Seal {
    /// Whose.
    pub attempt: AttemptId,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// `Complete`, or `Incomplete` with its reason. The bytes are counted by the log store.
    pub summary: LogSummary,
    /// Where stdout and stderr really ended, where the writer knows that more was printed than it kept: readers are told of
    /// what is missing at the end as a gap.
    pub reach: Option<[u64; 2]>,
}

/// A request to read.
#[derive(Clone, Debug)]
pub struct Read {
    /// Whose.
    pub attempt: AttemptId,
    /// One stream, or both, merged by time.
    pub stream: Option<Stream>,
    /// From this byte of the one stream; with both streams it must be 0.
    pub offset: u64,
    /// Whether to wait for more until the log is sealed.
    pub follow: bool,
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Output.
    Piece(Piece),
    /// These bytes of the stream are missing.
    Gap {
        /// The stream.
        stream: Stream,
        /// From.
        offset: u64,
        /// How many bytes, where that is known.
        bytes: Option<u64>,
    },
    /// The end; `Open` where the log is still written and nobody followed.
    End(LogSummary),
}

/// Where attempts' output is kept.
///
/// # Contract
/// An implementation MUST keep each of these; `robata_testkit::log_store` has a case for every sentence.
///
/// - `append` MUST return only once the chunk is kept, and MUST be idempotent for the same chunk.
/// - A reader MUST get every kept byte once, in order within a stream; at an offset the highest epoch wins.
/// - With both streams, pieces MUST come in the order of their times, and in each stream in the order of offsets.
/// - A reader that follows MUST get what is appended while it waits, and MUST end when the log is sealed.
/// - `seal` MUST be refused as `Fenced` where a higher epoch has sealed; sealing again with the same epoch MUST answer well.
/// - `seal` MUST answer how many bytes are kept, and a stream with a gap MUST NOT be called complete. Where it says that a
///   stream went further than what is kept, readers MUST get the rest as a gap.
/// - `progress` MUST give the position of the chunk that reaches furthest, and nothing for an unknown attempt.
/// - `delete` MUST remove all of an attempt's log; of an unknown one it MUST answer well.
/// - A half-written chunk MUST NOT be read.
#[async_trait]
pub trait LogStore: fmt::Debug + Send + Sync + 'static {
    /// Keeps a chunk.
    async fn append(&self, chunk: Chunk) -> Result<()>;

    /// How far the log has come.
    async fn progress(&self, attempt: AttemptId) -> Result<Progress>;

    /// Ends the log, and says what it holds.
    async fn seal(&self, seal: Seal) -> Result<LogSummary>;

    /// Reads.
    async fn read(&self, read: Read) -> Result<BoxStream<'static, Result<Entry>>>;

    /// Removes logs.
    async fn delete(&self, attempts: &[AttemptId]) -> Result<()>;

    /// Whether it can be written now; tried for real, within `timeout`.
    async fn check(&self, timeout: Duration) -> Result<()>;
}

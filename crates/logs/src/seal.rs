//! The end of a log: one object that lists the chunks that count (PROTOCOL X7), and how it comes to be.

use std::{collections::BTreeSet, time::Duration};

use robata_core::{
    AttemptId, Epoch,
    attempt::{LogState, LogSummary},
    executor::{Position, Stream},
    log_store::Seal,
};
use serde::{Deserialize, Serialize};

use crate::{
    config::LogsConfig,
    cursor::Cursor,
    error::{LogsError, Result, missing},
    merge,
    name::{self, ChunkName},
    objects::Objects,
    open::{Open, Plan, View},
    plan::holes,
};

/// The format that is written, and the last one that is read (PROTOCOL V1).
const FORMAT: u8 = 1;
/// Between planning and reading chunks can go away or turn out to be damaged; each time one chunk less is left.
pub(crate) const TRIES: usize = 10_000;

/// What a seal says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    format: u8,
    pub(crate) epoch: Epoch,
    state: LogState,
    reason: Option<String>,
    /// Bytes kept, of both streams.
    bytes: u64,
    /// Where each stream ends.
    stdout: u64,
    stderr: u64,
    pub(crate) position: Position,
    /// The names of the chunks that count; `None` where the seal itself is damaged.
    chunks: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u8,
}

impl Record {
    /// Reads the seal of `epoch`; `None` where it is gone again.
    pub(crate) async fn read(objects: &Objects, attempt: AttemptId, epoch: Epoch) -> Result<Option<Self>> {
        let bytes = match objects.get(&name::seal_path(attempt, epoch)).await {
            Ok(bytes) => bytes,
            Err(fault) if fault.is_gone() => return Ok(None),
            Err(fault) => return Err(fault),
        };
        if let Ok(FormatOnly { format }) = serde_json::from_slice(&bytes)
            && format > FORMAT
        {
            return Err(LogsError::TooNew {
                name: name::seal_file_name(epoch),
                format,
                reads: FORMAT,
            });
        }
        match serde_json::from_slice::<Self>(&bytes) {
            Ok(record) if record.epoch == epoch => Ok(Some(record)),
            // The log did end; what of it counts must be found from the chunks.
            _ => Ok(Some(Self::damaged(epoch))),
        }
    }

    fn damaged(epoch: Epoch) -> Self {
        Self {
            format: FORMAT,
            epoch,
            state: LogState::Incomplete,
            reason: Some("the seal of this log is damaged".to_owned()),
            bytes: 0,
            stdout: 0,
            stderr: 0,
            position: Position::default(),
            chunks: None,
        }
    }

    pub(crate) fn summary(&self) -> LogSummary {
        LogSummary {
            state: self.state,
            reason: self.reason.clone(),
            bytes: self.bytes,
        }
    }

    pub(crate) fn reach(&self, stream: Stream) -> u64 {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }

    /// The chunks that count; `None` where the seal does not say.
    pub(crate) fn chunks(&self) -> Option<BTreeSet<ChunkName>> {
        self.chunks
            .as_ref()?
            .iter()
            .map(|name| ChunkName::parse(name))
            .collect()
    }
}

/// A fault, and the chunk that it is about.
pub(crate) enum Fault {
    Chunk(ChunkName, LogsError),
    Other(LogsError),
}

impl From<LogsError> for Fault {
    fn from(error: LogsError) -> Self {
        Self::Other(error)
    }
}

/// Seals a log, and answers what it holds.
pub(crate) async fn seal(objects: &Objects, config: &LogsConfig, open: &Open, seal: Seal) -> Result<LogSummary> {
    let attempt = seal.attempt;
    if seal.summary.state == LogState::Open {
        return Err(LogsError::OpenSeal { attempt });
    }
    open.refresh(objects, Duration::ZERO).await?;
    if let Some(record) = open.seal() {
        if record.epoch > seal.epoch {
            return Err(LogsError::Fenced {
                attempt,
                sealed: record.epoch,
                epoch: seal.epoch,
            });
        }
        // A damaged one is written anew.
        if record.epoch == seal.epoch && record.chunks.is_some() {
            return Ok(record.summary());
        }
    }
    for _ in 0..TRIES {
        match settle(objects, config, open, &seal).await {
            Ok(record) => {
                let summary = record.summary();
                clear(objects, open, record).await;
                return Ok(summary);
            }
            Err(Fault::Chunk(chunk, fault)) => open.gave_way(objects, chunk, fault).await?,
            Err(Fault::Other(fault)) => return Err(fault),
        }
    }
    Err(LogsError::Restless { attempt })
}

async fn settle(objects: &Objects, config: &LogsConfig, open: &Open, seal: &Seal) -> Result<Record, Fault> {
    let position = position(objects, open).await?;
    let mut record = Record {
        format: FORMAT,
        epoch: seal.epoch,
        state: seal.summary.state,
        reason: seal.summary.reason.clone(),
        bytes: 0,
        stdout: 0,
        stderr: 0,
        position,
        chunks: None,
    };
    let mut chunks = Vec::new();
    let mut gaps = Vec::new();
    for stream in Stream::ALL {
        let Plan { segments, reach } = open.plan(stream, 0, View::Writer);
        record.bytes += segments.iter().map(|segment| segment.to - segment.from).sum::<u64>();
        gaps.extend(
            holes(&segments, reach)
                .into_iter()
                .map(|(from, to)| missing(stream, from, to)),
        );
        let (at, place) = match stream {
            Stream::Stdout => (0, &mut record.stdout),
            Stream::Stderr => (1, &mut record.stderr),
        };
        let told = seal.reach.map_or(0, |reach| reach[at]);
        *place = reach.max(told);
        if reach < told && record.state == LogState::Complete {
            // Left out on purpose the writer gives the reason itself.
            gaps.push(missing(stream, reach, told));
        }
        chunks.extend(merge::merged(objects, config, open, seal.epoch, &record.position, segments).await?);
    }
    if !gaps.is_empty() {
        record.state = LogState::Incomplete;
        gaps.truncate(5);
        let gaps = gaps.join(", ");
        record.reason = Some(
            record
                .reason
                .map_or_else(|| gaps.clone(), |reason| format!("{reason}; {gaps}")),
        );
    }
    record.chunks = Some(chunks.iter().map(ChunkName::file_name).collect());
    let bytes = serde_json::to_vec(&record).map_err(|_| LogsError::damaged("seal", "it cannot be written as JSON"))?;
    objects.put(&name::seal_path(open.attempt, seal.epoch), bytes).await?;
    Ok(record)
}

/// The position of the chunk that was written last, of those that are whole.
pub(crate) async fn position(objects: &Objects, open: &Open) -> Result<Position, Fault> {
    let Some(last) = open.ranked().first().copied() else {
        return Ok(Position::default());
    };
    prove(objects, open, last).await
}

/// The same for who goes on with the log: each stream's last chunk must be whole, too.
pub(crate) async fn furthest(objects: &Objects, open: &Open) -> Result<Position, Fault> {
    for stream in Stream::ALL {
        let chunks = open.ranked().into_iter().filter(|chunk| chunk.stream == stream);
        if let Some(last) = chunks.max_by_key(|chunk| chunk.end) {
            prove(objects, open, last).await?;
        }
    }
    position(objects, open).await
}

/// Reads a chunk through, unless this process has written or read it before.
pub(crate) async fn prove(objects: &Objects, open: &Open, chunk: ChunkName) -> Result<Position, Fault> {
    if let Some(position) = open.position(&chunk) {
        return Ok(position);
    }
    let size = open.size(&chunk).unwrap_or(0);
    let read = async {
        Cursor::open(objects, open.attempt, chunk, size)
            .await?
            .verify(objects)
            .await
    };
    let position = read.await.map_err(|fault| Fault::Chunk(chunk, fault))?;
    open.proved(chunk, position.clone());
    Ok(position)
}

/// Removes what the seal made superfluous. It counts no more, so that a fault here is told and not handed on.
async fn clear(objects: &Objects, open: &Open, record: Record) {
    let kept = record.chunks().unwrap_or_default();
    let epoch = record.epoch;
    open.sealed(record);
    let paths: Vec<_> = open
        .take_superseded(epoch, &kept)
        .iter()
        .map(|chunk| chunk.path(open.attempt))
        .collect();
    if paths.is_empty() {
        return;
    }
    if let Err(fault) = objects.delete(paths).await {
        tracing::warn!(attempt = %open.attempt, %fault, "merged chunks stay until the log is deleted");
    }
}

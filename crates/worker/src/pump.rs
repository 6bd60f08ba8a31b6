//! From an engine's output to the log store, in chunks, with bounded memory (PROTOCOL X7).
//!
//! What was not kept yet is read again from the engine: the engine is the spool, and nothing is held beside one chunk and what
//! may be the beginning of a secret.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{BoxStream, Fuse},
};
use robata_core::{
    AttemptId, Epoch, Error, ErrorKind, Timestamp,
    executor::{Handle, Output, ReadOutput, Stream},
    log_store::{Chunk, Piece},
};
use tokio::{sync::watch, time::Instant};

use crate::{
    attempt::Attempt,
    backoff::Backoff,
    engine::Engine,
    held::Wishes,
    mask::Mask,
    secrets::AttemptSecrets,
    shared::Shared,
    tape::{Mark, Tape, index},
};

/// A chunk is written at this size.
const CHUNK_BYTES: usize = 256 << 10;
/// Or after this time, which doubles with each chunk of a quiet attempt.
const FIRST_FLUSH: Duration = Duration::from_secs(1);
/// Up to this.
const SLOWEST_FLUSH: Duration = Duration::from_secs(15);
/// While somebody follows.
const FOLLOWED_FLUSH: Duration = Duration::from_millis(100);

/// How reading the output ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// To the end: so many bytes of both streams.
    Whole(u64),
    /// Something is missing, for this reason.
    Incomplete(String),
    /// More was printed than is to be kept: where both streams really ended.
    Limited([u64; 2]),
}

/// The reason of a log that is incomplete because more was printed than is to be kept.
pub(crate) const LOG_LIMIT: &str = "log_limit";

/// The task that reads one attempt's output; aborted when dropped.
#[derive(Debug)]
pub(crate) struct Pump(tokio::task::JoinHandle<Read>);

impl Pump {
    pub(crate) async fn finish(&mut self) -> Read {
        match (&mut self.0).await {
            Ok(read) => read,
            Err(error) => Read::Incomplete(format!("reading the output failed: {error}")),
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to read.
pub(crate) fn spawn(attempt: &Attempt, handle: &Handle) -> Pump {
    let reader = Reader {
        shared: Arc::clone(&attempt.shared),
        engine: Arc::clone(&attempt.engine),
        attempt: attempt.held.id,
        epoch: attempt.holding.epoch,
        handle: handle.clone(),
        secrets: Arc::clone(&attempt.secrets),
        wishes: attempt.holding.wishes.clone(),
        limit: attempt
            .held
            .request
            .definition
            .log_limit
            .map_or(u64::MAX, |limit| limit.bytes),
    };
    Pump(attempt.shared.tasks.spawn(reader.run()))
}

struct Reader {
    shared: Arc<Shared>,
    engine: Arc<Engine>,
    attempt: AttemptId,
    epoch: Epoch,
    handle: Handle,
    secrets: Arc<AttemptSecrets>,
    wishes: watch::Receiver<Wishes>,
    /// Bytes to keep of both streams.
    limit: u64,
}

/// What was read and is not kept yet.
#[derive(Default)]
struct Buffer {
    pieces: [Vec<Piece>; 2],
    bytes: usize,
}

impl Reader {
    async fn run(self) -> Read {
        let mut mark = Mark::default();
        // Nothing can be kept of an attempt that nobody held before.
        if self.epoch > 1 {
            mark = self.progress().await;
        }
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            // Asked each time: a prepare tried again may have brought another value.
            let mask = self.secrets.mask(&*self.engine.executor, &self.handle).await;
            match self.read(&mut mark, mask).await {
                Ok(None) => return Read::Whole(mark.kept()),
                Ok(Some(reach)) => return Read::Limited(reach),
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tracing::warn!(attempt = %self.attempt, error = %error.full(), "the output cannot be read or kept now");
                    backoff.wait().await;
                }
                Err(error) => return Read::Incomplete(error.full()),
            }
        }
    }

    async fn progress(&self) -> Mark {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            match self.shared.logs.progress(self.attempt).await {
                Ok(progress) => return Mark::decode(&progress.position).unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(attempt = %self.attempt, error = %error.full(), "the log cannot be read now")
                }
            }
            backoff.wait().await;
        }
    }

    /// Reads from `mark` to the end; `mark` moves with what is kept. Answers where both streams ended if that is beyond the
    /// limit.
    async fn read(&self, mark: &mut Mark, mask: Option<Arc<Mask>>) -> Result<Option<[u64; 2]>, Error> {
        let request = ReadOutput {
            handle: self.handle.clone(),
            from: mark.engine.clone(),
            follow: true,
        };
        let output = self.engine.executor.output(request).await;
        let mut output = output.map_err(|error| self.secrets.error(error))?.fuse();
        let mut tape = Tape::new(mark, mask);
        let mut wishes = self.wishes.clone();
        let mut buffer = Buffer::default();
        let mut next = mark.clone();
        let mut flush_after = FIRST_FLUSH;
        let mut first_at: Option<Instant> = None;
        let mut last_at = None;
        loop {
            let patience = if followed(&wishes) { FOLLOWED_FLUSH } else { flush_after };
            tokio::select! {
                piece = output.next() => {
                    let (decided, ended) = match piece {
                        Some(Ok(piece)) => {
                            last_at = Some(piece.at);
                            let (at, stream) = (piece.at, piece.stream);
                            (vec![(at, stream, tape.push(piece))], false)
                        }
                        Some(Err(error)) => {
                            self.flush(&mut buffer, mark, &next).await?;
                            return Err(self.secrets.error(error));
                        }
                        // What was held back was printed with the last of what was read.
                        None => {
                            let rests = last_at.into_iter().flat_map(|at| Stream::ALL.map(|stream| (at, stream)));
                            (rests.map(|(at, stream)| (at, stream, tape.end(stream))).collect(), true)
                        }
                    };
                    let bytes: u64 = decided.iter().map(|(_, _, data)| data.len() as u64).sum();
                    if bytes > self.limit.saturating_sub(next.kept()) {
                        self.flush(&mut buffer, mark, &next).await?;
                        return self.beyond(mark, decided, &mut tape, output).await.map(Some);
                    }
                    for (at, stream, data) in decided {
                        buffer.take(&mut next.offsets, at, stream, data);
                    }
                    next = tape.mark(next.offsets);
                    if ended {
                        return self.flush(&mut buffer, mark, &next).await.map(|()| None);
                    }
                    first_at.get_or_insert_with(Instant::now);
                    if buffer.bytes >= CHUNK_BYTES {
                        self.flush(&mut buffer, mark, &next).await?;
                        first_at = None;
                        flush_after = FIRST_FLUSH;
                    }
                }
                () = sleep_until(first_at.map(|at| at + patience)) => {
                    self.flush(&mut buffer, mark, &next).await?;
                    first_at = None;
                    flush_after = (flush_after * 2).min(SLOWEST_FLUSH);
                }
                Ok(()) = wishes.changed() => {}
            }
        }
    }

    /// Keeps what there is room for, and reads the rest only to count it: nobody who prints is held up.
    async fn beyond(
        &self,
        mark: &Mark,
        decided: Vec<(Timestamp, Stream, Bytes)>,
        tape: &mut Tape,
        mut output: Fuse<BoxStream<'static, Result<Output, Error>>>,
    ) -> Result<[u64; 2], Error> {
        tracing::info!(attempt = %self.attempt, limit = self.limit, "it has printed more than is kept");
        let mut reach = mark.offsets;
        let mut offsets = mark.offsets;
        let mut buffer = Buffer::default();
        let mut room = self.limit.saturating_sub(mark.kept());
        for (at, stream, data) in decided {
            reach[index(stream)] += data.len() as u64;
            let kept = data.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            room -= kept as u64;
            buffer.take(&mut offsets, at, stream, data.slice(..kept));
        }
        // The mark stays before this piece: whoever goes on from here reads it, and what follows, again.
        self.flush(&mut buffer, &mut mark.clone(), mark).await?;
        while let Some(piece) = output.next().await {
            let piece = piece.map_err(|error| self.secrets.error(error))?;
            let at = index(piece.stream);
            reach[at] += tape.push(piece).len() as u64;
        }
        for stream in Stream::ALL {
            reach[index(stream)] += tape.end(stream).len() as u64;
        }
        Ok(reach)
    }

    /// Keeps what was read. The last chunk alone carries the new position: before it is kept, not all of both streams is.
    async fn flush(&self, buffer: &mut Buffer, mark: &mut Mark, next: &Mark) -> Result<(), Error> {
        let mut chunks: Vec<_> = std::mem::take(&mut buffer.pieces)
            .into_iter()
            .filter(|pieces| !pieces.is_empty())
            .collect();
        buffer.bytes = 0;
        let last = chunks.pop();
        for (pieces, position) in chunks
            .into_iter()
            .map(|chunk| (chunk, &*mark))
            .chain(last.map(|chunk| (chunk, next)))
        {
            let chunk = Chunk {
                attempt: self.attempt,
                epoch: self.epoch,
                pieces,
                position: position.encode(),
            };
            self.shared.logs.append(chunk).await.map_err(unavailable)?;
        }
        *mark = next.clone();
        Ok(())
    }
}

/// A log store that cannot keep a chunk is tried again, whatever it says: the output is still in the engine.
fn unavailable(error: Error) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "worker.pump",
        "the log store does not keep the output",
    )
    .with_source(error)
}

impl Buffer {
    fn take(&mut self, offsets: &mut [u64; 2], printed_at: Timestamp, stream: Stream, mut data: Bytes) {
        let at = index(stream);
        self.bytes += data.len();
        // One piece is at most one chunk.
        while !data.is_empty() {
            let part = data.split_to(data.len().min(CHUNK_BYTES));
            let length = part.len() as u64;
            self.pieces[at].push(Piece {
                at: printed_at,
                stream,
                offset: offsets[at],
                data: part,
            });
            offsets[at] += length;
        }
    }
}

fn followed(wishes: &watch::Receiver<Wishes>) -> bool {
    wishes
        .borrow()
        .followed_until
        .is_some_and(|until| until > Instant::now())
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

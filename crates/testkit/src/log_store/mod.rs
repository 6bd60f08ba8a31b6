//! The LogStore suite: one case for every sentence of the contract in `robata_core::log_store`.
//!
//! `robata_testkit::log_store_suite!(make)` makes one test of each case; `make` is an async closure that answers a
//! [`Place`]. Every case writes logs of its own attempts, so that a place may be shared by all of them.

use std::{fmt, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use robata_core::{
    AttemptId, Epoch, JobId, Timestamp,
    attempt::{LogState, LogSummary},
    executor::{Position, Stream},
    log_store::{Chunk, Entry, LogStore, Piece, Read, Seal},
};

mod append;
mod follow;
mod progress;
mod read;
mod seal;
mod torn;

pub use append::*;
pub use follow::*;
pub use progress::*;
pub use read::*;
pub use seal::*;
pub use torn::*;

/// How long a follower may take to see what another process has written (PROTOCOL X7 allows a second or two).
pub const SOON: Duration = Duration::from_secs(10);

type Reopen = Box<dyn Fn() -> Result<Arc<dyn LogStore>> + Send + Sync>;
type Tear = Box<dyn Fn(AttemptId) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// What a case works with.
pub struct Place {
    /// The log store.
    pub logs: Arc<dyn LogStore>,
    /// Another one on the same place, as another process would have it.
    pub reopen: Reopen,
    /// Cuts the chunk of an attempt that was written last in the middle, as a crash or a full disk would.
    pub tear: Tear,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("logs", &self.logs)
            .finish_non_exhaustive()
    }
}

impl Place {
    /// A place, and what the cases do to it.
    pub fn new<L: LogStore, F>(
        open: impl Fn() -> Result<L> + Send + Sync + 'static,
        tear: impl Fn(AttemptId) -> F + Send + Sync + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Ok(Self {
            logs: Arc::new(open()?),
            reopen: Box::new(move || Ok(Arc::new(open()?) as Arc<dyn LogStore>)),
            tear: Box::new(move |attempt| Box::pin(tear(attempt))),
        })
    }

    /// The same place, as another process sees it.
    pub fn elsewhere(&self) -> Result<Arc<dyn LogStore>> {
        (self.reopen)().context("opening the same place again")
    }
}

pub(crate) fn attempt() -> AttemptId {
    AttemptId {
        job: JobId::new(),
        number: 1,
    }
}

/// A chunk of `stream` whose pieces are printed one millisecond after another from `at` on.
pub(crate) fn chunk(
    attempt: AttemptId,
    epoch: Epoch,
    stream: Stream,
    offset: u64,
    at: i64,
    pieces: &[impl AsRef<[u8]>],
) -> Chunk {
    let mut next = offset;
    let pieces: Vec<_> = pieces
        .iter()
        .zip(at..)
        .map(|(data, at)| {
            let data = Bytes::copy_from_slice(data.as_ref());
            let piece = Piece {
                at: Timestamp::from_millis(at),
                stream,
                offset: next,
                data,
            };
            next += piece.data.len() as u64;
            piece
        })
        .collect();
    Chunk {
        attempt,
        epoch,
        pieces,
        position: Position(format!("{}@{next}", stream.as_str())),
    }
}

pub(crate) fn stdout(attempt: AttemptId, epoch: Epoch, offset: u64, text: &str) -> Chunk {
    chunk(attempt, epoch, Stream::Stdout, offset, 1000, &[text])
}

pub(crate) fn read(attempt: AttemptId, stream: Option<Stream>, offset: u64, follow: bool) -> Read {
    Read {
        attempt,
        stream,
        offset,
        follow,
    }
}

pub(crate) fn complete() -> LogSummary {
    LogSummary {
        state: LogState::Complete,
        reason: None,
        bytes: 0,
    }
}

pub(crate) async fn seal(logs: &dyn LogStore, attempt: AttemptId, epoch: Epoch) -> Result<LogSummary> {
    Ok(logs
        .seal(Seal {
            attempt,
            epoch,
            summary: complete(),
            reach: None,
        })
        .await?)
}

/// What a reader got, put together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// The pieces' times, as they came.
    pub(crate) times: Vec<i64>,
    pub(crate) gaps: Vec<(Stream, u64, Option<u64>)>,
    pub(crate) end: Option<LogSummary>,
}

impl Got {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap_or("(no text)")
    }

    /// Takes an entry in, and fails where it does not follow what came before.
    fn take(&mut self, entry: Entry, next: &mut [u64; 2]) -> Result<()> {
        anyhow::ensure!(self.end.is_none(), "after the end came {entry:?}");
        let index = |stream| usize::from(stream == Stream::Stderr);
        match entry {
            Entry::Piece(piece) => {
                let next = &mut next[index(piece.stream)];
                anyhow::ensure!(
                    piece.offset == *next,
                    "{:?} at {} where {next} was due",
                    piece.stream,
                    piece.offset
                );
                anyhow::ensure!(!piece.data.is_empty(), "an empty piece");
                *next += piece.data.len() as u64;
                self.times.push(piece.at.as_millis());
                match piece.stream {
                    Stream::Stdout => self.stdout.extend_from_slice(&piece.data),
                    Stream::Stderr => self.stderr.extend_from_slice(&piece.data),
                }
            }
            Entry::Gap { stream, offset, bytes } => {
                let next = &mut next[index(stream)];
                anyhow::ensure!(offset == *next, "a gap at {offset} where {next} was due");
                *next += bytes.unwrap_or(0);
                self.gaps.push((stream, offset, bytes));
            }
            Entry::End(summary) => self.end = Some(summary),
        }
        Ok(())
    }
}

/// Reads to the end.
pub(crate) async fn all(logs: &dyn LogStore, request: Read) -> Result<Got> {
    let offset = request.offset;
    drain(logs.read(request).await?, offset, Duration::ZERO).await
}

/// Reads to the end, and rests after each entry.
pub(crate) async fn drain(
    mut stream: BoxStream<'static, robata_core::Result<Entry>>,
    offset: u64,
    rest: Duration,
) -> Result<Got> {
    let mut got = Got::default();
    let mut next = [offset; 2];
    while let Some(entry) = stream.next().await {
        got.take(entry?, &mut next)?;
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
    }
    anyhow::ensure!(got.end.is_some(), "the stream ended without saying so");
    Ok(got)
}

/// Bytes that look like nothing else, the same every time.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Makes one `#[tokio::test]` of each case of the LogStore suite.
///
/// `$make` is an async closure that answers `anyhow::Result<`[`Place`](crate::log_store::Place)`>`.
#[macro_export]
macro_rules! log_store_suite {
    ($make:expr) => {
        $crate::log_store_suite! { @cases $make;
            a_chunk_is_kept_when_append_returns,
            the_same_chunk_again_changes_nothing,
            a_chunk_that_is_none_is_refused,
            attempts_do_not_mix,
            check_tries_for_real,
            a_reader_gets_every_byte_once_and_in_order,
            a_read_from_an_offset_goes_on_from_there,
            an_offset_of_both_streams_is_refused,
            the_highest_epoch_wins_at_an_offset,
            an_epoch_may_begin_in_the_middle_of_an_older_chunk,
            what_was_written_again_in_one_epoch_is_read_once,
            both_streams_come_in_the_order_of_their_times,
            a_clock_that_goes_back_does_not_turn_a_stream_around,
            what_is_missing_is_told_as_a_gap,
            an_unknown_log_is_open_and_empty,
            bytes_that_are_no_text_come_through,
            a_line_of_a_megabyte_comes_through,
            a_large_log_comes_through,
            a_follower_gets_what_is_appended_while_it_waits,
            a_follower_may_come_before_the_first_byte,
            a_follower_elsewhere_sees_what_is_appended_here,
            followers_from_everywhere_get_the_same,
            a_follower_ends_with_the_seal,
            a_reader_is_not_disturbed_by_the_seal,
            dropping_a_follower_disturbs_nobody,
            a_seal_of_a_lower_epoch_is_fenced,
            sealing_again_with_the_same_epoch_answers_well,
            a_higher_epoch_seals_again,
            a_seal_answers_how_many_bytes_are_kept,
            a_stream_with_a_gap_is_not_called_complete,
            an_incomplete_log_keeps_its_reason,
            what_was_left_out_at_the_end_is_told_as_a_gap,
            a_log_that_should_go_further_is_not_called_complete,
            a_seal_must_say_how_the_log_ended,
            a_sealed_log_without_output_is_its_end,
            a_log_of_many_chunks_is_the_same_after_its_seal,
            what_an_old_writer_appends_after_the_seal_does_not_count,
            progress_gives_the_position_of_the_furthest_chunk,
            progress_goes_on_elsewhere,
            progress_of_an_unknown_log_is_nothing,
            progress_tells_of_the_seal,
            delete_removes_all_of_an_attempt_and_nothing_else,
            deleting_an_unknown_log_answers_well,
            a_half_written_chunk_is_not_read,
            a_log_with_a_half_written_chunk_is_not_called_complete,
            progress_stops_before_a_half_written_chunk,
            a_half_written_chunk_may_be_written_again,
        }
    };
    (@cases $make:expr; $($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::case::run(stringify!($case), async {
                    let place = $crate::case::made::<$crate::log_store::Place>($make).await?;
                    $crate::log_store::$case(place).await
                })
                .await;
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_case_that_is_written_is_in_the_macro() {
        crate::case::all_listed(
            include_str!("mod.rs"),
            &[
                include_str!("append.rs"),
                include_str!("follow.rs"),
                include_str!("progress.rs"),
                include_str!("read.rs"),
                include_str!("seal.rs"),
                include_str!("torn.rs"),
            ],
        );
    }
}

//! What this process knows of one attempt's log: shared by its writer and its followers, so that a follower here is
//! woken at once and lists nothing for what was written here.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use robata_core::{
    AttemptId, Epoch,
    attempt::LogSummary,
    executor::{Position, Stream},
};
use tokio::{sync::watch, time::Instant};

use crate::{
    error::{LogsError, Result},
    name::ChunkName,
    objects::Objects,
    plan::{Segment, plan},
    seal::Record,
};

#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) attempt: AttemptId,
    known: Mutex<Known>,
    /// One listing at a time, however many followers want one.
    listing: tokio::sync::Mutex<()>,
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Known {
    /// With their objects' sizes.
    chunks: BTreeMap<ChunkName, u64>,
    /// Written here, or read whole: with the position in them.
    sound: BTreeMap<ChunkName, Position>,
    /// Damaged.
    lost: BTreeSet<ChunkName>,
    seal: Option<Record>,
    next_sequence: u64,
    listed: Option<Instant>,
    deleted: bool,
}

/// A stream's plan at one moment.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) segments: VecDeque<Segment>,
    /// Where the stream ends by all that is known, damaged chunks included.
    pub(crate) reach: u64,
}

/// Whose view of a sealed log: a reader's is what the seal lists; who holds the attempt since then sees what it added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Reader,
    Writer,
}

/// What is to be done with a chunk that a writer brings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Write it under this name.
    Write(ChunkName),
    /// It is kept already.
    Kept,
}

impl Open {
    pub(crate) fn new(attempt: AttemptId) -> Self {
        Self {
            attempt,
            known: Mutex::default(),
            listing: tokio::sync::Mutex::default(),
            version: watch::Sender::new(0),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing that holds the lock can panic halfway through a change.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Changes with everything that a reader may want to see.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Lists the attempt's folder, unless somebody here has done so within `max_age`.
    pub(crate) async fn refresh(&self, objects: &Objects, max_age: Duration) -> Result<()> {
        let asked = Instant::now();
        let _one = self.listing.lock().await;
        // A listing that began after this call is as good as one of its own.
        if self
            .known()
            .listed
            .is_some_and(|listed| listed >= asked || listed.elapsed() < max_age)
        {
            return Ok(());
        }
        let begun = Instant::now();
        let listing = objects.list(self.attempt).await?;
        let known_seal = self.seal().map(|record| record.epoch);
        let seal = match listing.seals.iter().max() {
            Some(epoch) if Some(*epoch) > known_seal => Record::read(objects, self.attempt, *epoch).await?,
            _ => None,
        };
        let mut known = self.known();
        let before = known.chunks.len();
        for (chunk, size) in listing.chunks {
            known.next_sequence = known.next_sequence.max(chunk.sequence + 1);
            // Added to what is known, not put in its place: an append may have ended while this listing was under way.
            known.chunks.insert(chunk, size);
        }
        known.listed = Some(begun);
        let news = known.chunks.len() != before || seal.is_some();
        if seal.is_some() {
            known.seal = seal;
        }
        drop(known);
        if news {
            self.changed();
        }
        Ok(())
    }

    /// Whether the folder was ever listed.
    pub(crate) fn was_never_listed(&self) -> bool {
        self.known().listed.is_none()
    }

    /// Whether and under which name a chunk of these bytes is to be written.
    pub(crate) fn admit(&self, wanted: ChunkName, position: &Position) -> Result<Admission> {
        let mut known = self.known();
        let same = |name: &ChunkName| ChunkName { sequence: 0, ..*name } == ChunkName { sequence: 0, ..wanted };
        if known
            .sound
            .iter()
            .any(|(name, at)| same(name) && at == position && !known.lost.contains(name))
        {
            return Ok(Admission::Kept);
        }
        if let Some(seal) = &known.seal {
            if seal.epoch > wanted.epoch {
                return Err(LogsError::Fenced {
                    attempt: self.attempt,
                    sealed: seal.epoch,
                    epoch: wanted.epoch,
                });
            }
            if seal.epoch == wanted.epoch {
                let kept = seal.reach(wanted.stream);
                if wanted.end <= kept {
                    return Ok(Admission::Kept);
                }
                let stream = wanted.stream.as_str();
                return Err(LogsError::Sealed {
                    attempt: self.attempt,
                    stream,
                    kept,
                });
            }
        }
        let sequence = known.next_sequence;
        known.next_sequence += 1;
        Ok(Admission::Write(ChunkName { sequence, ..wanted }))
    }

    /// A number for a chunk that is about to be written.
    pub(crate) fn next_sequence(&self) -> u64 {
        let mut known = self.known();
        known.next_sequence += 1;
        known.next_sequence - 1
    }

    /// A chunk was written here.
    pub(crate) fn add(&self, name: ChunkName, size: u64, position: Position) {
        let mut known = self.known();
        known.chunks.insert(name, size);
        known.sound.insert(name, position);
        drop(known);
        self.changed();
    }

    /// A chunk was read whole.
    pub(crate) fn proved(&self, name: ChunkName, position: Position) {
        self.known().sound.insert(name, position);
    }

    /// A chunk cannot be read: damaged for ever, or removed since it was listed. Any other fault is the caller's.
    pub(crate) async fn gave_way(&self, objects: &Objects, chunk: ChunkName, fault: LogsError) -> Result<()> {
        if fault.is_loss() {
            tracing::warn!(attempt = %self.attempt, %fault, "a part of a log is lost");
            self.known().lost.insert(chunk);
            Ok(())
        } else if fault.is_gone() {
            {
                let mut known = self.known();
                known.chunks.remove(&chunk);
                known.sound.remove(&chunk);
            }
            self.refresh(objects, Duration::ZERO).await
        } else {
            Err(fault)
        }
    }

    pub(crate) fn seal(&self) -> Option<Record> {
        self.known().seal.clone()
    }

    /// The seal's summary; where the seal itself is damaged, with the bytes that are there.
    pub(crate) fn summary(&self) -> Option<LogSummary> {
        let record = self.seal()?;
        let mut summary = record.summary();
        if record.chunks().is_none() {
            summary.bytes = self.kept();
        }
        Some(summary)
    }

    /// Bytes that can be read, of both streams.
    pub(crate) fn kept(&self) -> u64 {
        Stream::ALL
            .iter()
            .flat_map(|stream| self.plan(*stream, 0, View::Reader).segments)
            .map(|segment| segment.to - segment.from)
            .sum()
    }

    /// Where a stream ends, by the chunks that can be read.
    pub(crate) fn end(&self, stream: Stream) -> u64 {
        self.known()
            .counting(View::Writer)
            .iter()
            .filter(|chunk| chunk.stream == stream)
            .map(|chunk| chunk.end)
            .max()
            .unwrap_or(0)
    }

    /// The log is sealed, by this process.
    pub(crate) fn sealed(&self, record: Record) {
        self.known().seal = Some(record);
        self.changed();
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.known().deleted
    }

    pub(crate) fn deleted(&self) {
        *self.known() = Known {
            deleted: true,
            ..Known::default()
        };
        self.changed();
    }

    /// The plan of a stream from byte `from` on: of the sealed chunks, where it is sealed.
    pub(crate) fn plan(&self, stream: Stream, from: u64, view: View) -> Plan {
        let known = self.known();
        let reach = known.reach(stream, view);
        let counting = known.counting(view);
        Plan {
            segments: plan(counting.iter().copied(), stream, from),
            reach,
        }
    }

    /// Every chunk that may count, those written last first.
    pub(crate) fn ranked(&self) -> Vec<ChunkName> {
        let known = self.known();
        let mut chunks: Vec<_> = known.counting(View::Writer).into_iter().copied().collect();
        chunks.sort_unstable_by_key(|chunk| std::cmp::Reverse(chunk.rank()));
        chunks
    }

    /// The size of a chunk's object; `None` where it is gone.
    pub(crate) fn size(&self, chunk: &ChunkName) -> Option<u64> {
        self.known().chunks.get(chunk).copied()
    }

    /// The position in a chunk that is known to be whole.
    pub(crate) fn position(&self, chunk: &ChunkName) -> Option<Position> {
        self.known().sound.get(chunk).cloned()
    }

    /// Takes what a seal of `epoch` made superfluous out of what is known; damaged chunks stay, for a person to look at.
    pub(crate) fn take_superseded(&self, epoch: Epoch, kept: &BTreeSet<ChunkName>) -> Vec<ChunkName> {
        let mut known = self.known();
        let gone: Vec<_> = known
            .chunks
            .keys()
            .filter(|chunk| chunk.epoch <= epoch && !kept.contains(chunk) && !known.lost.contains(chunk))
            .copied()
            .collect();
        for chunk in &gone {
            known.chunks.remove(chunk);
            known.sound.remove(chunk);
        }
        gone
    }
}

impl Known {
    fn counting(&self, view: View) -> Vec<&ChunkName> {
        let readable = self.chunks.keys().filter(|chunk| !self.lost.contains(chunk));
        let Some((seal, listed)) = self.seal.as_ref().and_then(|seal| Some((seal, seal.chunks()?))) else {
            return readable.collect();
        };
        // Where one of the sealed chunks is missing, whatever else there is may still have its bytes.
        if !listed.iter().all(|chunk| self.chunks.contains_key(chunk)) {
            return readable.collect();
        }
        let since = |chunk: &ChunkName| view == View::Writer && chunk.epoch > seal.epoch;
        readable
            .filter(|chunk| listed.contains(chunk) || since(chunk))
            .collect()
    }

    fn reach(&self, stream: Stream, view: View) -> u64 {
        let sealed = self.seal.as_ref().filter(|seal| seal.chunks().is_some());
        let written = self
            .chunks
            .keys()
            .filter(|chunk| chunk.stream == stream)
            .filter(|chunk| sealed.is_none_or(|seal| view == View::Writer && chunk.epoch > seal.epoch))
            .map(|chunk| chunk.end)
            .max();
        written.unwrap_or(0).max(sealed.map_or(0, |seal| seal.reach(stream)))
    }
}

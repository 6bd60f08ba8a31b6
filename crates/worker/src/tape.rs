//! Where reading an attempt's output stands (PROTOCOL X7), with secrets masked on the way.
//!
//! Masking changes lengths, and may hold a few bytes back: what is kept is counted in masked bytes, what is read in the
//! engine's. So a place from which to go on is the engine's position before the first byte that is not decided, and how many
//! bytes of each stream after that position are in what is kept already.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Buf, Bytes};
use robata_core::executor::{Output, Position, Stream};

use crate::mask::{Held, Mask};

/// Positions remembered while something is held back. More would only spare reading again.
const POINTS: usize = 64;

/// A place from which all that comes after is still to be kept.
///
/// It stands in the log store's position, so that bytes read twice get the same place twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Bytes kept of each stream, as they are kept.
    pub(crate) offsets: [u64; 2],
    /// Bytes of each stream after `engine` that are in what is kept.
    pub(crate) skip: [u64; 2],
    /// From where the engine is to be read.
    pub(crate) engine: Position,
}

impl Mark {
    /// `STDOUT:STDERR:POSITION`; a count reads `OFFSET+SKIP` where bytes are to be skipped.
    pub(crate) fn encode(&self) -> Position {
        let count = |at: usize| match self.skip[at] {
            0 => self.offsets[at].to_string(),
            skip => format!("{}+{skip}", self.offsets[at]),
        };
        Position(format!("{}:{}:{}", count(0), count(1), self.engine.0))
    }

    pub(crate) fn decode(position: &Position) -> Option<Self> {
        // No stream is so long; more would leave no room to count on.
        let number = |text: &str| text.parse().ok().filter(|&number: &u64| number <= u64::MAX / 4);
        let mut parts = position.0.splitn(3, ':');
        let mut count = || -> Option<(u64, u64)> {
            let (offset, skip) = parts.next().map(|part| part.split_once('+').unwrap_or((part, "0")))?;
            Some((number(offset)?, number(skip)?))
        };
        let (stdout, stderr) = (count()?, count()?);
        Some(Self {
            offsets: [stdout.0, stderr.0],
            skip: [stdout.1, stderr.1],
            engine: Position(parts.next()?.to_owned()),
        })
    }

    /// Bytes kept of both streams.
    pub(crate) fn kept(&self) -> u64 {
        self.offsets[0] + self.offsets[1]
    }
}

/// One reading of an output, from a mark on.
#[derive(Debug)]
pub(crate) struct Tape {
    mask: Option<Arc<Mask>>,
    held: [Held; 2],
    /// Bytes read of each stream since the mark.
    read: [u64; 2],
    /// Of these, so many were kept before.
    skip: [u64; 2],
    /// Positions, and what had been read of each stream there; the first is where to go on.
    points: VecDeque<(Position, [u64; 2])>,
}

impl Tape {
    pub(crate) fn new(mark: &Mark, mask: Option<Arc<Mask>>) -> Self {
        Self {
            mask,
            held: Default::default(),
            read: [0; 2],
            skip: mark.skip,
            points: VecDeque::from([(mark.engine.clone(), [0; 2])]),
        }
    }

    /// Takes a piece; what is now decided of its stream.
    pub(crate) fn push(&mut self, piece: Output) -> Bytes {
        let at = index(piece.stream);
        let mut data = piece.data;
        let known = self.skip[at].saturating_sub(self.read[at]).min(data.len() as u64);
        self.read[at] += data.len() as u64;
        data.advance(usize::try_from(known).unwrap_or(usize::MAX));
        let decided = match &self.mask {
            Some(mask) => self.held[at].push(mask, &data).into(),
            None => data,
        };
        if self.points.len() >= POINTS {
            self.points.pop_back();
        }
        self.points.push_back((piece.position, self.read));
        self.forget();
        decided
    }

    /// The stream has ended: what is left of it.
    pub(crate) fn end(&mut self, stream: Stream) -> Bytes {
        let rest = match &self.mask {
            Some(mask) => self.held[index(stream)].end(mask).into(),
            None => Bytes::new(),
        };
        self.forget();
        rest
    }

    /// Where to go on once everything given so far is kept, up to these offsets.
    pub(crate) fn mark(&self, offsets: [u64; 2]) -> Mark {
        let decided = self.decided();
        let (engine, read) = self.points.front().cloned().unwrap_or_default();
        Mark {
            offsets,
            skip: [decided[0] - read[0], decided[1] - read[1]],
            engine,
        }
    }

    /// Bytes of each stream that were given, now or before.
    fn decided(&self) -> [u64; 2] {
        [0, 1].map(|at| (self.read[at] - self.held[at].len() as u64).max(self.skip[at]))
    }

    fn forget(&mut self) {
        let decided = self.decided();
        while let Some((_, read)) = self.points.get(1)
            && read[0] <= decided[0]
            && read[1] <= decided[1]
        {
            self.points.pop_front();
        }
    }
}

pub(crate) fn index(stream: Stream) -> usize {
    usize::from(stream == Stream::Stderr)
}

#[cfg(test)]
#[path = "tape_tests.rs"]
mod tests;

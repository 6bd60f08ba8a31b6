//! Reads one chunk's frames, a block at a time: memory stays the same however large the object is.

use bytes::{Buf, Bytes, BytesMut};
use object_store::path::Path;
use robata_core::{AttemptId, executor::Position, log_store::Piece};

use crate::{
    chunk,
    error::{LogsError, Result},
    name::ChunkName,
    objects::Objects,
};

/// A chunk of 256 KiB, as workers write them, comes with its header and the frames of its lines in one request.
const BLOCK: u64 = 384 * 1024;

#[derive(Debug)]
pub(crate) struct Cursor {
    name: ChunkName,
    path: Path,
    size: u64,
    fetched: u64,
    buffer: BytesMut,
    offset: u64,
    position: Position,
}

impl Cursor {
    /// Opens a chunk whose object has `size` bytes, and checks its header.
    pub(crate) async fn open(objects: &Objects, attempt: AttemptId, name: ChunkName, size: u64) -> Result<Self> {
        let mut cursor = Self {
            name,
            path: name.path(attempt),
            size,
            fetched: 0,
            buffer: BytesMut::new(),
            offset: name.offset,
            position: Position::default(),
        };
        if size == 0 {
            return Err(LogsError::damaged(name.file_name(), "it is empty"));
        }
        cursor.fetch(objects).await?;
        let (length, position) = chunk::header(&cursor.buffer, &name)?;
        cursor.buffer.advance(length);
        cursor.position = position;
        Ok(cursor)
    }

    async fn fetch(&mut self, objects: &Objects) -> Result<()> {
        let to = self.size.min(self.fetched + BLOCK);
        let block = objects.get_range(&self.path, self.fetched..to).await?;
        // Shorter than the listing said: somebody wrote over it.
        if block.len() as u64 != to - self.fetched {
            return Err(LogsError::damaged(self.name.file_name(), "it is shorter than it was"));
        }
        self.fetched = to;
        self.buffer.extend_from_slice(&block);
        Ok(())
    }

    /// Has at least `bytes` in the buffer.
    async fn need(&mut self, objects: &Objects, bytes: usize) -> Result<()> {
        while self.buffer.len() < bytes {
            if self.fetched == self.size {
                return Err(LogsError::damaged(self.name.file_name(), "it is cut"));
            }
            self.fetch(objects).await?;
        }
        Ok(())
    }

    /// The next frame; `None` after the last one.
    pub(crate) async fn next(&mut self, objects: &Objects) -> Result<Option<Piece>> {
        if self.offset == self.name.end {
            if self.buffer.is_empty() && self.fetched == self.size {
                return Ok(None);
            }
            return Err(LogsError::damaged(self.name.file_name(), "something follows its end"));
        }
        self.need(objects, chunk::FRAME).await?;
        let (at, length) = chunk::frame(&self.buffer, &self.name)?;
        self.need(objects, chunk::FRAME + length).await?;
        if !chunk::is_sound(&self.buffer, length) {
            return Err(LogsError::damaged(self.name.file_name(), "a frame's checksum is wrong"));
        }
        let offset = self.offset;
        self.offset += length as u64;
        if self.offset > self.name.end {
            return Err(LogsError::damaged(
                self.name.file_name(),
                "it is longer than its name says",
            ));
        }
        self.buffer.advance(chunk::FRAME);
        let data: Bytes = self.buffer.split_to(length).freeze();
        Ok(Some(Piece {
            at,
            stream: self.name.stream,
            offset,
            data,
        }))
    }

    /// Reads to the end: whether every byte is there.
    pub(crate) async fn verify(mut self, objects: &Objects) -> Result<Position> {
        while self.next(objects).await?.is_some() {}
        Ok(self.position)
    }
}

/// The part of a piece that lies in `from..to`; `None` where there is none.
pub(crate) fn cut(mut piece: Piece, from: u64, to: u64) -> Option<Piece> {
    let end = piece.offset + piece.data.len() as u64;
    let (start, stop) = (piece.offset.max(from), end.min(to));
    if start >= stop {
        return None;
    }
    let index = |place: u64| usize::try_from(place - piece.offset).unwrap_or(usize::MAX);
    piece.data = piece.data.slice(index(start)..index(stop));
    piece.offset = start;
    Some(piece)
}

//! A chunk's bytes: a header, then frames of (time, length, checksum, bytes). Merged objects have the same format.
//!
//! Header, big-endian: `RBLG`, format (1 byte), stream (1), 0 (2), offset (8), end (8), epoch (4), sequence (8), length of
//! the position (4), the executor's position, CRC-32 of all before it (4). Frame: time in ms (8), length (4), CRC-32 of
//! the time, the length and the bytes (4), the bytes.

use robata_core::{
    Timestamp,
    executor::{Position, Stream},
};

use crate::{
    error::{LogsError, Result},
    name::ChunkName,
};

/// The format that is written, and the last one that is read (PROTOCOL V1).
pub(crate) const FORMAT: u8 = 1;
const MAGIC: [u8; 4] = *b"RBLG";
const FIXED: usize = 40;
const CRC: usize = 4;
/// What stands before a frame's bytes.
pub(crate) const FRAME: usize = 16;
/// No frame is written longer: a reader holds one at a time.
pub(crate) const FRAME_BYTES: usize = 64 * 1024;
/// No position may be longer; executors' are some tens of bytes.
pub(crate) const POSITION_BYTES: usize = 64 * 1024;

/// Writes a chunk in memory.
pub(crate) struct Writer {
    name: ChunkName,
    bytes: Vec<u8>,
    header: usize,
}

impl Writer {
    /// A chunk that begins at `name.offset`; its end grows with what is pushed.
    pub(crate) fn new(name: ChunkName, position: &Position) -> Self {
        let position = position.0.as_bytes();
        let mut bytes = Vec::with_capacity(FIXED + position.len() + CRC + 4096);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[FORMAT, stream_byte(name.stream), 0, 0]);
        bytes.extend_from_slice(&name.offset.to_be_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&name.epoch.to_be_bytes());
        bytes.extend_from_slice(&name.sequence.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(position.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(position);
        let header = bytes.len();
        bytes.extend_from_slice(&[0; CRC]);
        Self {
            name: ChunkName {
                end: name.offset,
                ..name
            },
            bytes,
            header,
        }
    }

    pub(crate) fn push(&mut self, at: Timestamp, data: &[u8]) {
        for part in data.chunks(FRAME_BYTES) {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let head = frame_head(at, length);
            self.bytes.extend_from_slice(&head);
            self.bytes.extend_from_slice(&frame_crc(&head, part).to_be_bytes());
            self.bytes.extend_from_slice(part);
            self.name.end += u64::from(length);
        }
    }

    /// The chunk's name and bytes.
    pub(crate) fn finish(mut self) -> (ChunkName, Vec<u8>) {
        self.bytes[16..24].copy_from_slice(&self.name.end.to_be_bytes());
        let crc = crc32fast::hash(&self.bytes[..self.header]);
        self.bytes[self.header..self.header + CRC].copy_from_slice(&crc.to_be_bytes());
        (self.name, self.bytes)
    }
}

fn stream_byte(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    }
}

fn frame_head(at: Timestamp, length: u32) -> [u8; 12] {
    let mut head = [0; 12];
    head[..8].copy_from_slice(&at.as_millis().to_be_bytes());
    head[8..].copy_from_slice(&length.to_be_bytes());
    head
}

fn frame_crc(head: &[u8], data: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(data);
    hasher.finalize()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// Reads a header from an object's first bytes: its length and the position in it. It must be `name`'s own.
pub(crate) fn header(bytes: &[u8], name: &ChunkName) -> Result<(usize, Position)> {
    let damaged = |what| Err(LogsError::damaged(name.file_name(), what));
    if bytes.len() < FIXED + CRC {
        return damaged("it is cut in its header");
    }
    if bytes[..4] != MAGIC {
        return damaged("it does not begin as a chunk");
    }
    if bytes[4] > FORMAT {
        return Err(LogsError::TooNew {
            name: name.file_name(),
            format: bytes[4],
            reads: FORMAT,
        });
    }
    let length = word(bytes, 36) as usize;
    let end = FIXED + length;
    if length > POSITION_BYTES || bytes.len() < end + CRC {
        return damaged("it is cut in its header");
    }
    if crc32fast::hash(&bytes[..end]) != word(bytes, end) {
        return damaged("its header's checksum is wrong");
    }
    let same = bytes[5] == stream_byte(name.stream)
        && bytes[8..16] == name.offset.to_be_bytes()
        && bytes[16..24] == name.end.to_be_bytes()
        && bytes[24..28] == name.epoch.to_be_bytes()
        && bytes[28..36] == name.sequence.to_be_bytes();
    if !same {
        return damaged("its header is another one's");
    }
    match std::str::from_utf8(&bytes[FIXED..end]) {
        Ok(position) => Ok((end + CRC, Position(position.to_owned()))),
        Err(_) => damaged("its position is no text"),
    }
}

/// The time and length of the frame that `bytes` (at least [`FRAME`] of them) begins with.
pub(crate) fn frame(bytes: &[u8], name: &ChunkName) -> Result<(Timestamp, usize)> {
    let time = bytes[..8].iter().fold(0_u64, |time, byte| time << 8 | u64::from(*byte));
    let length = word(bytes, 8) as usize;
    if length == 0 || length > FRAME_BYTES {
        return Err(LogsError::damaged(name.file_name(), "a frame has an impossible length"));
    }
    Ok((Timestamp::from_millis(time.cast_signed()), length))
}

/// Whether the frame that `bytes` (whole) begins with is unharmed.
pub(crate) fn is_sound(bytes: &[u8], length: usize) -> bool {
    frame_crc(&bytes[..12], &bytes[FRAME..FRAME + length]) == word(bytes, 12)
}

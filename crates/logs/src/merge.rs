//! At the seal: chunks that follow each other become one object, up to a size that fits into memory.

use std::collections::VecDeque;

use robata_core::{Epoch, executor::Position};

use crate::{
    chunk::Writer,
    config::LogsConfig,
    cursor::{Cursor, cut},
    name::ChunkName,
    objects::Objects,
    open::Open,
    plan::Segment,
    seal::{Fault, prove},
};

/// The chunks that count after merging, in order.
pub(crate) async fn merged(
    objects: &Objects,
    config: &LogsConfig,
    open: &Open,
    epoch: Epoch,
    position: &Position,
    segments: VecDeque<Segment>,
) -> Result<Vec<ChunkName>, Fault> {
    let mut chunks = Vec::new();
    for group in groups(segments, config.merge_bytes) {
        match group.as_slice() {
            [only] if only.from == only.chunk.offset && only.to == only.chunk.end => {
                prove(objects, open, only.chunk).await?;
                chunks.push(only.chunk);
            }
            parts => chunks.push(write(objects, open, epoch, position, parts).await?),
        }
    }
    Ok(chunks)
}

/// Runs without a hole between them, of at most `most` bytes unless one alone has more.
fn groups(segments: VecDeque<Segment>, most: u64) -> Vec<Vec<Segment>> {
    let mut groups: Vec<Vec<Segment>> = Vec::new();
    let mut bytes = 0;
    for segment in segments {
        let length = segment.to - segment.from;
        let fits = groups
            .last()
            .and_then(|group| group.last())
            .is_some_and(|last| last.to == segment.from && bytes + length <= most);
        if fits && let Some(group) = groups.last_mut() {
            group.push(segment);
            bytes += length;
        } else {
            groups.push(vec![segment]);
            bytes = length;
        }
    }
    groups
}

async fn write(
    objects: &Objects,
    open: &Open,
    epoch: Epoch,
    position: &Position,
    parts: &[Segment],
) -> Result<ChunkName, Fault> {
    let first = parts[0];
    let name = ChunkName {
        offset: first.from,
        end: first.from,
        epoch,
        sequence: open.next_sequence(),
        ..first.chunk
    };
    let mut writer = Writer::new(name, position);
    for part in parts {
        let fault = |fault| Fault::Chunk(part.chunk, fault);
        let size = open.size(&part.chunk).unwrap_or(0);
        let mut cursor = Cursor::open(objects, open.attempt, part.chunk, size)
            .await
            .map_err(fault)?;
        while let Some(piece) = cursor.next(objects).await.map_err(fault)? {
            if let Some(piece) = cut(piece, part.from, part.to) {
                writer.push(piece.at, &piece.data);
            }
        }
    }
    let (name, bytes) = writer.finish();
    let size = bytes.len() as u64;
    objects.put(&name.path(open.attempt), bytes).await?;
    open.add(name, size, position.clone());
    Ok(name)
}

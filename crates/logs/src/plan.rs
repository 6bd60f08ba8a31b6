//! Which chunk gives which bytes: pure, from the chunks' names alone.

use std::collections::{BTreeMap, VecDeque};

use robata_core::executor::Stream;

use crate::name::ChunkName;

/// A part of a stream, and the chunk that gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) chunk: ChunkName,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// The segments of `stream` from byte `from` on, in order, none twice; what lies between them is missing.
///
/// The chunk of the highest epoch gives a byte; of one epoch the one that was written last.
pub(crate) fn plan<'a>(
    chunks: impl IntoIterator<Item = &'a ChunkName>,
    stream: Stream,
    from: u64,
) -> VecDeque<Segment> {
    let mut ranked: Vec<_> = chunks
        .into_iter()
        .filter(|chunk| chunk.stream == stream && chunk.end > from)
        .collect();
    ranked.sort_unstable_by_key(|chunk| std::cmp::Reverse(chunk.rank()));
    let mut taken: BTreeMap<u64, Segment> = BTreeMap::new();
    for chunk in ranked {
        let mut at = chunk.offset.max(from);
        // From the left, fill each hole between what chunks of higher rank have taken.
        if let Some((_, before)) = taken.range(..=at).next_back() {
            at = at.max(before.to);
        }
        let mut free = Vec::new();
        for (start, segment) in taken.range(at..chunk.end.max(at)) {
            if at < *start {
                free.push((at, *start));
            }
            at = segment.to;
        }
        if at < chunk.end {
            free.push((at, chunk.end));
        }
        for (from, to) in free {
            taken.insert(
                from,
                Segment {
                    chunk: *chunk,
                    from,
                    to,
                },
            );
        }
    }
    taken.into_values().collect()
}

/// The holes in a plan that should reach from 0 to `reach`.
pub(crate) fn holes(segments: &VecDeque<Segment>, reach: u64) -> Vec<(u64, u64)> {
    let mut holes = Vec::new();
    let mut at = 0;
    for segment in segments {
        if at < segment.from {
            holes.push((at, segment.from));
        }
        at = segment.to;
    }
    if at < reach {
        holes.push((at, reach));
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(offset: u64, end: u64, epoch: u32, sequence: u64) -> ChunkName {
        ChunkName {
            stream: Stream::Stdout,
            offset,
            end,
            epoch,
            sequence,
        }
    }

    fn parts(chunks: &[ChunkName], from: u64) -> Vec<(u64, u64, u32, u64)> {
        plan(chunks, Stream::Stdout, from)
            .iter()
            .map(|segment| (segment.from, segment.to, segment.chunk.epoch, segment.chunk.sequence))
            .collect()
    }

    #[test]
    fn a_higher_epoch_wins_in_the_middle_of_a_lower_one() {
        let chunks = [chunk(0, 100, 1, 0), chunk(40, 60, 2, 1)];
        assert_eq!(parts(&chunks, 0), [(0, 40, 1, 0), (40, 60, 2, 1), (60, 100, 1, 0)]);
        assert_eq!(parts(&chunks, 50), [(50, 60, 2, 1), (60, 100, 1, 0)]);
        assert_eq!(parts(&chunks, 100), []);
    }

    #[test]
    fn of_one_epoch_the_last_written_wins() {
        let chunks = [chunk(0, 10, 1, 0), chunk(0, 25, 1, 1), chunk(20, 30, 1, 2)];
        assert_eq!(parts(&chunks, 0), [(0, 20, 1, 1), (20, 30, 1, 2)]);
    }

    #[test]
    fn many_overlaps_give_every_byte_once_and_by_the_highest_rank() {
        // A small generator instead of chance: the same every time.
        let mut seed = 7_u64;
        let mut next = |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..300 {
            let chunks: Vec<_> = (0..12)
                .map(|sequence| {
                    let offset = next(60);
                    let epoch = u32::try_from(next(4)).unwrap();
                    chunk(offset, offset + 1 + next(30), epoch, sequence)
                })
                .collect();
            let from = next(20);
            let plan = plan(&chunks, Stream::Stdout, from);
            for byte in 0..100 {
                let best = chunks
                    .iter()
                    .filter(|chunk| byte >= from && (chunk.offset..chunk.end).contains(&byte))
                    .max_by_key(|chunk| chunk.rank());
                let given: Vec<_> = plan
                    .iter()
                    .filter(|part| (part.from..part.to).contains(&byte))
                    .collect();
                assert_eq!(
                    given.iter().map(|part| &part.chunk).collect::<Vec<_>>(),
                    best.into_iter().collect::<Vec<_>>()
                );
            }
        }
    }

    #[test]
    fn holes_are_found_at_both_ends_and_between() {
        let plan = plan(&[chunk(5, 10, 1, 0), chunk(12, 20, 1, 1)], Stream::Stdout, 0);
        assert_eq!(holes(&plan, 25), [(0, 5), (10, 12), (20, 25)]);
        assert_eq!(holes(&VecDeque::new(), 0), []);
    }
}

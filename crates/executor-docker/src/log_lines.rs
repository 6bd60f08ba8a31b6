//! Reading the engine's log entries: times, pieces of long lines, and the position from which to read on. No I/O.
//!
//! What is relied on, seen on engine 20.10 with the `local` driver and read in its source (`daemon/logger/copier.go`):
//! an entry is a time, a space and at most 16 KiB of a line; entries of one stream keep their order; the pieces of one
//! long line all carry the time of the first, and all but the last are 16 KiB long; the last piece of a long line comes
//! *without* its newline; what the stream ends with has no newline if none was printed.

use std::fmt;

use bytes::{Bytes, BytesMut};
use robata_core::{
    Timestamp,
    executor::{Position, Stream},
};

use crate::missing::Missing;

/// A piece of a line that is not its last (`defaultBufSize` in copier.go).
const PIECE: usize = 16 << 10;
/// What an entry takes in the driver's file besides its bytes, at most: lengths, stream, time.
const ENTRY_BYTES: u64 = 32;
/// The same for a piece of a long line, which carries the line's id, too.
const PIECE_BYTES: u64 = 128;

/// How the last entry of a stream has left its line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Open {
    /// Whole, with its newline; or the stream has ended in it.
    #[default]
    No,
    /// More of the line follows.
    More,
    /// It was the last piece of a long line, or what the stream ended with: whether a newline was printed after it
    /// shows when another line follows.
    Unknown,
}

/// The last entry that was read of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    nanos: i64,
    /// How many entries of the stream with this very time have been read.
    count: u32,
    open: Open,
}

/// A place in a container's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    last: [Option<Last>; 2],
    /// The time of the log's very first entry: gone from the log, entries have been lost.
    pub(crate) first: Option<i64>,
    /// What all entries up to here take in the driver's file, at most.
    pub(crate) bytes: u64,
    /// What is known to be missing before this place; it is told at the log's end, for what comes after is worth having.
    pub(crate) missing: Missing,
}

/// What is wrong with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the position {0} is none of this executor's")]
    NoPosition(&'static str),
    #[error("the engine sent a log entry without its time")]
    NoTime,
}

const FORMAT: &str = "1";

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FORMAT};{};{}", self.bytes, self.first.unwrap_or(-1))?;
        for last in &self.last {
            match last {
                None => f.write_str(";-")?,
                Some(last) => write!(f, ";{}.{}.{}", last.nanos, last.count, last.open as u8)?,
            }
        }
        write!(f, ";{}", self.missing.number())
    }
}

impl Place {
    pub(crate) fn read(position: &Position) -> Result<Self, Broken> {
        if position.0.is_empty() {
            return Ok(Self::default());
        }
        let parts: Vec<_> = position.0.split(';').collect();
        let [FORMAT, bytes, first, stdout, stderr, missing] = parts[..] else {
            return Err(Broken::NoPosition("(format)"));
        };
        let number = |text: &str| text.parse::<i64>().map_err(|_| Broken::NoPosition("(number)"));
        let last = |text: &str| {
            if text == "-" {
                return Ok(None);
            }
            let parts: Vec<_> = text.split('.').collect();
            let [nanos, count, open] = parts[..] else {
                return Err(Broken::NoPosition("(stream)"));
            };
            Ok(Some(Last {
                nanos: number(nanos)?,
                count: count
                    .parse()
                    .ok()
                    .filter(|&count| count > 0)
                    .ok_or(Broken::NoPosition("(count)"))?,
                open: match open {
                    "0" => Open::No,
                    "1" => Open::More,
                    "2" => Open::Unknown,
                    _ => return Err(Broken::NoPosition("(open)")),
                },
            }))
        };
        Ok(Self {
            last: [last(stdout)?, last(stderr)?],
            first: Some(number(first)?).filter(|&first| first >= 0),
            bytes: bytes.parse().map_err(|_| Broken::NoPosition("(bytes)"))?,
            missing: u8::try_from(number(missing)?)
                .ok()
                .and_then(Missing::read)
                .ok_or(Broken::NoPosition("(missing)"))?,
        })
    }

    pub(crate) fn position(&self) -> Position {
        Position(self.to_string())
    }

    /// When the last entry was printed that was read.
    pub(crate) fn read_up_to(&self) -> Option<Timestamp> {
        let latest = self.last.iter().flatten().map(|last| last.nanos).max();
        latest.map(|nanos| Timestamp::from_millis(nanos / 1_000_000))
    }

    /// From which second on the engine has to send the log again; 0: all of it.
    ///
    /// A little is sent again whole, whatever the clock did. Else a margin covers that two streams' entries are not
    /// quite in the order of their times; the pieces of a long line carry the time of its first.
    pub(crate) fn since(&self) -> i64 {
        const SMALL: u64 = 4 << 20;
        const MARGIN_SECS: i64 = 2;
        if self.bytes < SMALL {
            return 0;
        }
        let latest = self.last.iter().flatten().map(|last| last.nanos).max();
        let open = self.last.iter().flatten().filter(|last| last.open == Open::More);
        let from = open.map(|last| last.nanos).chain(latest).min().unwrap_or(0);
        (from / 1_000_000_000 - MARGIN_SECS).max(0)
    }

    /// Whether this is the last entry of its stream that was read.
    pub(crate) fn ends_with(&self, stream: Stream, entry: &Bytes) -> Result<bool, Broken> {
        let (nanos, _) = split(entry)?;
        Ok(self.last[index(stream)].is_some_and(|last| last.nanos == nanos))
    }

    /// Whether nobody can say if the last line of a stream ended in a newline.
    pub(crate) fn unknown_end(&self) -> Option<Stream> {
        let open = |last: &Option<Last>| last.is_some_and(|last| last.open == Open::Unknown);
        Stream::ALL.into_iter().find(|&stream| open(&self.last[index(stream)]))
    }
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

/// Reads the entries of one connection, and leaves out those before the place.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) place: Place,
    /// Entries of each stream that are still to be passed over: until as many of this time have been seen.
    seek: [Option<Seek>; 2],
    started: bool,
    whole: bool,
}

#[derive(Clone, Copy, Debug)]
struct Seek {
    nanos: i64,
    left: u32,
}

impl Lines {
    /// For a connection that sends entries from the second `since` on.
    pub(crate) fn new(place: Place, since: i64) -> Self {
        let seek = place.last.map(|last| {
            last.filter(|last| last.nanos >= since.saturating_mul(1_000_000_000))
                .map(|last| Seek {
                    nanos: last.nanos,
                    left: last.count,
                })
        });
        Self {
            place,
            seek,
            started: false,
            whole: since == 0,
        }
    }

    /// One entry: what of it was not read before, with its time. Where entries are missing, the next one is the next.
    pub(crate) fn entry(&mut self, stream: Stream, entry: &Bytes) -> Result<Option<(Timestamp, Bytes)>, Broken> {
        let (nanos, line) = split(entry)?;
        if self.whole && !self.started && *self.place.first.get_or_insert(nanos) != nanos {
            self.place.missing.thrown_away = true;
        }
        self.started = true;
        match &mut self.seek[index(stream)] {
            Some(seek) if nanos > seek.nanos => {
                self.place.missing.thrown_away = true;
                self.seek[index(stream)] = None;
            }
            Some(seek) => {
                if nanos == seek.nanos {
                    seek.left -= 1;
                    if seek.left == 0 {
                        self.seek[index(stream)] = None;
                    }
                }
                return Ok(None);
            }
            None => {}
        }
        let data = self.place.read_on(stream, nanos, line);
        Ok(Some((Timestamp::from_millis(nanos / 1_000_000), data)))
    }

    /// The connection has ended: everything that was read before must have been seen again.
    pub(crate) fn end(mut self) -> Place {
        self.place.missing.thrown_away |= self.seek.iter().any(Option::is_some);
        self.place
    }
}

impl Place {
    fn read_on(&mut self, stream: Stream, nanos: i64, line: Bytes) -> Bytes {
        let last = &mut self.last[index(stream)];
        let (before, same) = last.map_or((Open::No, 0), |last| {
            (last.open, if last.nanos == nanos { last.count } else { 0 })
        });
        let goes_on = before == Open::More && same > 0;
        let whole = line.ends_with(b"\n");
        let open = match (whole, line.len()) {
            (true, _) => Open::No,
            // Nothing is left of a line that filled its pieces exactly: this entry is its newline.
            (false, 0) => Open::No,
            (false, PIECE..) => Open::More,
            (false, _) if goes_on => Open::Unknown,
            (false, _) => Open::No,
        };
        *last = Some(Last {
            nanos,
            count: same.saturating_add(1),
            open,
        });
        let taken = line.len() as u64 + if whole { ENTRY_BYTES } else { PIECE_BYTES };
        self.bytes = self.bytes.saturating_add(taken);
        if goes_on && line.is_empty() {
            return Bytes::from_static(b"\n");
        }
        if before == Open::Unknown {
            let mut data = BytesMut::with_capacity(line.len() + 1);
            data.extend_from_slice(b"\n");
            data.extend_from_slice(&line);
            return data.freeze();
        }
        line
    }
}

/// The time, in nanoseconds, and the bytes of an entry.
fn split(entry: &Bytes) -> Result<(i64, Bytes), Broken> {
    // The engine writes 30 characters (RFC3339NanoFixed); a longer search would run through a line of bytes.
    let at = entry
        .iter()
        .take(40)
        .position(|&byte| byte == b' ')
        .ok_or(Broken::NoTime)?;
    let text = std::str::from_utf8(&entry[..at]).map_err(|_| Broken::NoTime)?;
    let time: jiff::Timestamp = text.parse().map_err(|_| Broken::NoTime)?;
    let nanos = i64::try_from(time.as_nanosecond()).map_err(|_| Broken::NoTime)?;
    // A clock may stand anywhere; a place tells no time before 1970 from none.
    Ok((nanos.max(0), entry.slice(at + 1..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(nanos: u32, line: impl AsRef<[u8]>) -> Bytes {
        let mut entry = format!("2026-11-22T23:50:20.{nanos:09}Z ").into_bytes();
        entry.extend_from_slice(line.as_ref());
        entry.into()
    }

    fn read(place: Place, entries: &[(Stream, Bytes)]) -> Result<(Place, Vec<u8>), Broken> {
        let mut lines = Lines::new(place, 0);
        let mut out = Vec::new();
        for (stream, entry) in entries {
            if let Some((_, data)) = lines.entry(*stream, entry)? {
                out.extend_from_slice(&data);
            }
        }
        Ok((lines.end(), out))
    }

    use Stream::{Stderr, Stdout};

    #[test]
    fn a_long_line_gets_its_newline_back_when_another_follows() {
        let piece = vec![b'x'; PIECE];
        let entries = [
            (Stdout, entry(1, &piece)),
            (Stdout, entry(1, "rest")),
            (Stderr, entry(2, "err\n")),
            (Stdout, entry(3, "next\n")),
        ];
        let (place, out) = read(Place::default(), &entries).unwrap();
        assert_eq!(out, [&piece[..], b"resterr\n\nnext\n"].concat());
        assert_eq!(place.unknown_end(), None);
        let (place, _) = read(Place::default(), &entries[..2]).unwrap();
        assert_eq!(place.unknown_end(), Some(Stdout));
    }

    #[test]
    fn a_line_that_fills_its_pieces_exactly_ends_in_an_empty_entry() {
        let piece = vec![b'x'; PIECE];
        let (place, out) = read(Place::default(), &[(Stdout, entry(1, &piece)), (Stdout, entry(1, ""))]).unwrap();
        assert_eq!((out.last(), place.unknown_end()), (Some(&b'\n'), None));
    }

    #[test]
    fn reading_resumes_at_every_entry_without_losing_or_repeating_one() {
        let piece = vec![b'y'; PIECE];
        let entries = [
            (Stdout, entry(1, "a\n")),
            (Stdout, entry(1, "a\n")),
            (Stderr, entry(1, "a\n")),
            (Stderr, entry(4, &piece)),
            (Stdout, entry(5, "b\n")),
            (Stderr, entry(4, &piece)),
            (Stderr, entry(4, "c")),
            (Stdout, entry(6, "\n")),
            (Stderr, entry(7, "last")),
        ];
        let (_, whole) = read(Place::default(), &entries).unwrap();
        for cut in 0..=entries.len() {
            let (place, mut out) = read(Place::default(), &entries[..cut]).unwrap();
            let place = Place::read(&place.position()).unwrap();
            let (_, rest) = read(place, &entries).unwrap();
            out.extend_from_slice(&rest);
            assert_eq!(out, whole, "cut at {cut}");
        }
    }

    #[test]
    fn what_was_thrown_away_is_noticed() {
        let entries: Vec<_> = (1..9).map(|nanos| (Stdout, entry(nanos, "x\n"))).collect();
        let (place, _) = read(Place::default(), &entries[..4]).unwrap();
        assert_eq!(place.missing.words(), None);
        let noticed = |entries: &[_]| {
            let (place, out) = read(place.clone(), entries).unwrap();
            assert!(place.missing.thrown_away, "{place:?}");
            assert_eq!(
                Place::read(&place.position()).as_ref(),
                Ok(&place),
                "it is still known later"
            );
            out
        };
        // What comes after is read all the same.
        assert_eq!(noticed(&entries[4..]), b"x\nx\nx\nx\n");
        assert_eq!(noticed(&entries[6..]), b"x\nx\n");
        // The position's own entry is there, but the beginning is not.
        assert_eq!(noticed(&entries[3..]), b"x\nx\nx\nx\n");
        assert_eq!(noticed(&[]), b"");
    }

    #[test]
    fn a_place_at_the_end_of_all_numbers_is_read_on_from() {
        let most = format!("1;{};-1;{}.{}.0;-;0", u64::MAX, i64::MAX, u32::MAX);
        let place = Place::read(&Position(most)).unwrap();
        let last = place.last[0].unwrap();
        let mut lines = Lines::new(
            Place {
                last: [None; 2],
                ..place
            },
            0,
        );
        lines.place.last[0] = Some(last);
        let latest = Bytes::from_static(b"2262-04-11T23:47:16.854775807Z x\n");
        assert!(lines.entry(Stdout, &latest).unwrap().is_some());
        let place = lines.end();
        assert_eq!(Place::read(&place.position()).as_ref(), Ok(&place));
    }

    #[test]
    fn a_time_before_1970_is_as_good_as_any() {
        let early = Bytes::from_static(b"1969-12-31T23:59:59.999999999Z x\n");
        let (place, out) = read(Place::default(), &[(Stdout, early.clone()), (Stdout, early)]).unwrap();
        assert_eq!(out, b"x\nx\n");
        assert_eq!(Place::read(&place.position()).as_ref(), Ok(&place));
    }

    #[test]
    fn a_foreign_position_is_refused() {
        for bad in [
            "x",
            "1;2",
            "1;0;-1;1.2;-;0",
            "1;0;-1;1.2.3;-;0",
            "1;0;-1;-;-;4",
            "1;-1;-1;-;-;0",
            "1;0;-1;1.0.0;-;0",
        ] {
            assert!(
                matches!(Place::read(&Position(bad.into())), Err(Broken::NoPosition(_))),
                "{bad}"
            );
        }
    }
}

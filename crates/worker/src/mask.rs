//! Masks secrets in whatever a job prints, whatever prints them: plain, as lines of their own, in JSON and in base64.
//!
//! Matches are leftmost, and the longest of those that begin there, with what overlaps them: where two secrets share text, none
//! of it stays. A stream holds back only what may be the beginning of a secret (its end as far as some needle begins with it)
//! and the match that this would overlap, which is less than twice the longest needle. Everything before that is decided for
//! good, so that whoever goes on from there finds the same.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use aho_corasick::{AhoCorasick, AhoCorasickKind, Anchored, Input, MatchKind, StartKind};
use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use robata_core::{Error, ErrorKind, Result, Secret};

/// What stands in a secret's place.
pub(crate) const MASK: &str = "***";
/// A shorter value is not masked: it would be found everywhere, and the log could not be read.
pub(crate) const SHORTEST: usize = 4;
/// So many characters of base64 are masked inside longer text; of a value's first and last byte up to four bits are in the
/// characters beside them, which hold bits of their neighbours, too, and stay.
const SHORTEST_INSIDE: usize = 6;
/// A line of a value of many lines is masked alone from this length on.
const SHORTEST_LINE: usize = 8;
/// How programs break base64 into lines: Ruby, OpenSSL and PEM, coreutils and MIME.
const WIDTHS: [usize; 3] = [60, 64, 76];

/// All that is masked of one attempt's output.
pub(crate) struct Mask {
    automaton: AhoCorasick,
    /// The needles, sorted.
    needles: Vec<Vec<u8>>,
    /// Bytes with which a needle begins.
    begins: [bool; 256],
    longest: usize,
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mask")
    }
}

impl Mask {
    /// The mask of these values; `None` where there is nothing to mask.
    ///
    /// # Errors
    /// Where the needles are too many to be found; then nothing may be kept.
    pub(crate) fn of<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Option<Self>> {
        let mut needles = BTreeSet::new();
        for value in values {
            add(value, &mut needles);
        }
        if needles.is_empty() {
            return Ok(None);
        }
        let needles: Vec<Vec<u8>> = needles.into_iter().collect();
        // The smallest automaton: there is one for each attempt that is followed.
        let built = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .start_kind(StartKind::Both)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(&needles);
        let automaton = built.map_err(|why| internal(&why))?;
        let mut begins = [false; 256];
        for needle in &needles {
            begins[usize::from(needle[0])] = true;
        }
        Ok(Some(Self {
            automaton,
            begins,
            longest: needles.iter().map(Vec::len).max().unwrap_or(0),
            needles,
        }))
    }

    /// A whole text, masked.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut masked = Vec::with_capacity(text.len());
        self.decide(text.as_bytes(), true, &mut masked);
        // Needles are text, too: no letter was cut.
        String::from_utf8_lossy(&masked).into_owned()
    }

    /// Masks `data` as far as it is decided, which is to its end where nothing comes after it. Answers how far that is.
    fn decide(&self, data: &[u8], ended: bool, out: &mut Vec<u8>) -> usize {
        let open_from = |from| if ended { data.len() } else { self.held_from(data, from) };
        let (mut at, mut open) = (0, open_from(0));
        while let Some(found) = self.automaton.find(Input::new(data).range(at..)) {
            // What begins before it may go on, and be a match of its own.
            if found.start() >= open {
                break;
            }
            out.extend_from_slice(&data[at..found.start()]);
            // What begins in it may go on, and overlap it.
            if found.end() > open {
                return found.start();
            }
            out.extend_from_slice(MASK.as_bytes());
            at = self.reach(data, found.start() + 1, found.end());
            if open < at {
                open = open_from(at);
            }
        }
        out.extend_from_slice(&data[at..open]);
        open
    }

    /// How far the needles reach that begin within a match, which ends at `end`.
    fn reach(&self, data: &[u8], from: usize, end: usize) -> usize {
        let begin = (from..end).filter(|&at| self.begins[usize::from(data[at])]);
        let ends = begin.filter_map(|at| {
            let input = Input::new(data).range(at..).anchored(Anchored::Yes);
            self.automaton.find(input).map(|found| found.end())
        });
        ends.max().map_or(end, |reach| reach.max(end))
    }

    /// From where on `data` may be the beginning of a needle that goes on behind it.
    fn held_from(&self, data: &[u8], from: usize) -> usize {
        let from = from.max((data.len() + 1).saturating_sub(self.longest));
        (from..data.len())
            .find(|&at| self.begins[usize::from(data[at])] && self.goes_on(&data[at..]))
            .unwrap_or(data.len())
    }

    /// Whether some needle begins with this and is longer.
    fn goes_on(&self, data: &[u8]) -> bool {
        let first = self.needles.partition_point(|needle| needle.as_slice() <= data);
        self.needles.get(first).is_some_and(|needle| needle.starts_with(data))
    }
}

/// One mask for all attempts that have the same values: thousands may be followed at once.
#[derive(Default)]
pub(crate) struct Masks(Mutex<Vec<(Vec<Secret>, Weak<Mask>)>>);

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Masks")
    }
}

impl Masks {
    fn lock(&self) -> MutexGuard<'_, Vec<(Vec<Secret>, Weak<Mask>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mask of these values; `None` where there is nothing to mask.
    pub(crate) async fn of(&self, values: Vec<Secret>) -> Result<Option<Arc<Mask>>> {
        let known = self
            .lock()
            .iter()
            .find(|(same, _)| *same == values)
            .and_then(|(_, mask)| mask.upgrade());
        if known.is_some() {
            return Ok(known);
        }
        let needed = values.clone();
        let making = tokio::task::spawn_blocking(move || Mask::of(needed.iter().map(Secret::expose)));
        let Some(mask) = making.await.map_err(|why| internal(&why))?? else {
            return Ok(None);
        };
        let mask = Arc::new(mask);
        let mut all = self.lock();
        all.retain(|(same, mask)| mask.strong_count() > 0 && *same != values);
        all.push((values, Arc::downgrade(&mask)));
        Ok(Some(mask))
    }
}

/// What of one stream is not decided yet.
#[derive(Default)]
pub(crate) struct Held(Vec<u8>);

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({})", self.0.len())
    }
}

impl Held {
    /// How many bytes are held back.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes what comes next, and gives what is decided, masked.
    pub(crate) fn push(&mut self, mask: &Mask, data: &[u8]) -> Vec<u8> {
        self.0.extend_from_slice(data);
        let mut out = Vec::with_capacity(self.0.len());
        let decided = mask.decide(&self.0, false, &mut out);
        self.0.drain(..decided);
        out
    }

    /// Nothing comes any more: what is left, masked.
    pub(crate) fn end(&mut self, mask: &Mask) -> Vec<u8> {
        let rest = std::mem::take(&mut self.0);
        let mut out = Vec::with_capacity(rest.len());
        mask.decide(&rest, true, &mut out);
        out
    }
}

/// Without what was to be masked: neither error tells it.
fn internal(why: &dyn fmt::Display) -> Error {
    let words = format!("secrets cannot be masked: {why}");
    Error::new(ErrorKind::Internal, "worker.mask", words)
}

/// Everything by which a value is found.
fn add(value: &str, needles: &mut BTreeSet<Vec<u8>>) {
    if value.len() < SHORTEST {
        return;
    }
    let mut plain = |text: &str, shortest: usize| {
        if text.len() >= shortest {
            needles.insert(text.as_bytes().to_vec());
        }
    };
    plain(value, SHORTEST);
    plain(value.trim(), SHORTEST);
    if value.contains('\n') {
        for line in value.lines() {
            plain(line.trim(), SHORTEST_LINE);
        }
    }
    // As it stands in JSON, without the quotes around it.
    if let Ok(quoted) = serde_json::to_string(value) {
        plain(&quoted[1..quoted.len() - 1], SHORTEST);
    }
    for alphabet in [&STANDARD, &URL_SAFE] {
        for padded in [true, false] {
            let config = GeneralPurposeConfig::new().with_encode_padding(padded);
            let engine = GeneralPurpose::new(alphabet, config);
            // With the newline that `echo` adds, too.
            for whole in [engine.encode(value), engine.encode(format!("{value}\n"))] {
                broken(&whole, needles);
                needles.insert(whole.into_bytes());
            }
            if padded {
                continue;
            }
            for (before, skip) in [(0, 0), (1, 2), (2, 3)] {
                let mut text = vec![0; before];
                text.extend_from_slice(value.as_bytes());
                // Characters all of whose bits are the value's.
                let end = text.len() * 8 / 6;
                let inside = &engine.encode(&text)[skip..end];
                if inside.len() >= SHORTEST_INSIDE {
                    if before == 0 {
                        broken(inside, needles);
                    }
                    needles.insert(inside.as_bytes().to_vec());
                }
            }
        }
    }
}

/// The same in lines, where it has more than one.
fn broken(encoded: &str, needles: &mut BTreeSet<Vec<u8>>) {
    for width in WIDTHS.into_iter().filter(|width| encoded.len() > *width) {
        let lines: Vec<_> = encoded.as_bytes().chunks(width).collect();
        needles.insert(lines.join(&b'\n'));
    }
}

#[cfg(test)]
#[path = "mask_tests.rs"]
mod tests;

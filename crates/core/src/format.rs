//! The format number of everything that one release writes and another may read (PROTOCOL V1): messages, frozen requests,
//! labels, the process executor's files. One number for the whole release.

use std::{
    fmt,
    sync::atomic::{AtomicU8, Ordering},
};

use serde::{Deserialize, Serialize};

/// A first byte above this is no format of any release to come, but text or noise.
const NEWEST_THINKABLE: u8 = 31;

/// A format's number; later releases have greater ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Format(u8);

impl Format {
    /// The newest that this release writes and reads. The feature `next-format` makes a test's own next release of it.
    pub const OWN: Self = Self(if cfg!(feature = "next-format") { 2 } else { 1 });
    /// What this release writes until every live daemon has announced its own, and the oldest that it reads.
    pub const PREVIOUS: Self = Self(if Self::OWN.0 > 1 { Self::OWN.0 - 1 } else { 1 });
    /// What daemons of before the first release would have announced: nothing is written in it.
    pub const NONE: Self = Self(0);

    /// The format of this number.
    #[must_use]
    pub const fn new(number: u8) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Whether this release reads it.
    #[must_use]
    pub fn is_read(self) -> bool {
        (Self::PREVIOUS..=Self::OWN).contains(&self)
    }

    /// Whether it is a later release's.
    #[must_use]
    pub fn is_newer(self) -> bool {
        self > Self::OWN
    }

    /// What this release writes where this one is in use: its own at most, and at least the oldest that it knows.
    #[must_use]
    pub fn to_write(self) -> Self {
        self.clamp(Self::PREVIOUS, Self::OWN)
    }

    /// Whether what is written in it has the test's next release's additions.
    pub(crate) fn is_next(self) -> bool {
        cfg!(feature = "next-format") && self == Self::OWN
    }

    /// The format that a message's first byte tells, or why it cannot be read.
    pub(crate) fn of_message(bytes: &[u8], what: &str) -> Result<Self, Unreadable> {
        match bytes.first().copied().map(Self) {
            None => Err(Unreadable::Malformed("it is empty".to_owned())),
            Some(format) if format.is_read() => Ok(format),
            Some(format) if format.is_newer() && format.0 <= NEWEST_THINKABLE => Err(Unreadable::TooNew(format)),
            Some(format) => Err(Unreadable::Malformed(format!("{format} is no format of {what}"))),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The format in use as a store's process saw it last; before that, what is safe with any daemon.
#[derive(Debug)]
pub struct Seen(AtomicU8);

impl Default for Seen {
    fn default() -> Self {
        Self::new(Format::PREVIOUS)
    }
}

impl Seen {
    /// One that is known.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self(AtomicU8::new(format.0))
    }

    /// What was seen last.
    #[must_use]
    pub fn get(&self) -> Format {
        Format(self.0.load(Ordering::SeqCst))
    }

    /// Notes what was seen.
    pub fn set(&self, format: Format) {
        self.0.store(format.0, Ordering::SeqCst);
    }
}

/// The format in use where these are announced: what the oldest reads; `None` where nobody announces any.
pub fn in_use(announced: impl IntoIterator<Item = Format>) -> Option<Format> {
    announced.into_iter().min()
}

/// Why something that another release may have written cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Its format is a later release's: it is left for that release (PROTOCOL V1).
    TooNew(Format),
    /// It is nothing that any release has written; what is wrong with it, for people.
    Malformed(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooNew(format) => write!(f, "its format {format} is a later release's"),
            Self::Malformed(what) => f.write_str(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_reads_its_own_format_and_the_previous_one_and_writes_no_other() {
        let (previous, own) = (Format::PREVIOUS, Format::OWN);
        assert!(previous.is_read() && own.is_read() && previous.number() + 1 >= own.number());
        assert!(!Format::new(own.number() + 1).is_read() && Format::new(own.number() + 1).is_newer());
        assert_eq!(Format::new(own.number() + 7).to_write(), own);
        assert_eq!(Format::NONE.to_write(), previous);
        assert_eq!(Seen::default().get(), previous);
        assert_eq!(in_use([own, previous]), Some(previous));
    }
}

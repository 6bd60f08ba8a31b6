//! Words of enumerations that may grow: a client keeps a word that it does not know.

use std::{fmt, str::FromStr};

use robata_core::{AttemptState, JobState, Reason, Role, WaitingReason, attempt::LogState};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A word of an enumeration `T`, or one that a newer server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word<T> {
    /// One that this release knows.
    Known(T),
    /// Another one.
    Other(String),
}

/// What has words; implemented for the API's enumerations.
pub trait Words: Copy + FromStr {
    /// The word of this value.
    fn word(&self) -> &'static str;
}

macro_rules! words {
    ($($name:ty),*) => {
        $(impl Words for $name {
            fn word(&self) -> &'static str {
                self.as_str()
            }
        })*
    };
}

words!(JobState, AttemptState, Reason, WaitingReason);

impl Words for Role {
    fn word(&self) -> &'static str {
        self.as_str()
    }
}

/// Whether a log is whole: `open`, `complete` or `incomplete`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogWord(pub LogState);

impl Words for LogWord {
    fn word(&self) -> &'static str {
        match self.0 {
            LogState::Open => "open",
            LogState::Complete => "complete",
            LogState::Incomplete => "incomplete",
        }
    }
}

impl FromStr for LogWord {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "open" => Ok(Self(LogState::Open)),
            "complete" => Ok(Self(LogState::Complete)),
            "incomplete" => Ok(Self(LogState::Incomplete)),
            _ => Err(()),
        }
    }
}

impl<T: Words> Word<T> {
    /// The value, where this release knows it.
    #[must_use]
    pub fn known(&self) -> Option<T> {
        match self {
            Self::Known(value) => Some(*value),
            Self::Other(_) => None,
        }
    }

    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(value) => value.word(),
            Self::Other(word) => word,
        }
    }
}

impl Word<JobState> {
    /// Whether the job has ended. A state that this release does not know is taken as not ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.known().is_some_and(JobState::is_ended)
    }
}

impl<T: Words> From<T> for Word<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T: Words> fmt::Display for Word<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<T: Words> Serialize for Word<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, T: Words> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Ok(word.parse().map_or(Self::Other(word), Self::Known))
    }
}

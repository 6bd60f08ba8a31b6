//! The one error of all seams: it says what the caller does next.

use std::{error::Error as StdError, fmt, time::Duration};

/// A result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of thing went wrong; a caller decides by this, never by the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong; nothing was changed.
    Invalid,
    /// The thing asked for is not there.
    NotFound,
    /// The state of the thing does not allow this (a move outside the table, a failed compare-and-set).
    Conflict,
    /// The writer's epoch or lease is old: somebody else holds the attempt now. Let go of it.
    Fenced,
    /// An idempotency key came again with a different request.
    KeyReused,
    /// The backend cannot be reached or does not serve now.
    Unavailable,
    /// The engine has no room for it now.
    NoCapacity,
    /// The image could not be had: the registry says missing or forbidden.
    ImagePull,
    /// The engine refuses to run this as it is described.
    StartRefused,
    /// Still runs, and the request was not to use force.
    StillRuns,
    /// The adapter does not offer this; `capabilities()` says so.
    Unsupported,
    /// A fault of the adapter or of its backend that fits nothing else.
    Internal,
}

/// Whether the same call may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It would fail again.
    No,
    /// Soon, with back-off.
    Yes,
    /// Not before this time has passed.
    After(Duration),
}

/// An error of a seam. `Display` is a lowercase fragment without the source.
pub struct Error {
    kind: ErrorKind,
    retry: Retry,
    operation: &'static str,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of this kind, in this operation, with a message for a person.
    ///
    /// `Unavailable` and `NoCapacity` may be retried, the others not, unless [`Error::with_retry`] says otherwise.
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        let retry = match kind {
            ErrorKind::Unavailable | ErrorKind::NoCapacity => Retry::Yes,
            _ => Retry::No,
        };
        Self {
            kind,
            retry,
            operation,
            message: message.into(),
            source: None,
        }
    }

    /// The same with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same with another verdict on retrying.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// What kind of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same call may be sent again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.retry
    }

    /// The operation that failed, as `store.claim`.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// The message for a person, without operation and source.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Message and all causes in one line, for a log or a terminal.
    #[must_use]
    pub fn full(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(error) = next {
            let cause = error.to_string();
            if !text.contains(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
            next = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {}: {}", self.kind, self.operation, self.full())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_ref()
            .map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}

//! What can go wrong with logs, and the one mapping to the seam's error.

use std::time::Duration;

use object_store::Error as StoreError;
use robata_core::{AttemptId, Epoch, Error, ErrorKind, executor::Stream};

#[derive(Debug, thiserror::Error)]
pub(crate) enum LogsError {
    /// The object store's own fault. `place` says which folder or bucket.
    #[error("{place} cannot be {verb}")]
    Store {
        place: String,
        verb: &'static str,
        source: StoreError,
    },
    /// The object is not there (any more).
    #[error("{place} does not have this object (any more)")]
    Gone { place: String, source: StoreError },
    /// The object store hangs.
    #[error("{place} did not answer within {after:?}")]
    Hangs { place: String, after: Duration },
    /// The folder cannot be made or opened.
    #[error("{place} cannot be made or opened")]
    Folder { place: String, source: std::io::Error },
    /// An attempt's folder cannot be removed.
    #[error("{place} cannot be removed")]
    Remove { place: String, source: std::io::Error },
    /// An object that is cut, or was changed by somebody.
    #[error("the object {name} is damaged: {what}")]
    Damaged { name: String, what: &'static str },
    /// An object of a later release (PROTOCOL V1).
    #[error("the object {name} has format {format}, and this release reads up to {reads}")]
    TooNew { name: String, format: u8, reads: u8 },
    /// A chunk that is none.
    #[error("a chunk of {attempt} {what}")]
    BadChunk { attempt: AttemptId, what: &'static str },
    /// The writer is not the holder any more.
    #[error("the log of {attempt} was sealed with epoch {sealed}; epoch {epoch} is old")]
    Fenced {
        attempt: AttemptId,
        sealed: Epoch,
        epoch: Epoch,
    },
    /// A writer that goes on after its own seal.
    #[error("the log of {attempt} is sealed already, up to byte {kept} of {stream}")]
    Sealed {
        attempt: AttemptId,
        stream: &'static str,
        kept: u64,
    },
    /// A seal that does not say how the log ended.
    #[error("a seal of {attempt} must be complete or incomplete")]
    OpenSeal { attempt: AttemptId },
    /// A read that cannot be answered.
    #[error("an offset needs a stream: both together have no common one")]
    OffsetWithoutStream,
    /// The log went away while it was read.
    #[error("the log of {attempt} was deleted")]
    Deleted { attempt: AttemptId },
    /// The objects changed under the reader's hands again and again.
    #[error("the log of {attempt} does not come to rest")]
    Restless { attempt: AttemptId },
}

pub(crate) type Result<T, E = LogsError> = std::result::Result<T, E>;

impl LogsError {
    pub(crate) fn damaged(name: impl Into<String>, what: &'static str) -> Self {
        Self::Damaged {
            name: name.into(),
            what,
        }
    }

    /// Whether what was to be read cannot be, now and later, so that its bytes are missing.
    pub(crate) fn is_loss(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    /// Whether the object went away between listing and reading.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Store { .. }
            | Self::Hangs { .. }
            | Self::Folder { .. }
            | Self::Remove { .. }
            | Self::Restless { .. } => ErrorKind::Unavailable,
            Self::Gone { .. } | Self::Deleted { .. } => ErrorKind::NotFound,
            Self::Damaged { .. } => ErrorKind::Internal,
            Self::TooNew { .. } => ErrorKind::Unsupported,
            Self::BadChunk { .. } | Self::OpenSeal { .. } | Self::OffsetWithoutStream => ErrorKind::Invalid,
            Self::Fenced { .. } => ErrorKind::Fenced,
            Self::Sealed { .. } => ErrorKind::Conflict,
        }
    }

    /// The seam's error.
    pub(crate) fn at(self, operation: &'static str) -> Error {
        let error = Error::new(self.kind(), operation, self.to_string());
        match self {
            Self::Store { source, .. } | Self::Gone { source, .. } => error.with_source(source),
            Self::Folder { source, .. } | Self::Remove { source, .. } => error.with_source(source),
            _ => error,
        }
    }
}

/// How many bytes are missing from where, for a summary's reason.
pub(crate) fn missing(stream: Stream, from: u64, to: u64) -> String {
    format!("bytes {from} to {to} of {} are missing", stream.as_str())
}

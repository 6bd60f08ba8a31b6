//! What can go wrong in memory, and the one mapping to the seam's error.

use robata_core::{Error, ErrorKind, job::Line};

/// A fault of a caller: memory itself does not fail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// A body over the bound.
    #[error("a message for {line} has {bytes} bytes; at most {max} are taken (max_body_bytes)")]
    BodyTooLarge { line: Line, bytes: usize, max: usize },
    /// A weight of 0 would never be offered anything.
    #[error("the weight of {line} is 0; weights are counted from 1")]
    NoWeight { line: Line },
}

impl MemoryError {
    /// The seam's error.
    pub(crate) fn at(self, operation: &'static str) -> Error {
        Error::new(ErrorKind::Invalid, operation, self.to_string())
    }
}

//! What can be chosen about a memory queue.

/// The options of a [`MemoryQueue`](crate::MemoryQueue).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// The largest body, in bytes; a larger one is refused, with its whole batch. Default: 1 MiB.
    pub max_body_bytes: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            max_body_bytes: 1024 * 1024,
        }
    }
}

impl MemoryConfig {
    /// The same with another bound of bodies.
    #[must_use]
    pub fn with_max_body_bytes(mut self, max_body_bytes: usize) -> Self {
        self.max_body_bytes = max_body_bytes;
        self
    }
}

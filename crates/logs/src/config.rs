//! What can be chosen about where and how logs are kept.

use std::time::Duration;

/// The options of [`Logs`](crate::Logs).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogsConfig {
    /// At a seal, chunks that follow each other are merged into objects of up to so many bytes. Default: 4 MiB, which
    /// is also the memory that one seal takes.
    pub merge_bytes: u64,
    /// How often a reader that follows looks for what other processes have written. Default: 1 s.
    pub poll: Duration,
    /// How long one operation of the object store may take. Default: 30 s.
    pub operation_timeout: Duration,
    /// Whether a folder's files are on the disk, not only with the operating system, when an append or a seal answers.
    /// Default: no. Object storage has its own word on this.
    pub fsync: bool,
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self {
            merge_bytes: 4 * 1024 * 1024,
            poll: Duration::from_secs(1),
            operation_timeout: Duration::from_secs(30),
            fsync: false,
        }
    }
}

impl LogsConfig {
    /// The same with another size of merged objects.
    #[must_use]
    pub fn with_merge_bytes(mut self, merge_bytes: u64) -> Self {
        self.merge_bytes = merge_bytes;
        self
    }

    /// The same with another time between looks at what other processes have written.
    #[must_use]
    pub fn with_poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// The same with another bound of one operation.
    #[must_use]
    pub fn with_operation_timeout(mut self, operation_timeout: Duration) -> Self {
        self.operation_timeout = operation_timeout;
        self
    }

    /// The same with or without waiting for the disk.
    #[must_use]
    pub fn with_fsync(mut self, fsync: bool) -> Self {
        self.fsync = fsync;
        self
    }
}

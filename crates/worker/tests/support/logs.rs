//! One worker's way to the log store, with faults and gates.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use robata_core::{
    AttemptId, Result,
    attempt::LogSummary,
    log_store::{Chunk, Entry, LogStore, Progress, Read, Seal},
};
use robata_testkit::engine::Faults;

/// A log store behind faults.
#[derive(Debug)]
pub(crate) struct FaultyLogs {
    pub(crate) logs: Arc<dyn LogStore>,
    pub(crate) faults: Arc<Faults>,
}

#[async_trait]
impl LogStore for FaultyLogs {
    async fn append(&self, chunk: Chunk) -> Result<()> {
        self.faults.around("logs.append", self.logs.append(chunk)).await
    }
    async fn progress(&self, attempt: AttemptId) -> Result<Progress> {
        self.faults.around("logs.progress", self.logs.progress(attempt)).await
    }
    async fn seal(&self, seal: Seal) -> Result<LogSummary> {
        self.faults.around("logs.seal", self.logs.seal(seal)).await
    }
    async fn read(&self, read: Read) -> Result<BoxStream<'static, Result<Entry>>> {
        self.logs.read(read).await
    }
    async fn delete(&self, attempts: &[AttemptId]) -> Result<()> {
        self.logs.delete(attempts).await
    }
    async fn check(&self, timeout: Duration) -> Result<()> {
        self.logs.check(timeout).await
    }
}

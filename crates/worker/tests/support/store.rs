//! One worker's way to the store, with faults and gates: what happens to its calls happens to no other worker's.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use robata_core::{
    AttemptId, ClaimId, Epoch, ExecutorName, IncarnationId, InstallationId, JobId, Result,
    attempt::{AttemptChange, AttemptRecord, AttemptWrite, Claim, Claimed, HeldAttempt, Knowledge, Written},
    definition::{Catalog, CatalogWrite},
    job::{Acted, Cancel, Enqueue, Enqueued, JobDetail, JobRecord, Line, Reference, RetryByHand},
    store::{
        Adopt, AttemptStore, CatalogStore, Due, HeartbeatAnswer, Hint, JobStore, LineRecord, ListJobs, Pruned,
        Published, QueueCounts, Register, ScheduleStore, Store, Void, Window, WorkerRecord,
    },
};
use robata_testkit::engine::Faults;

/// A store behind faults.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) faults: Arc<Faults>,
}

/// The call's name by what is written first: most tests write about one attempt at a time.
fn written(writes: &[AttemptWrite]) -> &'static str {
    match writes.first().map(|write| &write.change) {
        Some(AttemptChange::Waiting(_)) => "record.waiting",
        Some(AttemptChange::Prepared { .. }) => "record.prepared",
        Some(AttemptChange::Started { .. }) => "record.started",
        Some(AttemptChange::Stopping(_)) => "record.stopping",
        Some(AttemptChange::Ended(_)) => "record.ended",
        Some(AttemptChange::Finalised(_)) => "record.finalised",
        _ => "record.other",
    }
}

#[async_trait]
impl JobStore for FaultyStore {
    async fn enqueue(&self, request: Enqueue) -> Result<Vec<Result<Enqueued>>> {
        self.store.enqueue(request).await
    }
    async fn cancel(&self, request: Cancel) -> Result<Acted> {
        self.store.cancel(request).await
    }
    async fn retry(&self, request: RetryByHand) -> Result<Acted> {
        self.store.retry(request).await
    }
    async fn follow(&self, attempt: AttemptId, lasting: Duration) -> Result<()> {
        self.store.follow(attempt, lasting).await
    }
    async fn job(&self, id: JobId) -> Result<JobDetail> {
        self.faults.around("store.job", self.store.job(id)).await
    }
    async fn jobs(&self, request: ListJobs) -> Result<Vec<JobRecord>> {
        self.store.jobs(request).await
    }
    async fn queue_counts(&self) -> Result<Vec<QueueCounts>> {
        self.store.queue_counts().await
    }
}

#[async_trait]
impl AttemptStore for FaultyStore {
    async fn register(&self, request: Register) -> Result<()> {
        self.faults.around("store.register", self.store.register(request)).await
    }
    async fn heartbeat(&self, incarnation: IncarnationId) -> Result<HeartbeatAnswer> {
        let beat = self.store.heartbeat(incarnation);
        self.faults.around("store.heartbeat", beat).await
    }
    async fn held(&self, incarnation: IncarnationId) -> Result<Vec<(AttemptId, Epoch)>> {
        self.faults.around("store.held", self.store.held(incarnation)).await
    }
    async fn claim(&self, request: Claim) -> Result<Vec<Claimed>> {
        self.faults.around("store.claim", self.store.claim(request)).await
    }
    async fn claimed(&self, incarnation: IncarnationId, claim: ClaimId) -> Result<Vec<HeldAttempt>> {
        let claimed = self.store.claimed(incarnation, claim);
        self.faults.around("store.claimed", claimed).await
    }
    async fn record(&self, writes: Vec<AttemptWrite>) -> Result<Vec<Result<Written>>> {
        let call = written(&writes);
        self.faults.around(call, self.store.record(writes)).await
    }
    async fn adopt(&self, request: Adopt) -> Result<Vec<HeldAttempt>> {
        self.faults.around("store.adopt", self.store.adopt(request)).await
    }
    async fn release(&self, incarnation: IncarnationId) -> Result<()> {
        self.faults
            .around("store.release", self.store.release(incarnation))
            .await
    }
    async fn known(&self, attempts: &[AttemptId]) -> Result<Vec<Knowledge>> {
        self.faults.around("store.known", self.store.known(attempts)).await
    }
    async fn workers(&self) -> Result<Vec<WorkerRecord>> {
        self.store.workers().await
    }
}

#[async_trait]
impl ScheduleStore for FaultyStore {
    async fn due(&self, max: usize) -> Result<Due> {
        self.store.due(max).await
    }
    async fn lines(&self) -> Result<Vec<LineRecord>> {
        self.faults.around("store.lines", self.store.lines()).await
    }
    async fn references(&self, window: Window) -> Result<Vec<Reference>> {
        self.store.references(window).await
    }
    async fn published(&self, published: Published) -> Result<()> {
        self.store.published(published).await
    }
    async fn void(&self, line: &Line, what: Void) -> Result<usize> {
        self.store.void(line, what).await
    }
    async fn judge(&self) -> Result<usize> {
        self.store.judge().await
    }
    async fn settle_lost(
        &self,
        after: &BTreeMap<ExecutorName, Option<Duration>>,
        default: Duration,
    ) -> Result<Vec<AttemptId>> {
        self.store.settle_lost(after, default).await
    }
    async fn prune(&self, max: usize) -> Result<Pruned> {
        self.store.prune(max).await
    }
    async fn logs_removed(&self, attempts: &[AttemptId]) -> Result<()> {
        self.store.logs_removed(attempts).await
    }
}

#[async_trait]
impl CatalogStore for FaultyStore {
    async fn catalog(&self) -> Result<Catalog> {
        self.store.catalog().await
    }
    async fn change_catalog(&self, revision: u64, writes: Vec<CatalogWrite>, by: &str) -> Result<Catalog> {
        self.store.change_catalog(revision, writes, by).await
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn installation(&self) -> InstallationId {
        self.store.installation()
    }
    fn hints(&self) -> BoxStream<'static, Hint> {
        self.store.hints()
    }
    async fn check(&self, timeout: Duration) -> Result<()> {
        self.store.check(timeout).await
    }
    async fn attempt(&self, id: AttemptId) -> Result<AttemptRecord> {
        self.store.attempt(id).await
    }
}

//! A store behind faults and gates: one worker's or scheduler's way to it, so that what happens to its calls happens to
//! nobody else's.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use robata_core::{
    AppName, AttemptId, ClaimId, Epoch, ExecutorName, Format, IncarnationId, InstallationId, JobId, QueueName, Result,
    Timestamp, TokenName,
    accept::{AcceptStore, TakenIn, WholeJob},
    access::{AuditRecord, ListAudit, NewToken, Token, Tokens},
    attempt::{AttemptChange, AttemptRecord, AttemptWrite, Claim, Claimed, HeldAttempt, Knowledge, Written},
    definition::{Catalog, CatalogWrite},
    executor::RealmId,
    job::{Acted, Cancel, Enqueue, Enqueued, JobDetail, JobRecord, Key, Line, Reference, RetryByHand},
    store::{
        AccessStore, Adopt, AttemptStore, CatalogStore, Due, Formats, HeartbeatAnswer, Hint, JobStore, Judged,
        LineRecord, ListJobs, Mark, Pause, Pruned, Published, QueueCounts, Register, ScheduleStore, SetAside,
        SetAsideRecord, Store, Void, Window, WorkerRecord,
    },
};

use crate::engine::Faults;

/// A store behind faults; its calls are named `store.METHOD`, writes about attempts `record.WHAT`.
#[derive(Debug)]
pub struct FaultyStore {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What happens to the calls.
    pub faults: Arc<Faults>,
    /// Whether it hears no hints: they are lossy by contract, and nothing may depend on them.
    pub deaf: bool,
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
        self.faults.around("store.enqueue", self.store.enqueue(request)).await
    }
    async fn replays(&self, keys: Vec<(AppName, Key)>) -> Result<Vec<Result<Option<JobRecord>>>> {
        self.faults.around("store.replays", self.store.replays(keys)).await
    }
    async fn cancel(&self, request: Cancel) -> Result<Acted> {
        self.faults.around("store.cancel", self.store.cancel(request)).await
    }
    async fn retry(&self, request: RetryByHand) -> Result<Acted> {
        self.faults.around("store.retry", self.store.retry(request)).await
    }
    async fn follow(&self, attempt: AttemptId, lasting: Duration) -> Result<()> {
        self.faults
            .around("store.follow", self.store.follow(attempt, lasting))
            .await
    }
    async fn job(&self, id: JobId) -> Result<JobDetail> {
        self.faults.around("store.job", self.store.job(id)).await
    }
    async fn jobs(&self, request: ListJobs) -> Result<Vec<JobRecord>> {
        self.faults.around("store.jobs", self.store.jobs(request)).await
    }
    async fn queue_counts(&self) -> Result<Vec<QueueCounts>> {
        self.faults
            .around("store.queue_counts", self.store.queue_counts())
            .await
    }
    async fn pause(&self, queue: &QueueName, reason: Option<&str>, by: &str) -> Result<bool> {
        self.faults
            .around("store.pause", self.store.pause(queue, reason, by))
            .await
    }
    async fn paused(&self) -> Result<BTreeMap<QueueName, Pause>> {
        self.faults.around("store.paused", self.store.paused()).await
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
        self.faults.around("store.workers", self.store.workers()).await
    }
    async fn drain(&self, incarnation: IncarnationId, by: &str) -> Result<()> {
        self.faults
            .around("store.drain", self.store.drain(incarnation, by))
            .await
    }
    async fn set_aside(&self, messages: Vec<SetAside>) -> Result<()> {
        self.faults
            .around("store.set_aside", self.store.set_aside(messages))
            .await
    }
    async fn set_aside_list(&self, before: Option<u64>, limit: usize) -> Result<Vec<SetAsideRecord>> {
        self.faults
            .around("store.set_aside_list", self.store.set_aside_list(before, limit))
            .await
    }
}

#[async_trait]
impl ScheduleStore for FaultyStore {
    async fn due(&self, max: usize) -> Result<Due> {
        self.faults.around("store.due", self.store.due(max)).await
    }
    async fn lines(&self) -> Result<Vec<LineRecord>> {
        self.faults.around("store.lines", self.store.lines()).await
    }
    async fn references(&self, window: Window) -> Result<Vec<Reference>> {
        self.faults
            .around("store.references", self.store.references(window))
            .await
    }
    async fn published(&self, published: Published) -> Result<()> {
        self.faults
            .around("store.published", self.store.published(published))
            .await
    }
    async fn void(&self, line: &Line, what: Void) -> Result<usize> {
        self.faults.around("store.void", self.store.void(line, what)).await
    }
    async fn formats(&self) -> Result<Formats> {
        self.faults.around("store.formats", self.store.formats()).await
    }
    async fn judge(&self, mark: Mark) -> Result<Judged> {
        self.faults.around("store.judge", self.store.judge(mark)).await
    }
    async fn settle_lost(
        &self,
        after: &BTreeMap<ExecutorName, Option<Duration>>,
        default: Duration,
    ) -> Result<Vec<AttemptId>> {
        self.faults
            .around("store.settle_lost", self.store.settle_lost(after, default))
            .await
    }
    async fn lose(&self, realm: &RealmId, by: &str) -> Result<Vec<AttemptId>> {
        self.faults.around("store.lose", self.store.lose(realm, by)).await
    }
    async fn prune(&self, max: usize) -> Result<Pruned> {
        self.faults.around("store.prune", self.store.prune(max)).await
    }
    async fn logs_removed(&self, attempts: &[AttemptId]) -> Result<()> {
        self.faults
            .around("store.logs_removed", self.store.logs_removed(attempts))
            .await
    }
}

#[async_trait]
impl CatalogStore for FaultyStore {
    async fn catalog(&self) -> Result<Catalog> {
        self.faults.around("store.catalog", self.store.catalog()).await
    }
    async fn change_catalog(&self, revision: u64, writes: Vec<CatalogWrite>, by: &str) -> Result<Catalog> {
        self.faults
            .around("store.change_catalog", self.store.change_catalog(revision, writes, by))
            .await
    }
}

#[async_trait]
impl AccessStore for FaultyStore {
    async fn tokens(&self) -> Result<Tokens> {
        self.faults.around("store.tokens", self.store.tokens()).await
    }
    async fn create_token(&self, token: NewToken, by: &str) -> Result<Token> {
        self.faults
            .around("store.create_token", self.store.create_token(token, by))
            .await
    }
    async fn revoke_token(&self, name: &TokenName, by: &str) -> Result<()> {
        self.faults
            .around("store.revoke_token", self.store.revoke_token(name, by))
            .await
    }
    async fn audit(&self, request: ListAudit) -> Result<Vec<AuditRecord>> {
        self.faults.around("store.audit", self.store.audit(request)).await
    }
}

#[async_trait]
impl AcceptStore for FaultyStore {
    async fn take_in(&self, jobs: Vec<WholeJob>) -> Result<Vec<Result<TakenIn>>> {
        self.faults.around("store.take_in", self.store.take_in(jobs)).await
    }
    async fn note_outage(&self, since: Timestamp) -> Result<()> {
        self.faults
            .around("store.note_outage", self.store.note_outage(since))
            .await
    }
    async fn outages(&self) -> Result<Vec<i64>> {
        self.faults.around("store.outages", self.store.outages()).await
    }
    async fn outages_over(&self, outages: &[i64]) -> Result<()> {
        self.faults
            .around("store.outages_over", self.store.outages_over(outages))
            .await
    }
    async fn may_come(&self, id: JobId) -> Result<bool> {
        self.faults.around("store.may_come", self.store.may_come(id)).await
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn installation(&self) -> InstallationId {
        self.store.installation()
    }
    fn format(&self) -> Format {
        self.store.format()
    }
    fn hints(&self) -> BoxStream<'static, Hint> {
        if self.deaf {
            return futures::StreamExt::boxed(futures::stream::pending());
        }
        self.store.hints()
    }
    async fn check(&self, timeout: Duration) -> Result<()> {
        self.faults.around("store.check", self.store.check(timeout)).await
    }
    async fn attempt(&self, id: AttemptId) -> Result<AttemptRecord> {
        self.faults.around("store.attempt", self.store.attempt(id)).await
    }
}

//! The seam to the system of record, in a few traits by who uses it. Time is the store's (PROTOCOL T1): no method takes `now`.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::{
    Timestamp,
    accept::AcceptStore,
    access::{AuditRecord, ListAudit, NewToken, Token, Tokens},
    attempt::{AttemptRecord, AttemptWrite, Claim, Claimed, HeldAttempt, Knowledge, Written},
    definition::{Catalog, CatalogWrite},
    error::Result,
    executor::RealmId,
    format::Format,
    id::{AttemptId, ClaimId, Epoch, IncarnationId, InstallationId, JobId},
    job::{Acted, Cancel, Enqueue, Enqueued, JobDetail, JobRecord, Key, Line, Reference, RetryByHand},
    name::{AppName, ExecutorName, JobName, QueueName, TokenName},
    queue::BrokerKey,
    state::{JobState, Reason},
};

/// A worker's lease lasts this long from each heartbeat (PROTOCOL H3).
pub const LEASE: Duration = Duration::from_secs(12);
/// A worker's heartbeats are this far apart.
pub const HEARTBEAT: Duration = Duration::from_secs(3);
/// A heartbeat is given up after this time.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// Masters write their mark this often (PROTOCOL H4).
pub const MARK: Duration = Duration::from_secs(2);
/// An attempt that ended, lost or not, and is not finalised keeps its job at least this long, whatever the retention: its
/// realm may return, and whoever adopts the attempt then stops and removes what is left of it (PROTOCOL H6). After that what
/// is found there is unknown, and removed as such (PROTOCOL C1).
pub const REALM_AWAITED: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a store tells whoever listens; lossy: every listener also looks by itself from time to time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// Something may have to go out in this line.
    Line(Line),
    /// Something was scheduled that is due after this time.
    Due(Duration),
    /// Somebody asked something of this attempt (cancel, follow).
    Attempt(AttemptId),
    /// This job has changed its state.
    Job(JobId),
    /// There are attempts to adopt.
    Orphans,
    /// The catalog has a new revision.
    Catalog,
    /// A token was made or revoked.
    Tokens,
    /// Hints may have been missed: whoever acts on one looks by itself now.
    Gap,
}

/// A worker's registration.
#[derive(Clone, Debug)]
pub struct Register {
    /// The new incarnation.
    pub incarnation: IncarnationId,
    /// The host's name, for people.
    pub host: String,
    /// The process id, for people.
    pub pid: u32,
    /// The executors it has, with their realms and slots. A realm that cannot be reached yet is left out.
    pub executors: BTreeMap<ExecutorName, WorkerExecutor>,
    /// The newest format that it reads (PROTOCOL V1).
    pub format: Format,
}

/// An executor of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerExecutor {
    /// The realm, where it is reached.
    pub realm: Option<RealmId>,
    /// Attempts it takes at once.
    pub slots: u32,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// How many attempts are held in the incarnation's name.
    pub held: u64,
    /// A hash over their ids and epochs, order-free: the wrapping sum of [`held_hash`].
    pub hash: u64,
    /// Held attempts for which somebody asked to cancel.
    pub cancel_requested: Vec<AttemptId>,
    /// Held attempts whose log somebody follows now (PROTOCOL X7): the hint of it may have been lost.
    pub followed: Vec<AttemptId>,
    /// Somebody asked this worker to take nothing new, and to leave once what it holds has ended.
    pub drain: bool,
}

/// One attempt's part of a heartbeat's hash: the first 8 bytes of the job's random half, mixed with number and epoch.
#[must_use]
pub fn held_hash(attempt: AttemptId, epoch: Epoch) -> u64 {
    let mut half = [0; 8];
    half.copy_from_slice(&attempt.job.as_bytes()[8..]);
    let mixed = u64::from_be_bytes(half) ^ (u64::from(attempt.number) << 32 | u64::from(epoch));
    mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// A request to adopt.
#[derive(Clone, Debug)]
pub struct Adopt {
    /// The new holder.
    pub incarnation: IncarnationId,
    /// The realms that it has proved to reach, by executor. Attempts without a recorded realm go by their executor.
    pub realms: BTreeMap<ExecutorName, RealmId>,
    /// Only these, and of these also what the adopter itself holds (PROTOCOL H3's net); where `None`, every attempt
    /// whose holder's lease has ended.
    pub only: Option<Vec<AttemptId>>,
    /// At most so many in one transaction.
    pub max: usize,
    /// The newest format that the adopter reads: what is newer is left for another (PROTOCOL V1).
    pub format: Format,
}

/// A master's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The master's run.
    pub master: IncarnationId,
    /// The newest format that it reads (PROTOCOL V1).
    pub format: Format,
}

/// What judging found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// How many leases it ended.
    pub ended: usize,
    /// The format in use from now on.
    pub format: Format,
}

/// A master as the store tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MasterRecord {
    /// Its last mark.
    pub mark: Mark,
    /// When it was written.
    pub marked_at: Timestamp,
}

/// Who announces which format (PROTOCOL V1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formats {
    /// The format in use.
    pub in_use: Format,
    /// Masters whose mark is fresh.
    pub masters: Vec<MasterRecord>,
}

/// A worker as the store tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerRecord {
    /// The incarnation.
    pub incarnation: IncarnationId,
    /// The host's name.
    pub host: String,
    /// The process id.
    pub pid: u32,
    /// Its executors.
    pub executors: BTreeMap<ExecutorName, WorkerExecutor>,
    /// When it registered.
    pub started_at: Timestamp,
    /// Its last heartbeat.
    pub seen_at: Timestamp,
    /// Attempts it holds.
    pub held: u64,
    /// When its lease ended, if it has.
    pub ended_at: Option<Timestamp>,
    /// Whether it was asked to drain.
    pub draining: bool,
    /// The newest format that it reads.
    pub format: Format,
}

/// A queue that was paused: its waiting jobs stay where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Why, for people.
    pub reason: String,
    /// Who paused it.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
}

/// A message that could not be taken in, kept with its reason for people to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Where it came from: a line as text, or the name of an intake.
    pub source: String,
    /// Why it could not be taken in.
    pub reason: String,
    /// Its body as it came.
    pub body: Bytes,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
}

/// A message that was set aside, as the store tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAsideRecord {
    /// Its number; grows.
    pub seq: u64,
    /// When it was set aside.
    pub at: Timestamp,
    /// The message.
    pub message: SetAside,
}

/// What the due loop did.
#[derive(Clone, Debug, Default)]
pub struct Due {
    /// Jobs that became due.
    pub moved: usize,
    /// Jobs that had expired while they waited, and ended.
    pub expired: usize,
    /// The lines they are in that became due.
    pub lines: Vec<Line>,
    /// The time to the next job that is due or expires, where there is one; zero where there are more now, or somebody else
    /// has them locked.
    pub next: Option<Duration>,
}

/// How a line stands in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineRecord {
    /// The line.
    pub line: Line,
    /// Queued jobs.
    pub queued: u64,
    /// Of these, how many are out in the broker.
    pub published: u64,
    /// The age of the oldest publication.
    pub oldest_publication: Option<Duration>,
}

/// A request for the next references of a line (PROTOCOL O2).
#[derive(Clone, Debug)]
pub struct Window {
    /// The line.
    pub line: Line,
    /// How many may be out.
    pub size: usize,
}

/// References that were published.
#[derive(Clone, Debug)]
pub struct Published {
    /// The line.
    pub line: Line,
    /// Its broker key when they went out.
    pub broker_key: BrokerKey,
    /// The references.
    pub references: Vec<Reference>,
    /// The format that they were written in (PROTOCOL V1).
    pub format: Format,
}

/// Which publications of a line are void, so that they go out again (PROTOCOL O3).
#[derive(Clone, Debug)]
pub enum Void {
    /// Those that went out under another broker key than this.
    OtherKey(BrokerKey),
    /// Those at least this old, doubled for each time they went out before; at most `max` of them.
    OlderThan {
        /// The age.
        age: Duration,
        /// At most so many.
        max: usize,
    },
}

/// Ended jobs that are past their retention and were removed.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// Jobs removed.
    pub jobs: usize,
    /// Attempts whose logs must be removed now; they are told again until [`ScheduleStore::logs_removed`] is called.
    pub logs: Vec<AttemptId>,
}

/// A filter and a page of jobs, newest first.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListJobs {
    /// Of this app.
    pub app: Option<AppName>,
    /// Of this definition.
    pub job: Option<JobName>,
    /// In this queue.
    pub queue: Option<QueueName>,
    /// In one of these states; empty: all.
    pub states: Vec<JobState>,
    /// With this reason.
    pub reason: Option<Reason>,
    /// With all of these labels.
    pub labels: Vec<(String, String)>,
    /// Stored at or after.
    pub since: Option<Timestamp>,
    /// Stored before.
    pub until: Option<Timestamp>,
    /// Only jobs older than this one (keyset pagination).
    pub after: Option<JobId>,
    /// At most so many.
    pub limit: usize,
}

/// Counts of a queue and executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueCounts {
    /// The line.
    pub line: Line,
    /// Jobs by state: scheduled, queued, running.
    pub scheduled: u64,
    /// Queued jobs.
    pub queued: u64,
    /// Running jobs.
    pub running: u64,
}

/// Jobs, as enqueuers and operators use them.
///
/// # Contract
/// `robata_testkit::store` has a case for every sentence.
///
/// - `enqueue` MUST answer in the order of its jobs, and only once they are durable. One bad item MUST be refused alone,
///   unless `atomic`. It MUST put each job into the line of its definition as the catalog stands in that commit (PROTOCOL O1),
///   but leave a queue that the enqueuer chose, and one-offs.
/// - A key that is known MUST answer with its first job; with another request it MUST be `KeyReused`. Of concurrent
///   enqueues with one key exactly one MUST make a job. `replays` MUST answer the same for keys alone, also where the job's
///   definition is gone, and MUST store nothing.
/// - `cancel` of a waiting job MUST end it; of a running one it MUST only record the request; again it MUST change nothing;
///   of an ended job it MUST be `Conflict`, but of a cancelled one it changes nothing.
/// - `retry` MUST make a failed job `queued` with one attempt more; of a job that waits or runs it MUST change nothing;
///   else it MUST be `Conflict`.
/// - A payload MUST come back as the bytes that went in.
/// - From the answer of `pause` on no claim MUST take a job of that queue, whoever received its reference before, and
///   `references` MUST give none; its jobs MUST wait for the reason `paused`, also after a restart. Resumed, every one of
///   them MUST go out again, and its lines MUST be hinted at.
#[async_trait]
pub trait JobStore: fmt::Debug + Send + Sync {
    /// Stores jobs.
    async fn enqueue(&self, request: Enqueue) -> Result<Vec<Result<Enqueued>>>;
    /// The first jobs of these keys, in their order; `None` where a key is not known.
    async fn replays(&self, keys: Vec<(AppName, Key)>) -> Result<Vec<Result<Option<JobRecord>>>>;
    /// Asks to cancel a job.
    async fn cancel(&self, request: Cancel) -> Result<Acted>;
    /// Retries a failed job by hand.
    async fn retry(&self, request: RetryByHand) -> Result<Acted>;
    /// Notes that somebody follows an attempt's log for this long.
    async fn follow(&self, attempt: AttemptId, lasting: Duration) -> Result<()>;
    /// A job whole. MUST show job and attempts as they were at one moment.
    async fn job(&self, id: JobId) -> Result<JobDetail>;
    /// Jobs without payloads, newest first. MUST use keysets, never OFFSET.
    async fn jobs(&self, request: ListJobs) -> Result<Vec<JobRecord>>;
    /// Counts by line. MUST NOT scan the jobs.
    async fn queue_counts(&self) -> Result<Vec<QueueCounts>>;
    /// Pauses a queue, or with `None` resumes it; answers whether that changed anything. A queue that is paused already
    /// gets the new reason.
    async fn pause(&self, queue: &QueueName, reason: Option<&str>, by: &str) -> Result<bool>;
    /// The paused queues.
    async fn paused(&self) -> Result<BTreeMap<QueueName, Pause>>;
}

/// Attempts, as workers use them.
///
/// # Contract
/// `robata_testkit::store` has a case for every sentence.
///
/// - Every method that takes an incarnation MUST be `Fenced` where its lease has ended; a lease that ended MUST stay so.
/// - `claim` MUST give each reference to at most one claim; it MUST respect `max_running` of queue, app and definition, and
///   MUST answer in the order of its references. A job whose line has changed is `Gone`. It MUST freeze the definition.
/// - `claimed` MUST answer what the claim of this number holds, payloads included, also where its own answer was lost.
/// - `record` MUST refuse a write with an old epoch as `Fenced` and a move outside the table as `Conflict`, each alone;
///   `Ended` MUST decide by [`crate::finish::decide`], reading the cancel request in the same transaction. The same
///   `Ended` or `Finalised` sent again MUST answer well.
/// - `Prepared` MUST be `Conflict` where another handle is recorded already.
/// - `adopt` MUST raise the epoch of what it gives, MUST give only what no live lease holds, and of each attempt to one
///   adopter; attempts that ended and are not finalised are given, too. It MUST NOT give, nor read, payloads: an adopter
///   starts nothing (PROTOCOL X1), and hundreds of large ones at once would not come through in time.
/// - `register` of a worker that announces an older format than the one in use MUST put that one in use at once: from its
///   answer on no claim freezes a request in a newer one, and what is out MUST go out again (PROTOCOL V1).
/// - `claim` MUST freeze its requests in the format in use.
/// - `adopt` MUST NOT give what is frozen in a newer format than the adopter reads; the others MUST be given all the same.
/// - `release` MUST end the lease so that others adopt at once.
/// - `heartbeat` MUST tell what is held and followed, and whether somebody asked to drain; a worker that was asked MUST be
///   shown so, and MUST NOT count as one that takes jobs. `drain` MUST be `NotFound` for an unknown worker and `Conflict`
///   where its lease has ended; again it MUST change nothing.
/// - What `set_aside` was given MUST be told with its reason, as it came, newest first, also after a restart; the newest
///   10,000 at least MUST be kept.
#[async_trait]
pub trait AttemptStore: fmt::Debug + Send + Sync {
    /// Begins an incarnation's lease; again, with one that lives: replaces its executors.
    async fn register(&self, request: Register) -> Result<()>;
    /// Renews the lease.
    async fn heartbeat(&self, incarnation: IncarnationId) -> Result<HeartbeatAnswer>;
    /// Everything held in the incarnation's name: the net below (PROTOCOL H3).
    async fn held(&self, incarnation: IncarnationId) -> Result<Vec<(AttemptId, Epoch)>>;
    /// Claims.
    async fn claim(&self, request: Claim) -> Result<Vec<Claimed>>;
    /// What a claim holds whose answer was lost.
    async fn claimed(&self, incarnation: IncarnationId, claim: ClaimId) -> Result<Vec<HeldAttempt>>;
    /// Writes about attempts.
    async fn record(&self, writes: Vec<AttemptWrite>) -> Result<Vec<Result<Written>>>;
    /// Takes over; the payloads of what is given are `null`.
    async fn adopt(&self, request: Adopt) -> Result<Vec<HeldAttempt>>;
    /// Ends a lease in good order.
    async fn release(&self, incarnation: IncarnationId) -> Result<()>;
    /// What is known of attempts whose things were found in a realm, in their order.
    async fn known(&self, attempts: &[AttemptId]) -> Result<Vec<Knowledge>>;
    /// Workers, live ones first.
    async fn workers(&self) -> Result<Vec<WorkerRecord>>;
    /// Asks a worker to drain: its next heartbeats say so. `NotFound` for an unknown one, `Conflict` where its lease has
    /// ended.
    async fn drain(&self, incarnation: IncarnationId, by: &str) -> Result<()>;
    /// Keeps messages that could not be taken in, with their reasons.
    async fn set_aside(&self, messages: Vec<SetAside>) -> Result<()>;
    /// What was set aside, newest first, with numbers below `before`.
    async fn set_aside_list(&self, before: Option<u64>, limit: usize) -> Result<Vec<SetAsideRecord>>;
}

/// The loops of the scheduler.
///
/// # Contract
/// `robata_testkit::store` has a case for every sentence.
///
/// - `due` MUST move what is due to `queued`, at most `max`, and end what has expired while it waited, at most `max` of these,
///   too; it MUST tell how many of both.
/// - `references` MUST give what is queued and not out, by priority, then the apps in turn, then age, and nothing whose
///   `max_running` leaves no room; it MUST give no more than the window leaves.
///   What a limit leaves MUST be shared in the same order. What is out in a line from which no live worker receives, or whose
///   queue is paused, MUST NOT take the room of a limit from other lines.
/// - `published` MUST be a compare-and-set on (job, attempt, `queued`): what was claimed meanwhile stays as it is, and what
///   a claim gave back meanwhile (over a limit, paused) MUST go out again, for brokers deliver before they confirm.
/// - `published` MUST note nothing as out that was written in a newer format than the one in use: it goes out again.
/// - `void` MUST make publications go out again, and MUST NOT touch what is claimed.
/// - `judge` MUST end leases that have expired by the store's clock, and MUST move its judgement by a whole lease after a
///   gap in all marks (PROTOCOL H4).
/// - The format in use MUST be that of the oldest live daemon: of the workers whose lease has not ended and the masters whose
///   mark is at most a lease old. `judge` MUST let it rise only after marks came without a gap for a whole lease, and MUST let
///   it fall at once, as `register` does; then what is out MUST go out again (PROTOCOL V1).
/// - `settle_lost` MUST end as lost only attempts whose holder's lease ended at least this long ago and that nobody adopted;
///   time counts only since marks came without a gap, and not at all during one (PROTOCOL H6).
/// - `lose` MUST end at once as lost what lives in the realm, and nothing else; it MUST be `Conflict`, and change nothing,
///   where a live worker reaches the realm or holds something in it.
/// - `prune` MUST remove ended jobs past their app's retention, and none that waits or runs. A job with an attempt that is not
///   finalised MUST stay as long as a live lease holds that, and [`REALM_AWAITED`] after its end, but no longer: a realm that
///   never returns finalises nothing. Logs that are not removed MUST NOT keep others from being told.
#[async_trait]
pub trait ScheduleStore: fmt::Debug + Send + Sync {
    /// Moves what is due.
    async fn due(&self, max: usize) -> Result<Due>;
    /// Lines that have queued jobs.
    async fn lines(&self) -> Result<Vec<LineRecord>>;
    /// What goes out next.
    async fn references(&self, window: Window) -> Result<Vec<Reference>>;
    /// Notes what went out.
    async fn published(&self, published: Published) -> Result<()>;
    /// Voids publications; answers how many.
    async fn void(&self, line: &Line, what: Void) -> Result<usize>;
    /// Writes this master's mark, ends expired leases, and puts the format in use that all live daemons read.
    async fn judge(&self, mark: Mark) -> Result<Judged>;
    /// The format in use, and the masters that announce theirs.
    async fn formats(&self) -> Result<Formats>;
    /// Ends as lost what nobody came for; an executor that is not named has the default, `None` means never.
    async fn settle_lost(
        &self,
        after: &BTreeMap<ExecutorName, Option<Duration>>,
        default: Duration,
    ) -> Result<Vec<AttemptId>>;
    /// Ends at once as lost what ran in a realm that is gone for good, by the word of a person; answers what. `Conflict`
    /// where a live worker reaches the realm.
    async fn lose(&self, realm: &RealmId, by: &str) -> Result<Vec<AttemptId>>;
    /// Removes what is past its retention.
    async fn prune(&self, max: usize) -> Result<Pruned>;
    /// Notes that these logs are removed.
    async fn logs_removed(&self, attempts: &[AttemptId]) -> Result<()>;
}

/// The catalog.
///
/// # Contract
/// - `change_catalog` MUST do all writes or none, MUST be `Conflict` where the revision has moved on, MUST record who did
///   it, and MUST move waiting jobs of changed definitions to their new line, their publication void (PROTOCOL O1), but
///   leave a queue that the enqueuer chose.
#[async_trait]
pub trait CatalogStore: fmt::Debug + Send + Sync {
    /// The catalog as it stands.
    async fn catalog(&self) -> Result<Catalog>;
    /// Changes it; answers the new one.
    async fn change_catalog(&self, revision: u64, writes: Vec<CatalogWrite>, by: &str) -> Result<Catalog>;
}

/// Tokens, and who did what.
///
/// # Contract
/// `robata_testkit::store` has a case for every sentence.
///
/// - `create_token` MUST be `Conflict` where a token of that name is not revoked, expired or not; a revoked one's name is
///   free again. Of concurrent ones with one name exactly one MUST make a token.
/// - `tokens` MUST tell every token that is not revoked, also expired ones, and `ever` MUST stay true from the first one on.
/// - `revoke_token` MUST be `NotFound` where no token of that name is left to revoke.
/// - From the answer of `create_token` and `revoke_token` on every call of `tokens` MUST tell the new state, and
///   [`Hint::Tokens`] MUST be given.
/// - `audit` MUST tell, newest first, who made and revoked tokens, changed the catalog, ran one-offs, cancelled and retried
///   jobs, paused and resumed queues, drained workers and called realms lost; what changed nothing MUST NOT be told. Each is
///   written with the change, in one transaction. Records a year old MAY be removed.
/// - What ended 30 days ago or longer, revoked or expired, `prune` MAY remove, but `ever` MUST stay true and no token that is
///   valid MUST be touched.
#[async_trait]
pub trait AccessStore: fmt::Debug + Send + Sync {
    /// The tokens as they stand.
    async fn tokens(&self) -> Result<Tokens>;
    /// Makes a token.
    async fn create_token(&self, token: NewToken, by: &str) -> Result<Token>;
    /// Revokes a token.
    async fn revoke_token(&self, name: &TokenName, by: &str) -> Result<()>;
    /// Who did what. MUST use keysets, never OFFSET.
    async fn audit(&self, request: ListAudit) -> Result<Vec<AuditRecord>>;
}

/// The whole store.
#[async_trait]
pub trait Store: JobStore + AttemptStore + ScheduleStore + CatalogStore + AccessStore + AcceptStore + 'static {
    /// The installation's id, made once (PROTOCOL R2).
    fn installation(&self) -> InstallationId;
    /// The format in use as this process last saw it, by judging, registering, a heartbeat, a claim or a publication; before
    /// that the oldest that this release reads. It asks nobody.
    fn format(&self) -> Format;
    /// What the store tells whoever listens. A slow listener loses hints, never blocks a writer; where it lost some, or
    /// the store heard nothing for a while from other processes, [`Hint::Gap`] stands in their place.
    fn hints(&self) -> BoxStream<'static, Hint>;
    /// Whether it serves: a real write, within `timeout`.
    async fn check(&self, timeout: Duration) -> Result<()>;
    /// An attempt's record, for those who read logs.
    async fn attempt(&self, id: AttemptId) -> Result<AttemptRecord>;
}

//! [`PostgresStore`]: the traits of the seam, each call given to a group's writers or to a transaction of its own.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use robata_core::{
    AppName, AttemptId, Epoch, Error, ErrorKind, ExecutorName, Format, IncarnationId, InstallationId, JobId, QueueName,
    Result, Timestamp, TokenName,
    accept::{AcceptStore, TakenIn, WholeJob},
    access::{AuditRecord, ListAudit, NewToken, Token, Tokens},
    attempt::{AttemptRecord, AttemptWrite, Claim, Claimed, HeldAttempt, Knowledge, Written},
    definition::{Catalog, CatalogWrite},
    executor::RealmId,
    id::ClaimId,
    job::{Acted, Cancel, Enqueue, Enqueued, JobDetail, JobRecord, Key, Line, Reference, RetryByHand},
    store::{
        AccessStore, Adopt, AttemptStore, CatalogStore, Due, Formats, HeartbeatAnswer, Hint, JobStore, Judged,
        LineRecord, ListJobs, Mark, Pause, Pruned, Published, QueueCounts, Register, ScheduleStore, SetAside,
        SetAsideRecord, Store, Void, Window, WorkerRecord,
    },
};
use sqlx::PgPool;
use tokio::sync::broadcast::error::RecvError;

use crate::{
    accept, access, act, adopt, aside, catalog, claim,
    config::PostgresConfig,
    db::{How, Work},
    detail, due, format, lease, list, lost, next,
    open::{self, Opened},
    outbox, pause, prune, replay,
};

/// Robata's store on PostgreSQL. Clones are the same store; it ends with the last one, or by [`PostgresStore::close`].
#[derive(Clone, Debug)]
pub struct PostgresStore {
    opened: Arc<Opened>,
}

impl PostgresStore {
    /// Connects, migrates or checks the schema as configured, and starts what runs beside: a few tasks on the present runtime.
    ///
    /// `Unavailable` where the server cannot be reached, `Conflict` where a migration is missing and must not be run,
    /// `Unsupported` where the server is older than PostgreSQL 14, `Invalid` where the address cannot be read.
    pub async fn connect(config: PostgresConfig) -> Result<Self> {
        let opened = Arc::new(open::connect(config).await?);
        Ok(Self { opened })
    }

    /// The same over a pool that is there; of `config`, address and pool sizes are not looked at. Heartbeats and listening
    /// get connections of their own, with the pool's options.
    pub async fn from_pool(pool: PgPool, config: PostgresConfig) -> Result<Self> {
        let opened = Arc::new(open::from_pool(pool, config).await?);
        Ok(Self { opened })
    }

    /// Does what waits and closes all connections, in bounded time. Later calls are `Unavailable`.
    pub async fn close(&self) {
        self.opened.close().await;
    }

    async fn run<R, T>(&self, how: How, request: R, work: Work<R, T>) -> Result<T>
    where
        R: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.opened.db.run(how, request, work).await
    }
}

/// `run!(self, how, request, function)`.
macro_rules! run {
    ($self:ident, $how:expr, $request:expr, $work:path) => {
        $self
            .run($how, $request, |tx, request| Box::pin($work(tx, request)))
            .await
    };
}

#[async_trait]
impl JobStore for PostgresStore {
    async fn enqueue(&self, request: Enqueue) -> Result<Vec<Result<Enqueued>>> {
        if request.jobs.is_empty() {
            return Ok(Vec::new());
        }
        let jobs = request.jobs.len();
        self.opened.enqueues.run(request, jobs).await
    }

    async fn replays(&self, keys: Vec<(AppName, Key)>) -> Result<Vec<Result<Option<JobRecord>>>> {
        run!(self, How::read("store.replays"), keys, replay::replays)
    }

    async fn cancel(&self, request: Cancel) -> Result<Acted> {
        run!(self, How::once("store.cancel"), request, act::cancel)
    }

    async fn retry(&self, request: RetryByHand) -> Result<Acted> {
        run!(self, How::once("store.retry").lines(), request, act::retry)
    }

    async fn follow(&self, attempt: AttemptId, lasting: Duration) -> Result<()> {
        run!(self, How::light("store.follow"), (attempt, lasting), act::follow)
    }

    async fn job(&self, id: JobId) -> Result<JobDetail> {
        run!(self, How::read("store.job"), id, detail::job)
    }

    async fn jobs(&self, request: ListJobs) -> Result<Vec<JobRecord>> {
        run!(self, How::read("store.jobs"), request, list::jobs)
    }

    async fn queue_counts(&self) -> Result<Vec<QueueCounts>> {
        run!(self, How::read("store.queue_counts"), (), detail::queue_counts)
    }

    async fn pause(&self, queue: &QueueName, reason: Option<&str>, by: &str) -> Result<bool> {
        let change = pause::Change {
            queue: queue.clone(),
            reason: reason.map(str::to_owned),
            by: by.to_owned(),
        };
        run!(self, How::once("store.pause"), change, pause::change)
    }

    async fn paused(&self) -> Result<BTreeMap<QueueName, Pause>> {
        self.run(How::read("store.paused"), (), |tx, ()| Box::pin(pause::all(tx.conn())))
            .await
    }
}

#[async_trait]
impl AttemptStore for PostgresStore {
    async fn register(&self, request: Register) -> Result<()> {
        run!(self, How::again("store.register"), request, lease::register)
    }

    async fn heartbeat(&self, incarnation: IncarnationId) -> Result<HeartbeatAnswer> {
        let how = How::light("store.heartbeat").beat();
        run!(self, how, incarnation, lease::heartbeat)
    }

    async fn held(&self, incarnation: IncarnationId) -> Result<Vec<(AttemptId, Epoch)>> {
        run!(self, How::light("store.held"), incarnation, lease::held)
    }

    async fn claim(&self, request: Claim) -> Result<Vec<Claimed>> {
        // Noted before it is sent: whoever asks for it by its number waits for it.
        let under_way = self.opened.db.shared.claim_begins(request.claim);
        self.run(
            How::once("store.claim").lines().format(),
            (request, under_way),
            |tx, (request, _)| Box::pin(claim::run(tx, request)),
        )
        .await
    }

    async fn claimed(&self, incarnation: IncarnationId, claim: ClaimId) -> Result<Vec<HeldAttempt>> {
        self.opened.db.shared.claim_over(claim).await;
        run!(self, How::again("store.claimed"), (incarnation, claim), adopt::claimed)
    }

    async fn record(&self, writes: Vec<AttemptWrite>) -> Result<Vec<Result<Written>>> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let items = writes.len();
        self.opened.records.run(writes, items).await
    }

    async fn adopt(&self, request: Adopt) -> Result<Vec<HeldAttempt>> {
        run!(self, How::once("store.adopt"), request, adopt::adopt)
    }

    async fn release(&self, incarnation: IncarnationId) -> Result<()> {
        run!(self, How::once("store.release"), incarnation, lease::release)
    }

    async fn known(&self, attempts: &[AttemptId]) -> Result<Vec<Knowledge>> {
        run!(self, How::read("store.known"), attempts.to_vec(), adopt::known)
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>> {
        run!(self, How::read("store.workers"), (), lease::workers)
    }

    async fn drain(&self, incarnation: IncarnationId, by: &str) -> Result<()> {
        run!(
            self,
            How::again("store.drain"),
            (incarnation, by.to_owned()),
            lease::drain
        )
    }

    async fn set_aside(&self, messages: Vec<SetAside>) -> Result<()> {
        run!(self, How::once("store.set_aside"), messages, aside::keep)
    }

    async fn set_aside_list(&self, before: Option<u64>, limit: usize) -> Result<Vec<SetAsideRecord>> {
        run!(self, How::read("store.set_aside_list"), (before, limit), aside::list)
    }
}

#[async_trait]
impl ScheduleStore for PostgresStore {
    async fn due(&self, max: usize) -> Result<Due> {
        run!(self, How::again("store.due"), max, due::run)
    }

    async fn lines(&self) -> Result<Vec<LineRecord>> {
        run!(self, How::read("store.lines"), (), outbox::lines)
    }

    async fn references(&self, window: Window) -> Result<Vec<Reference>> {
        run!(self, How::light("store.references"), window, next::references)
    }

    async fn published(&self, published: Published) -> Result<()> {
        run!(
            self,
            How::light("store.published").format(),
            published,
            outbox::published
        )
    }

    async fn void(&self, line: &Line, what: Void) -> Result<usize> {
        run!(self, How::light("store.void"), (line.clone(), what), outbox::void)
    }

    async fn judge(&self, mark: Mark) -> Result<Judged> {
        // On the heartbeats' connection: lists must not make a gap in the marks either.
        let how = How::light("store.judge").beat();
        let (judged, changes) = run!(self, how, mark, lease::judge)?;
        if !changes {
            return Ok(judged);
        }
        match run!(self, How::again("store.judge"), mark, format::change) {
            Ok(format) => Ok(Judged { format, ..judged }),
            // The next mark tries again.
            Err(error) => {
                tracing::warn!(error = %error.full(), "cannot put another format in use yet");
                Ok(judged)
            }
        }
    }

    async fn formats(&self) -> Result<Formats> {
        run!(self, How::read("store.formats"), (), format::formats)
    }

    async fn settle_lost(
        &self,
        after: &BTreeMap<ExecutorName, Option<Duration>>,
        default: Duration,
    ) -> Result<Vec<AttemptId>> {
        let after = lost::LostAfter {
            by_executor: after.clone(),
            default,
        };
        run!(self, How::once("store.settle_lost").lines(), after, lost::settle)
    }

    async fn lose(&self, realm: &RealmId, by: &str) -> Result<Vec<AttemptId>> {
        run!(
            self,
            How::once("store.lose").lines(),
            (realm.clone(), by.to_owned()),
            lost::lose
        )
    }

    async fn prune(&self, max: usize) -> Result<Pruned> {
        run!(self, How::light("store.prune"), max, prune::run)
    }

    async fn logs_removed(&self, attempts: &[AttemptId]) -> Result<()> {
        run!(
            self,
            How::light("store.logs_removed"),
            attempts.to_vec(),
            prune::logs_removed
        )
    }
}

#[async_trait]
impl CatalogStore for PostgresStore {
    async fn catalog(&self) -> Result<Catalog> {
        // Every transaction begins with a look at its revision.
        self.run(How::read("store.catalog"), (), |tx, ()| {
            Box::pin(async move { Ok(Catalog::clone(&tx.catalog)) })
        })
        .await
    }

    async fn change_catalog(&self, revision: u64, writes: Vec<CatalogWrite>, by: &str) -> Result<Catalog> {
        let change = catalog::Change {
            revision,
            writes,
            by: by.to_owned(),
        };
        run!(self, How::once("store.change_catalog"), change, catalog::change)
    }
}

#[async_trait]
impl AccessStore for PostgresStore {
    async fn tokens(&self) -> Result<Tokens> {
        run!(self, How::read("store.tokens"), (), access::tokens)
    }

    async fn create_token(&self, token: NewToken, by: &str) -> Result<Token> {
        let request = (token, by.to_owned());
        run!(self, How::again("store.create_token"), request, access::create)
    }

    async fn revoke_token(&self, name: &TokenName, by: &str) -> Result<()> {
        let request = (name.clone(), by.to_owned());
        run!(self, How::again("store.revoke_token"), request, access::revoke)
    }

    async fn audit(&self, request: ListAudit) -> Result<Vec<AuditRecord>> {
        run!(self, How::read("store.audit"), request, access::audit)
    }
}

#[async_trait]
impl AcceptStore for PostgresStore {
    async fn take_in(&self, jobs: Vec<WholeJob>) -> Result<Vec<Result<TakenIn>>> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        run!(self, How::again("store.take_in").lines(), jobs, accept::take_in)
    }

    async fn note_outage(&self, since: Timestamp) -> Result<()> {
        run!(self, How::again("store.note_outage"), since, accept::note_outage)
    }

    async fn outages(&self) -> Result<Vec<i64>> {
        run!(self, How::read("store.outages"), (), accept::outages)
    }

    async fn outages_over(&self, outages: &[i64]) -> Result<()> {
        run!(
            self,
            How::again("store.outages_over"),
            outages.to_vec(),
            accept::outages_over
        )
    }

    async fn may_come(&self, id: JobId) -> Result<bool> {
        run!(self, How::read("store.may_come"), id, accept::may_come)
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn installation(&self) -> InstallationId {
        self.opened.db.shared.installation
    }

    fn format(&self) -> Format {
        self.opened.db.shared.format.get()
    }

    fn hints(&self) -> BoxStream<'static, Hint> {
        let listener = self.opened.db.shared.hints.subscribe();
        stream::unfold(listener, |mut listener| async move {
            match listener.recv().await {
                Ok(hint) => Some((hint, listener)),
                Err(RecvError::Lagged(_)) => Some((Hint::Gap, listener)),
                Err(RecvError::Closed) => None,
            }
        })
        .boxed()
    }

    async fn check(&self, timeout: Duration) -> Result<()> {
        let write = self.run(How::again("store.check"), (), |tx, ()| {
            Box::pin(async move {
                let now = tx.now.to_string();
                catalog::set_meta(tx.conn(), "checked_at", &now).await
            })
        });
        match tokio::time::timeout(timeout, write).await {
            Ok(answer) => answer,
            Err(_) => {
                let message = format!(
                    "the store took longer than {} ms to commit a write",
                    timeout.as_millis()
                );
                Err(Error::new(ErrorKind::Unavailable, "store.check", message))
            }
        }
    }

    async fn attempt(&self, id: AttemptId) -> Result<AttemptRecord> {
        run!(self, How::read("store.attempt"), id, detail::attempt)
    }
}

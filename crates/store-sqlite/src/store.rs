//! [`SqliteStore`]: the traits of the seam, each call given to the writer or to a reader.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt as _},
};
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
use sqlx::{Sqlite, Transaction, pool::PoolConnection};
use tokio::sync::broadcast::error::RecvError;

use crate::{
    accept, access, act, aside, catalog, claim,
    config::SqliteConfig,
    detail, due,
    error::Fault,
    format, hold, list, lost, next,
    open::{self, Opened},
    outbox, pause, prune, record, replay,
    tx::fence,
};

/// Robata's store on SQLite. Clones are the same store; it closes with the last one, or by [`SqliteStore::close`].
#[derive(Clone, Debug)]
pub struct SqliteStore {
    opened: Arc<Opened>,
}

impl SqliteStore {
    /// Opens the store in its folder, making both where they are missing.
    ///
    /// `Conflict` where another process holds the folder (the message says which), `Invalid` where the folder cannot be
    /// used, `Unavailable` where the disk does not serve.
    pub async fn open(config: SqliteConfig) -> Result<Self> {
        // Boxed, so that callers' futures are `Send` whatever the compiler can prove of the lifetimes inside.
        let opening: BoxFuture<'static, Result<Opened>> = Box::pin(open::open(config));
        let opened = Arc::new(opening.await?);
        Ok(Self { opened })
    }

    /// Runs the writes that wait, closes the database and frees the folder. Later calls are `Unavailable`.
    pub async fn close(&self) {
        let opened = Arc::clone(&self.opened);
        let closing: BoxFuture<'static, ()> = Box::pin(async move { opened.close().await });
        closing.await;
    }

    #[cfg(test)]
    pub(crate) fn opened(&self) -> &Opened {
        &self.opened
    }

    /// A reader that sees one moment, however many statements it takes.
    async fn reader(&self, operation: &'static str) -> Result<Transaction<'static, Sqlite>> {
        let reader = self.opened.readers.begin().await;
        reader.map_err(|error| Fault::Sql(error).to_error(operation))
    }

    /// A reader for what scheduler and workers ask, whom no list keeps waiting.
    async fn engine(&self, operation: &'static str) -> Result<PoolConnection<Sqlite>> {
        let reader = self.opened.engines.acquire().await;
        reader.map_err(|error| Fault::Sql(error).to_error(operation))
    }
}

/// Turns a fault into the seam's error.
fn told<T>(operation: &'static str, result: std::result::Result<T, Fault>) -> Result<T> {
    result.map_err(|fault| fault.to_error(operation))
}

#[async_trait]
impl JobStore for SqliteStore {
    async fn enqueue(&self, request: Enqueue) -> Result<Vec<Result<Enqueued>>> {
        self.opened.writer.enqueue(request).await
    }

    async fn replays(&self, keys: Vec<(AppName, Key)>) -> Result<Vec<Result<Option<JobRecord>>>> {
        let mut reader = self.reader("store.replays").await?;
        told(
            "store.replays",
            replay::replays(&mut reader, &self.opened.shared, &keys).await,
        )
    }

    async fn cancel(&self, request: Cancel) -> Result<Acted> {
        let writer = &self.opened.writer;
        writer
            .run("store.cancel", request, |tx, request| {
                Box::pin(act::cancel(tx, request))
            })
            .await
    }

    async fn retry(&self, request: RetryByHand) -> Result<Acted> {
        let writer = &self.opened.writer;
        writer
            .run("store.retry", request, |tx, request| Box::pin(act::retry(tx, request)))
            .await
    }

    async fn follow(&self, attempt: AttemptId, lasting: Duration) -> Result<()> {
        let writer = &self.opened.writer;
        writer
            .run("store.follow", (attempt, lasting), |tx, request| {
                Box::pin(act::follow(tx, request))
            })
            .await
    }

    async fn job(&self, id: JobId) -> Result<JobDetail> {
        let mut reader = self.reader("store.job").await?;
        told("store.job", detail::job(&mut reader, &self.opened.shared, id).await)
    }

    async fn jobs(&self, request: ListJobs) -> Result<Vec<JobRecord>> {
        let mut reader = self.reader("store.jobs").await?;
        told(
            "store.jobs",
            list::jobs(&mut reader, &self.opened.shared, &request).await,
        )
    }

    async fn queue_counts(&self) -> Result<Vec<QueueCounts>> {
        let mut reader = self.reader("store.queue_counts").await?;
        told("store.queue_counts", detail::queue_counts(&mut reader).await)
    }

    async fn pause(&self, queue: &QueueName, reason: Option<&str>, by: &str) -> Result<bool> {
        let request = pause::Request {
            queue: queue.clone(),
            reason: reason.map(str::to_owned),
            by: by.to_owned(),
        };
        let writer = &self.opened.writer;
        writer
            .run("store.pause", request, |tx, request| {
                Box::pin(pause::pause(tx, request))
            })
            .await
    }

    async fn paused(&self) -> Result<BTreeMap<QueueName, Pause>> {
        Ok(BTreeMap::clone(&self.opened.shared.paused()))
    }
}

#[async_trait]
impl AttemptStore for SqliteStore {
    async fn register(&self, request: Register) -> Result<()> {
        let writer = &self.opened.writer;
        writer
            .run_first("store.register", request, |tx, request| {
                Box::pin(hold::register(tx, request))
            })
            .await
    }

    async fn heartbeat(&self, incarnation: IncarnationId) -> Result<HeartbeatAnswer> {
        told("store.heartbeat", hold::renew(&self.opened.shared, incarnation))?;
        let mut beats = self.opened.beats.lock().await;
        told(
            "store.heartbeat",
            hold::heartbeat(&mut beats, &self.opened.shared, incarnation).await,
        )
    }

    async fn held(&self, incarnation: IncarnationId) -> Result<Vec<(AttemptId, Epoch)>> {
        let mut beats = self.opened.beats.lock().await;
        told(
            "store.held",
            hold::held(&mut beats, &self.opened.shared, incarnation).await,
        )
    }

    async fn claim(&self, request: Claim) -> Result<Vec<Claimed>> {
        let writer = &self.opened.writer;
        writer
            .run("store.claim", request, |tx, request| Box::pin(claim::run(tx, request)))
            .await
    }

    async fn claimed(&self, incarnation: IncarnationId, claim: ClaimId) -> Result<Vec<HeldAttempt>> {
        // In the writer's line: the claim whose answer was lost may still wait there.
        let writer = &self.opened.writer;
        writer
            .run("store.claimed", (incarnation, claim), |tx, (incarnation, claim)| {
                Box::pin(async move {
                    let shared = Arc::clone(&tx.shared);
                    hold::claimed(&mut tx.conn, &shared, *incarnation, *claim).await
                })
            })
            .await
    }

    async fn record(&self, writes: Vec<AttemptWrite>) -> Result<Vec<Result<Written>>> {
        let writer = &self.opened.writer;
        writer
            .run("store.record", writes, |tx, writes| Box::pin(record::run(tx, writes)))
            .await
    }

    async fn adopt(&self, request: Adopt) -> Result<Vec<HeldAttempt>> {
        let shared = &self.opened.shared;
        told("store.adopt", fence(shared, request.incarnation, "store.adopt"))?;
        if request.only.is_none() {
            // Workers ask every two seconds: only where there is something is the writer disturbed.
            let mut reader = self.engine("store.adopt").await?;
            if told("store.adopt", hold::orphan_holders(&mut reader, shared).await)?.is_empty() {
                return Ok(Vec::new());
            }
        }
        let writer = &self.opened.writer;
        writer
            .run("store.adopt", request, |tx, request| Box::pin(hold::adopt(tx, request)))
            .await
    }

    async fn release(&self, incarnation: IncarnationId) -> Result<()> {
        let writer = &self.opened.writer;
        writer
            .run("store.release", incarnation, |tx, incarnation| {
                Box::pin(hold::release(tx, incarnation))
            })
            .await
    }

    async fn known(&self, attempts: &[AttemptId]) -> Result<Vec<Knowledge>> {
        let mut reader = self.engine("store.known").await?;
        told("store.known", hold::known(&mut reader, attempts).await)
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>> {
        let mut reader = self.engine("store.workers").await?;
        told("store.workers", hold::workers(&mut reader, &self.opened.shared).await)
    }

    async fn drain(&self, incarnation: IncarnationId, by: &str) -> Result<()> {
        let writer = &self.opened.writer;
        writer
            .run("store.drain", (incarnation, by.to_owned()), |tx, request| {
                Box::pin(hold::drain(tx, request))
            })
            .await
    }

    async fn set_aside(&self, messages: Vec<SetAside>) -> Result<()> {
        let writer = &self.opened.writer;
        writer
            .run("store.set_aside", messages, |tx, messages| {
                Box::pin(aside::keep(tx, messages))
            })
            .await
    }

    async fn set_aside_list(&self, before: Option<u64>, limit: usize) -> Result<Vec<SetAsideRecord>> {
        let mut reader = self.reader("store.set_aside_list").await?;
        told("store.set_aside_list", aside::list(&mut reader, before, limit).await)
    }
}

#[async_trait]
impl ScheduleStore for SqliteStore {
    async fn due(&self, max: usize) -> Result<Due> {
        let writer = &self.opened.writer;
        writer
            .run("store.due", max, |tx, max| Box::pin(due::run(tx, max)))
            .await
    }

    async fn lines(&self) -> Result<Vec<LineRecord>> {
        let mut reader = self.engine("store.lines").await?;
        told("store.lines", outbox::lines(&mut reader, &self.opened.shared).await)
    }

    async fn references(&self, window: Window) -> Result<Vec<Reference>> {
        let mut reader = self.engine("store.references").await?;
        told(
            "store.references",
            next::references(&mut reader, &self.opened.shared, &window).await,
        )
    }

    async fn published(&self, published: Published) -> Result<()> {
        let writer = &self.opened.writer;
        writer
            .run("store.published", published, |tx, published| {
                Box::pin(outbox::published(tx, published))
            })
            .await
    }

    async fn void(&self, line: &Line, what: Void) -> Result<usize> {
        let writer = &self.opened.writer;
        writer
            .run("store.void", (line.clone(), what), |tx, request| {
                Box::pin(outbox::void(tx, request))
            })
            .await
    }

    async fn formats(&self) -> Result<Formats> {
        Ok(format::formats(&self.opened.shared))
    }

    async fn judge(&self, mark: Mark) -> Result<Judged> {
        let writer = &self.opened.writer;
        writer
            .run_first("store.judge", mark, |tx, request| Box::pin(lost::judge(tx, request)))
            .await
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
        let writer = &self.opened.writer;
        writer
            .run("store.settle_lost", after, |tx, after| {
                Box::pin(lost::settle(tx, after))
            })
            .await
    }

    async fn lose(&self, realm: &RealmId, by: &str) -> Result<Vec<AttemptId>> {
        let writer = &self.opened.writer;
        writer
            .run("store.lose", (realm.clone(), by.to_owned()), |tx, request| {
                Box::pin(lost::lose(tx, request))
            })
            .await
    }

    async fn prune(&self, max: usize) -> Result<Pruned> {
        let writer = &self.opened.writer;
        writer
            .run("store.prune", max, |tx, max| Box::pin(prune::run(tx, max)))
            .await
    }

    async fn logs_removed(&self, attempts: &[AttemptId]) -> Result<()> {
        let writer = &self.opened.writer;
        writer
            .run("store.logs_removed", attempts.to_vec(), |tx, attempts| {
                Box::pin(prune::logs_removed(tx, attempts))
            })
            .await
    }
}

#[async_trait]
impl CatalogStore for SqliteStore {
    async fn catalog(&self) -> Result<Catalog> {
        Ok(Catalog::clone(&self.opened.shared.catalog()))
    }

    async fn change_catalog(&self, revision: u64, writes: Vec<CatalogWrite>, by: &str) -> Result<Catalog> {
        let change = catalog::Change {
            revision,
            writes,
            by: by.to_owned(),
        };
        let writer = &self.opened.writer;
        writer
            .run("store.change_catalog", change, |tx, change| {
                Box::pin(catalog::change(tx, change))
            })
            .await
    }
}

#[async_trait]
impl AccessStore for SqliteStore {
    async fn tokens(&self) -> Result<Tokens> {
        let mut reader = self.engine("store.tokens").await?;
        told("store.tokens", access::tokens(&mut reader, &self.opened.shared).await)
    }

    async fn create_token(&self, token: NewToken, by: &str) -> Result<Token> {
        let writer = &self.opened.writer;
        writer
            .run("store.create_token", (token, by.to_owned()), |tx, request| {
                Box::pin(access::create(tx, request))
            })
            .await
    }

    async fn revoke_token(&self, name: &TokenName, by: &str) -> Result<()> {
        let writer = &self.opened.writer;
        writer
            .run("store.revoke_token", (name.clone(), by.to_owned()), |tx, request| {
                Box::pin(access::revoke(tx, request))
            })
            .await
    }

    async fn audit(&self, request: ListAudit) -> Result<Vec<AuditRecord>> {
        let mut reader = self.reader("store.audit").await?;
        told("store.audit", access::audit(&mut reader, &request).await)
    }
}

#[async_trait]
impl AcceptStore for SqliteStore {
    async fn take_in(&self, jobs: Vec<WholeJob>) -> Result<Vec<Result<TakenIn>>> {
        let writer = &self.opened.writer;
        writer
            .run("store.take_in", jobs, |tx, jobs| Box::pin(accept::take_in(tx, jobs)))
            .await
    }

    async fn note_outage(&self, since: Timestamp) -> Result<()> {
        let writer = &self.opened.writer;
        writer
            .run("store.note_outage", since, |tx, since| {
                Box::pin(accept::note_outage(tx, since))
            })
            .await
    }

    async fn outages(&self) -> Result<Vec<i64>> {
        let mut reader = self.engine("store.outages").await?;
        told("store.outages", accept::outages(&mut reader).await)
    }

    async fn outages_over(&self, outages: &[i64]) -> Result<()> {
        let writer = &self.opened.writer;
        writer
            .run("store.outages_over", outages.to_vec(), |tx, outages| {
                Box::pin(accept::outages_over(tx, outages))
            })
            .await
    }

    async fn may_come(&self, id: JobId) -> Result<bool> {
        let mut reader = self.reader("store.may_come").await?;
        told(
            "store.may_come",
            accept::may_come(&mut reader, &self.opened.shared, id).await,
        )
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn installation(&self) -> InstallationId {
        self.opened.shared.installation
    }

    fn format(&self) -> Format {
        self.opened.shared.format.get()
    }

    fn hints(&self) -> BoxStream<'static, Hint> {
        let listener = self.opened.shared.hints.subscribe();
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
        let writer = &self.opened.writer;
        let write = writer.run("store.check", (), |tx, ()| {
            Box::pin(async move {
                let now = tx.now.to_string();
                catalog::set_meta(&mut tx.conn, "checked_at", &now).await
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
        let mut reader = self.reader("store.attempt").await?;
        told("store.attempt", detail::attempt(&mut reader, id).await)
    }
}

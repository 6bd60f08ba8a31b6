//! The degraded path (PROTOCOL I1): while the store does not serve, jobs go whole into the broker. One id, two paths: a job that
//! the store was asked to keep and that then goes by the broker is one job, since masters take in only what is absent.

mod breaker;
mod config;
mod outage;
mod publisher;

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use robata_core::{
    ErrorKind, JobId, JobState,
    accept::WholeJob,
    job::{JobRecord, Line, Waiting, When},
    part,
    queue::Message,
    state::WaitingReason,
    store::Store,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use self::{
    breaker::Breaker,
    outage::Outage,
    publisher::{Publisher, Unsent},
};
use crate::{
    probes::CHECK,
    refused::{Refused, Result},
};

pub use self::config::{DegradedConfig, DegradedPath};

/// While the breaker is open the store is probed this often.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// An outage that cannot be noted yet is tried again after this time.
const NOTE_AGAIN: Duration = Duration::from_millis(100);
/// Without a broker that takes whole jobs, a store that does not answer for this long hangs. Longer than with one: waiting is then
/// the only way to have a job accepted, and a disk may stall for seconds. Shorter than clients wait for an answer.
const HANG_ALONE: Duration = Duration::from_secs(5);
/// What a batch's size adds to the time that the store has for it.
const HANG_PER_JOB: Duration = Duration::from_millis(1);

/// By which way jobs are accepted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// Into the store.
    Normal,
    /// Into the broker.
    Degraded,
    /// By none.
    None,
}

impl Path {
    pub(crate) const ALL: [Self; 3] = [Self::Normal, Self::Degraded, Self::None];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Degraded => "degraded",
            Self::None => "none",
        }
    }
}

/// The second way of accepting jobs.
#[derive(Debug)]
pub(crate) struct Degraded {
    inner: Arc<Inner>,
    tasks: OnceLock<[AbortOnDropHandle<()>; 3]>,
}

#[derive(Debug)]
struct Inner {
    path: DegradedPath,
    store: Arc<dyn Store>,
    breaker: Mutex<Breaker>,
    /// What the store failed for last.
    last: Mutex<String>,
    /// Tells everyone who waits for the store that it has opened.
    open: watch::Sender<bool>,
    outage: Arc<Outage>,
    publisher: Publisher,
}

/// The store has not answered an enqueue.
#[derive(Debug)]
pub(crate) struct Unanswered(pub(crate) String);

impl Degraded {
    pub(crate) fn new(path: DegradedPath, store: Arc<dyn Store>) -> Self {
        let inner = Inner {
            publisher: Publisher::new(Arc::clone(&path.queue)),
            breaker: Mutex::new(Breaker::new(path.config.failures)),
            last: Mutex::default(),
            path,
            store,
            open: watch::Sender::new(false),
            outage: Arc::default(),
        };
        Self {
            inner: Arc::new(inner),
            tasks: OnceLock::new(),
        }
    }

    /// Starts what runs beside the requests, once; where a runtime is certain.
    pub(crate) fn begin(&self) {
        self.tasks.get_or_init(|| {
            let (probing, noting, publishing) = (
                Arc::clone(&self.inner),
                Arc::clone(&self.inner),
                Arc::clone(&self.inner),
            );
            [
                AbortOnDropHandle::new(tokio::spawn(async move { for_ever(|| probing.probe()).await })),
                AbortOnDropHandle::new(tokio::spawn(async move { for_ever(|| noting.note()).await })),
                AbortOnDropHandle::new(tokio::spawn(async move {
                    for_ever(|| publishing.publisher.serve()).await;
                })),
            ]
        });
    }

    /// Whether the broker may take whole jobs, by what it last said of itself.
    pub(crate) fn is_usable(&self) -> bool {
        self.inner.is_usable()
    }

    /// Whether the store is not asked now.
    pub(crate) fn is_open(&self) -> bool {
        self.inner.breaker().is_open()
    }

    /// By which way jobs are accepted now, as far as was seen.
    pub(crate) fn path(&self) -> Path {
        match (self.is_open(), self.is_usable() && !self.inner.publisher.rests()) {
            (false, _) => Path::Normal,
            (true, true) => Path::Degraded,
            (true, false) => Path::None,
        }
    }

    /// The same, asking both: `store` is what it said just now.
    pub(crate) async fn path_now(&self, store_serves: bool) -> Path {
        if store_serves && !self.is_open() {
            return Path::Normal;
        }
        let line = Line::accept();
        match timeout(CHECK, self.inner.path.queue.depth(&line)).await {
            // A broker may tell what is in a line and take nothing more into it.
            Ok(Ok(_)) if self.is_usable() && !self.inner.publisher.rests() => Path::Degraded,
            _ => Path::None,
        }
    }

    /// Asks the store what an enqueue of `jobs` jobs needs, in bounded time and not at all while the breaker is open.
    pub(crate) async fn ask<T>(
        &self,
        jobs: usize,
        call: impl Future<Output = robata_core::Result<T>>,
    ) -> std::result::Result<robata_core::Result<T>, Unanswered> {
        self.begin();
        let inner = &*self.inner;
        let mut open = inner.open.subscribe();
        if *open.borrow_and_update() {
            return Err(inner.not_asked());
        }
        let more = HANG_PER_JOB.saturating_mul(u32::try_from(jobs).unwrap_or(u32::MAX));
        let hang = inner.hang().saturating_add(more);
        tokio::select! {
            answer = timeout(hang, call) => match answer {
                Ok(Err(error)) if error.kind() == ErrorKind::Unavailable => {
                    inner.failed_for(error.message());
                    inner.seen(&error.full(), Breaker::failed);
                    Err(Unanswered(error.message().to_owned()))
                }
                Ok(answer) => {
                    inner.breaker().answered();
                    Ok(answer)
                }
                Err(_elapsed) => {
                    let why = format!("the store did not answer within {} ms", hang.as_millis());
                    inner.failed_for(&why);
                    inner.seen(&why, Breaker::hung);
                    Err(Unanswered(why))
                }
            },
            // Others have waited long enough for all.
            _ = open.wait_for(|open| *open) => Err(inner.not_asked()),
        }
    }

    /// Puts a whole job into the broker; comes back once that has made it durable.
    pub(crate) async fn accept(&self, whole: &WholeJob) -> Result<JobRecord> {
        let refused = |why: String| Refused::unavailable(why, Duration::from_secs(1));
        let inner = &*self.inner;
        let capabilities = inner.path.queue.capabilities();
        if !capabilities.whole_jobs {
            return Err(inner.not_asked().without_broker());
        }
        let message = Message {
            // The store does not serve: as it was last seen.
            body: whole.encode(inner.store.format()),
            ..Message::default()
        };
        let (bytes, most) = (
            message.body.len(),
            inner.path.config.max_job_bytes.min(capabilities.max_body_bytes),
        );
        if bytes > most {
            return Err(refused(format!(
                "the store does not serve now, and this job has {bytes} bytes in all: into the broker goes one of at most {most}"
            )));
        }
        let most = inner.path.config.max_outage_bytes;
        let goes = || inner.outage.goes(whole.job.id, bytes as u64, most);
        let Err(unsent) = inner.publisher.publish(message, goes).await else {
            return Ok(as_accepted(whole));
        };
        tracing::debug!(job = %whole.job.id, ?unsent, "a whole job was not confirmed");
        Err(refused(match unsent {
            Unsent::UsedUp => format!(
                "the store does not serve now, and the {most} bytes that this server may put into the broker meanwhile are used up"
            ),
            Unsent::Refused(why) => {
                format!("the store does not serve now, and the broker does not take this job: {why}")
            }
            Unsent::NotAsked(_) => "neither the store nor the broker takes jobs now".to_owned(),
            Unsent::InDoubt(_) => {
                "neither the store nor the broker takes jobs now; this one may have reached the broker all the same"
                    .to_owned()
            }
        }))
    }

    /// Whether a job of this id may be in the broker by what this process alone knows.
    pub(crate) fn may_come(&self, id: JobId) -> bool {
        self.inner.outage.may_come(id)
    }
}

impl Inner {
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // Nothing that holds the lock can panic halfway through a change.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_usable(&self) -> bool {
        self.path.queue.capabilities().whole_jobs
    }

    /// How long the store is waited for.
    fn hang(&self) -> Duration {
        let hang = self.path.config.hang;
        if self.is_usable() { hang } else { hang.max(HANG_ALONE) }
    }

    fn last(&self) -> MutexGuard<'_, String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever is refused while the store is not asked is told why that is.
    fn failed_for(&self, why: &str) {
        *self.last() = why.to_owned();
    }

    fn not_asked(&self) -> Unanswered {
        let last = self.last();
        Unanswered(format!("it is not asked until it does; it failed last for: {last}"))
    }

    /// Something was seen of the store; where that opens the breaker, or ends it, all are told.
    fn seen(&self, why: &str, change: fn(&mut Breaker)) {
        let (was, is) = {
            let mut breaker = self.breaker();
            let was = breaker.is_open();
            change(&mut breaker);
            let is = breaker.is_open();
            self.open.send_replace(is);
            (was, is)
        };
        match (was, is) {
            (false, true) if self.is_usable() => {
                tracing::warn!(why, "the store does not serve: jobs are accepted by the broker");
            }
            (false, true) => {
                tracing::warn!(
                    why,
                    "the store does not serve, nor is the broker durable enough: jobs are refused"
                );
            }
            (true, false) => tracing::info!("the store serves again: jobs are accepted by it"),
            _ => {}
        }
    }

    /// Probes the store while the breaker is open, for ever.
    async fn probe(&self) {
        let mut open = self.open.subscribe();
        // The sender lives as long as this does.
        while open.wait_for(|open| *open).await.is_ok() {
            sleep(PROBE_EVERY).await;
            match timeout(CHECK, self.store.check(CHECK)).await {
                Ok(Ok(())) => self.seen("", Breaker::probed),
                Ok(Err(error)) => tracing::debug!(error = %error.full(), "the store does not serve yet"),
                Err(_elapsed) => tracing::debug!("the store does not answer yet"),
            }
        }
    }

    /// Notes in the store what went out by the broker, once it serves, for ever: until then an unknown id may be this
    /// process's alone to know.
    async fn note(&self) {
        loop {
            self.outage.begun.notified().await;
            while self.outage.is_unnoted() {
                sleep(NOTE_AGAIN).await;
                if self.breaker().is_open() {
                    continue;
                }
                let Some(to_note) = self.outage.to_note() else {
                    continue;
                };
                match timeout(CHECK, self.store.note_outage(to_note.since)).await {
                    Ok(Ok(())) => self.outage.noted(to_note),
                    Ok(Err(error)) => tracing::debug!(error = %error.full(), "the outage cannot be noted yet"),
                    Err(_elapsed) => tracing::debug!("the outage is not noted yet"),
                }
            }
        }
    }
}

/// Begins again after a panic: who waits must not wait for what is not there any more.
async fn for_ever<F: Future<Output = ()>>(make: impl FnMut() -> F) {
    let rest = |words: String| {
        tracing::error!(panic = words, "a part of the degraded path panicked; it begins again");
        async {
            sleep(PROBE_EVERY).await;
            ControlFlow::Continue(())
        }
    };
    part::keep_going(make, rest).await;
}

/// The store did not answer what an enqueue needs to know; `what` is what this process remembers.
impl Unanswered {
    pub(crate) fn refused(self, what: &str) -> Refused {
        let why = self.0;
        let detail = format!("{what}; the store does not serve now, so only what is remembered counts ({why})");
        Refused::unavailable(detail, Duration::from_secs(1))
    }

    /// The same where there is no other path. The store may have the job all the same.
    pub(crate) fn without_broker(self) -> Refused {
        let why = self.0;
        let detail = format!(
            "the store does not serve now ({why}), and the broker is not known to be durable enough to take whole jobs"
        );
        Refused::unavailable(detail, Duration::from_secs(1))
    }
}

/// The job as it is told until the store has it.
fn as_accepted(whole: &WholeJob) -> JobRecord {
    let (job, accepted) = (&whole.job, whole.accepted_at());
    let run_at = match job.when {
        When::Now => accepted,
        When::In(delay) => accepted.plus(delay),
        When::At(at) => at,
    };
    JobRecord {
        id: job.id,
        app: job.app.clone(),
        job: job.job.clone(),
        line: job.line.clone(),
        state: if run_at > accepted {
            JobState::Scheduled
        } else {
            JobState::Queued
        },
        reason: None,
        message: None,
        labels: job.labels.clone(),
        priority: job.priority,
        attempt: 0,
        max_attempts: job.max_attempts,
        idempotency_key: job.key.as_ref().map(|key| key.key.clone()),
        created_at: accepted,
        run_at,
        expires_at: job.expires_in.map(|time| run_at.plus(time)),
        started_at: None,
        finished_at: None,
        cancel_requested_at: None,
        waiting: Some(Waiting {
            reason: WaitingReason::Unpublished,
            message: Some("accepted by the broker; it is taken in once the store serves".to_owned()),
            since: accepted,
        }),
    }
}

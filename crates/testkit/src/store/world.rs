//! What a case of the Store suite works with: a store, its clock, and short words for what workers and enqueuers do.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use robata_core::{
    AttemptState, ClaimId, Error, ErrorKind, Format, IncarnationId, JobId, JobState, Payload,
    attempt::{AttemptChange, AttemptWrite, Claim, Claimed, HeldAttempt, LogState, LogSummary, Written},
    definition::{Catalog, Document},
    executor::RealmId,
    finish::{End, Outcome},
    job::{Enqueue, JobRecord, Key, Line, NewJob, Reference, When},
    store::{Adopt, MARK, Mark, Register, Store, WorkerExecutor},
};

/// What a store's tests bring.
#[async_trait]
pub trait Harness: Send + Sync {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;
    /// Ends the store as a program's end would, and opens it again.
    async fn reopen(&mut self) -> Result<()>;
    /// Lets time pass on all of the store's clocks.
    fn advance(&self, by: Duration);
    /// Steps the wall clock alone.
    fn step_wall(&self, millis: i64);
}

/// A store with an app `shop` in it, whose jobs are `resize`, `mail` and `rare`; lines are (app's name, `process`).
pub struct World {
    pub(crate) harness: Box<dyn Harness>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

/// What most cases have in their catalog.
const CATALOG: &str = r#"{
    "apps": {
        "shop": {"command": ["true"], "executor": "process", "jobs": {
            "resize": {"retry": {"max_attempts": 3, "jitter": "none"}}, "mail": {}, "rare": {}}},
        "bank": {"command": ["true"], "executor": "process", "jobs": {"pay": {}}}
    }
}"#;

pub(crate) fn name<T>(text: &str) -> Result<T>
where
    T: std::str::FromStr<Err = Error>,
{
    Ok(text.parse()?)
}

pub(crate) fn line(queue: &str, executor: &str) -> Result<Line> {
    Ok(Line {
        queue: name(queue)?,
        executor: name(executor)?,
    })
}

/// A job of the app, due now.
pub(crate) fn job(app: &str, job: &str) -> Result<NewJob> {
    Ok(NewJob {
        id: JobId::new(),
        app: name(app)?,
        job: name(job)?,
        line: line(app, "process")?,
        queue_chosen: false,
        payload: Payload::null(),
        labels: BTreeMap::new(),
        env: BTreeMap::new(),
        priority: 0,
        when: When::Now,
        expires_in: None,
        key: None,
        max_attempts: 1,
        definition: None,
        traceparent: None,
    })
}

pub(crate) fn keyed(key: &str, request: u8) -> Result<NewJob> {
    Ok(NewJob {
        key: Some(Key {
            key: key.to_owned(),
            request: [request; 32],
        }),
        ..job("shop", "mail")?
    })
}

pub(crate) fn labelled(key: &str, value: &str) -> Result<NewJob> {
    let labels = [(key.to_owned(), value.to_owned())].into();
    Ok(NewJob {
        labels,
        ..job("shop", "mail")?
    })
}

pub(crate) fn kind<T: std::fmt::Debug>(result: &Result<T, Error>) -> Option<ErrorKind> {
    result.as_ref().err().map(Error::kind)
}

/// The reference that a job's next attempt has.
pub(crate) fn next(job: &JobRecord) -> (Line, Reference) {
    (
        job.line.clone(),
        Reference {
            job: job.id,
            attempt: job.attempt + 1,
        },
    )
}

pub(crate) fn exited(code: i32) -> AttemptChange {
    AttemptChange::Ended(Outcome::new(End::Exited(code)))
}

pub(crate) fn sealed() -> AttemptChange {
    AttemptChange::Finalised(LogSummary {
        state: LogState::Complete,
        reason: None,
        bytes: 3,
    })
}

pub(crate) fn held(claimed: Claimed) -> Result<HeldAttempt> {
    match claimed {
        Claimed::Held(held) => Ok(*held),
        other => bail!("not held: {other:?}"),
    }
}

/// The mark of a suite's one master.
#[must_use]
pub fn mark() -> Mark {
    static MASTER: LazyLock<IncarnationId> = LazyLock::new(IncarnationId::new);
    Mark {
        master: *MASTER,
        format: Format::OWN,
    }
}

impl World {
    /// A new store's world.
    pub async fn new(harness: impl Harness + 'static) -> Result<Self> {
        let world = Self {
            harness: Box::new(harness),
        };
        world.apply(CATALOG).await?;
        Ok(world)
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.harness.store()
    }

    /// Applies a definitions document.
    pub(crate) async fn apply(&self, document: &str) -> Result<Catalog> {
        let document =
            Document::read(&serde_json::from_str(document)?).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        let catalog = self.store().catalog().await?;
        let plan = catalog
            .plan(&document, false, &[])
            .map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        Ok(self
            .store()
            .change_catalog(catalog.revision, plan.writes, "suite")
            .await?)
    }

    /// Enqueues jobs, all of which must be taken.
    pub(crate) async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<JobRecord>> {
        let answers = self.store().enqueue(Enqueue { jobs, atomic: false }).await?;
        answers.into_iter().map(|answer| Ok(answer?.job)).collect()
    }

    pub(crate) async fn one(&self, job: NewJob) -> Result<JobRecord> {
        self.enqueue(vec![job]).await?.pop().context("no answer")
    }

    /// Registers a worker that has the executor `process` in the realm `here`.
    pub(crate) async fn worker(&self) -> Result<IncarnationId> {
        self.worker_with("process").await
    }

    pub(crate) async fn worker_with(&self, executor: &str) -> Result<IncarnationId> {
        self.worker_of(executor, Format::OWN).await
    }

    /// One that announces this format.
    pub(crate) async fn worker_of(&self, executor: &str, format: Format) -> Result<IncarnationId> {
        let incarnation = IncarnationId::new();
        let own = WorkerExecutor {
            realm: Some(RealmId("here".into())),
            slots: 8,
        };
        let request = Register {
            incarnation,
            host: "suite".into(),
            pid: 7,
            executors: [(name(executor)?, own)].into(),
            format,
        };
        self.store().register(request).await?;
        Ok(incarnation)
    }

    pub(crate) async fn claim(
        &self,
        incarnation: IncarnationId,
        references: Vec<(Line, Reference)>,
    ) -> Result<Vec<Claimed>> {
        let claim = Claim {
            claim: ClaimId::new(),
            incarnation,
            references,
        };
        Ok(self.store().claim(claim).await?)
    }

    /// Claims one job, which must be given.
    pub(crate) async fn hold(&self, incarnation: IncarnationId, job: &JobRecord) -> Result<HeldAttempt> {
        held(
            self.claim(incarnation, vec![next(job)])
                .await?
                .pop()
                .context("no answer")?,
        )
    }

    /// Enqueues and claims a job of the app `shop`.
    pub(crate) async fn running(&self, incarnation: IncarnationId, definition: &str) -> Result<HeldAttempt> {
        let job = self.one(job("shop", definition)?).await?;
        self.hold(incarnation, &job).await
    }

    /// Writes one thing about an attempt.
    pub(crate) async fn write(
        &self,
        incarnation: IncarnationId,
        held: &HeldAttempt,
        change: AttemptChange,
    ) -> Result<Result<Written, Error>> {
        let write = AttemptWrite {
            attempt: held.id,
            epoch: held.epoch,
            incarnation,
            change,
        };
        self.store().record(vec![write]).await?.pop().context("no answer")
    }

    /// Writes what must be taken.
    pub(crate) async fn wrote(
        &self,
        incarnation: IncarnationId,
        held: &HeldAttempt,
        change: AttemptChange,
    ) -> Result<Written> {
        Ok(self.write(incarnation, held, change).await??)
    }

    /// Enqueues a job of `shop/mail` (one attempt) and lets it fail.
    pub(crate) async fn failed(&self, incarnation: IncarnationId) -> Result<HeldAttempt> {
        let held = self.running(incarnation, "mail").await?;
        let written = self.wrote(incarnation, &held, exited(1)).await?;
        ensure!(
            (written.state, written.job) == (AttemptState::Failed, JobState::Failed),
            "{written:?}"
        );
        Ok(held)
    }

    pub(crate) async fn job(&self, id: JobId) -> Result<JobRecord> {
        Ok(self.store().job(id).await?.job)
    }

    /// Lets time pass as it does while masters run: in steps, each with a mark; `live` send their heartbeats.
    pub(crate) async fn pass(&self, time: Duration, live: &[IncarnationId]) -> Result<usize> {
        let mut ended = 0;
        let steps = time.as_millis().div_ceil(MARK.as_millis());
        for _ in 0..steps {
            self.harness.advance(MARK);
            for incarnation in live {
                self.store().heartbeat(*incarnation).await?;
            }
            ended += self.store().judge(mark()).await?.ended;
        }
        Ok(ended)
    }

    /// Adopts everything in the realm `here`.
    pub(crate) async fn adopt(&self, incarnation: IncarnationId) -> Result<Vec<HeldAttempt>> {
        self.adopt_in(incarnation, "here").await
    }

    pub(crate) async fn adopt_in(&self, incarnation: IncarnationId, realm: &str) -> Result<Vec<HeldAttempt>> {
        let request = Adopt {
            incarnation,
            realms: [(name("process")?, RealmId(realm.into()))].into(),
            only: None,
            max: 100,
            format: Format::OWN,
        };
        Ok(self.store().adopt(request).await?)
    }
}

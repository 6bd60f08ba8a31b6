//! Short words for jobs, workers and definitions, for the tests beside the suite.

use anyhow::{Context as _, Result, ensure};
use robata_core::{
    ClaimId, IncarnationId, JobId, Payload,
    attempt::{AttemptChange, AttemptWrite, Claim, HeldAttempt, LogState, LogSummary},
    definition::Document,
    executor::RealmId,
    finish::{End, Outcome},
    job::{Enqueue, Enqueued, JobRecord, Line, NewJob, Reference, When},
    store::{Register, Store, WorkerExecutor},
};

pub(crate) fn line() -> Result<Line> {
    Ok(Line {
        queue: "shop".parse()?,
        executor: "process".parse()?,
    })
}

pub(crate) fn job() -> Result<NewJob> {
    Ok(NewJob {
        id: JobId::new(),
        app: "shop".parse()?,
        job: "mail".parse()?,
        line: line()?,
        queue_chosen: false,
        payload: Payload::from_stored(r#"{"order":1234567,"to":"somebody@example.com"}"#.into()),
        labels: Default::default(),
        env: Default::default(),
        priority: 0,
        when: When::Now,
        expires_in: None,
        key: None,
        max_attempts: 1,
        definition: None,
        traceparent: None,
    })
}

pub(crate) fn jobs(n: usize) -> Result<Vec<NewJob>> {
    (0..n).map(|_| job()).collect()
}

/// An app `shop` with the job `mail`.
pub(crate) async fn define(store: &dyn Store) -> Result<()> {
    let document =
        serde_json::json!({"apps": {"shop": {"command": ["true"], "executor": "process", "jobs": {"mail": {}}}}});
    let document = Document::read(&document).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    let catalog = store.catalog().await?;
    let plan = catalog
        .plan(&document, false, &[])
        .map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    store.change_catalog(catalog.revision, plan.writes, "test").await?;
    Ok(())
}

pub(crate) async fn worker(store: &dyn Store) -> Result<IncarnationId> {
    let incarnation = IncarnationId::new();
    let own = WorkerExecutor {
        realm: Some(RealmId("here".into())),
        slots: 8,
    };
    store
        .register(Register {
            incarnation,
            host: "h".into(),
            pid: 1,
            executors: [("process".parse()?, own)].into(),
            format: robata_core::Format::OWN,
        })
        .await?;
    Ok(incarnation)
}

pub(crate) async fn enqueue(store: &dyn Store, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
    let answers = store.enqueue(Enqueue { jobs, atomic: false }).await?;
    answers.into_iter().map(|answer| Ok(answer?)).collect()
}

pub(crate) fn claim(incarnation: IncarnationId, jobs: &[JobRecord]) -> Claim {
    Claim {
        claim: ClaimId::new(),
        incarnation,
        references: jobs.iter().map(next).collect(),
    }
}

pub(crate) fn next(job: &JobRecord) -> (Line, Reference) {
    let reference = Reference {
        job: job.id,
        attempt: job.attempt + 1,
    };
    (job.line.clone(), reference)
}

pub(crate) fn ended(incarnation: IncarnationId, held: &HeldAttempt) -> AttemptWrite {
    AttemptWrite {
        attempt: held.id,
        epoch: held.epoch,
        incarnation,
        change: AttemptChange::Ended(Outcome::new(End::Exited(0))),
    }
}

pub(crate) fn finalised(incarnation: IncarnationId, held: &HeldAttempt) -> AttemptWrite {
    let log = LogSummary {
        state: LogState::Complete,
        reason: None,
        bytes: 3,
    };
    AttemptWrite {
        change: AttemptChange::Finalised(log),
        ..ended(incarnation, held)
    }
}

pub(crate) async fn one(store: &dyn Store, job: NewJob) -> Result<Enqueued> {
    let mut answers = enqueue(store, vec![job]).await?;
    ensure!(answers.len() == 1, "{answers:?}");
    answers.pop().context("no answer")
}

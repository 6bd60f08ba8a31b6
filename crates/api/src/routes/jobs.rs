//! Enqueueing, showing, cancelling and retrying jobs.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use robata_api_types::{EnqueueRequest, Job, Problem};
use robata_core::{
    AppName, Error, ErrorKind, JobId,
    accept::WholeJob,
    job::{Acted, Cancel, Enqueue, Enqueued, JobDetail, JobRecord, Key, NewJob, RetryByHand},
    store::Store,
};
use tokio::time::{Instant, sleep_until};

use super::{Json, ok};
use crate::{
    access::Identity,
    body::{JsonBody, OneJob},
    degraded::{Degraded, Unanswered},
    enqueue::{Checked, read, traceparent, unknown_app},
    path::{self, Path},
    query::Query,
    refused::{Refused, Result, internal},
    shared::Shared,
};

/// A long poll waits at most so many seconds.
const MAX_WAIT: u64 = 60;
/// A job that is waited for is looked at this often, besides hints.
const LOOK: Duration = Duration::from_secs(2);

/// Enqueues a job.
#[utoipa::path(
    operation_id = "enqueue",
    post, path = "/api/v1/jobs", tag = "jobs", request_body = EnqueueRequest,
    security(("token" = ["enqueue"])),
    responses(
        (status = 201, description = "It is durable.", body = Job),
        (status = 200, description = "The idempotency key was there already: its first job.", body = Job),
        (status = 202, description = "The store does not serve now: the job is in the broker, as durable as that, and is taken in once \
                                      the store serves. Until then its id answers 503 `not_yet_taken_in`. Where its key turns out to \
                                      be taken, its id answers with the first job.", body = Job),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn enqueue(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: JsonBody<OneJob>,
) -> Result<Response> {
    let worker = Arc::clone(&shared);
    let (request, _room) = body.with(move |bytes| Ok(read(bytes, &worker.config))).await?;
    let taken = match request {
        Ok(request) => enqueue_one(&shared, &who, request, traceparent(&headers)).await,
        Err(refused) => Err(refused),
    };
    let taken = taken.inspect_err(|_| shared.metrics.refused())?;
    let status = count(&shared, &taken);
    Ok(Json(status, Job::from(taken.into_job())).into_response())
}

async fn enqueue_one(shared: &Shared, who: &Identity, request: Checked, traceparent: Option<&str>) -> Result<Taken> {
    let mut catalog = who.view_of(shared.catalog().await?);
    // Before its key is looked at: another app's is nobody else's to know.
    if !who.sees(request.app()) {
        return Err(unknown_app(&catalog, request.app()));
    }
    if let Err(refused) = request.allowed_by(&catalog) {
        let newer = match shared.newer_catalog().await {
            Ok(newer) => who.view_of(newer?),
            Err(unanswered) => return Err(unanswered.refused(&refused.0.detail)),
        };
        catalog = match request.allowed_by(&newer) {
            Ok(()) => newer,
            // A key that is known answers with its first job, whatever has become of the definition since.
            Err(refused) => {
                let key = request.key().into_iter().collect();
                let first = match first_jobs(shared, key).await {
                    Ok(first) => first?.pop().flatten(),
                    Err(unanswered) => return Err(unanswered.refused(&refused.0.detail)),
                };
                return first.unwrap_or(Err(refused)).map(Taken::Stored);
            }
        };
    }
    let version = catalog.job(request.app(), request.job()).map(|entry| entry.version);
    let job = request.resolve(&catalog, &shared.config, traceparent)?;
    let Some(degraded) = &shared.degraded else {
        return store_one(&*shared.store, job).await.map(Taken::Stored);
    };
    // The same id by whichever path: if the store keeps it after all, that is one job.
    match degraded.ask(1, store_one_of(&*shared.store, job.clone())).await {
        Ok(enqueued) => Ok(Taken::Stored(enqueued?)),
        Err(unanswered) if !degraded.is_usable() => Err(unanswered.without_broker()),
        Err(_unanswered) => accept(degraded, who, job, version).await,
    }
}

/// What became of a job that was taken.
pub(super) enum Taken {
    /// The store has it, or its key's first job.
    Stored(Enqueued),
    /// The broker has it.
    Accepted(JobRecord),
}

impl Taken {
    pub(super) fn into_job(self) -> JobRecord {
        match self {
            Self::Stored(enqueued) => enqueued.job,
            Self::Accepted(job) => job,
        }
    }
}

/// Puts a job into the broker.
pub(super) async fn accept(
    degraded: &Degraded,
    who: &Identity,
    job: NewJob,
    definition_version: Option<u32>,
) -> Result<Taken> {
    let whole = WholeJob {
        job,
        definition_version,
        by: who.name.to_string(),
    };
    degraded.accept(&whole).await.map(Taken::Accepted)
}

/// What is known of each key: its first job, or that it came with another request.
pub(super) async fn first_jobs(
    shared: &Shared,
    keys: Vec<(AppName, Key)>,
) -> std::result::Result<Result<Vec<Option<Result<Enqueued>>>>, Unanswered> {
    if keys.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    let answers = match shared.ask(keys.len(), shared.store.replays(keys)).await? {
        Ok(answers) => answers,
        Err(error) => return Ok(Err(error.into())),
    };
    let told = |answer: robata_core::Result<Option<JobRecord>>| match answer {
        Ok(job) => job.map(|job| Ok(Enqueued { job, replayed: true })),
        Err(error) => Some(Err(Refused::from(error))),
    };
    Ok(Ok(answers.into_iter().map(told).collect()))
}

/// Stores one job.
pub(super) async fn store_one(store: &dyn Store, job: NewJob) -> Result<Enqueued> {
    Ok(store_one_of(store, job).await?)
}

async fn store_one_of(store: &dyn Store, job: NewJob) -> robata_core::Result<Enqueued> {
    let request = Enqueue {
        jobs: vec![job],
        atomic: false,
    };
    store.enqueue(request).await?.pop().unwrap_or_else(|| {
        let message = "the store answered nothing for a job";
        Err(Error::new(ErrorKind::Internal, "store.enqueue", message))
    })
}

/// Counts a job that was taken; answers its status.
pub(super) fn count(shared: &Shared, taken: &Taken) -> StatusCode {
    match taken {
        Taken::Stored(enqueued) if enqueued.replayed => {
            shared.metrics.replayed();
            StatusCode::OK
        }
        Taken::Stored(_) => {
            shared.metrics.created();
            StatusCode::CREATED
        }
        Taken::Accepted(_) => {
            shared.metrics.accepted();
            StatusCode::ACCEPTED
        }
    }
}

/// A job with payload and attempts.
#[utoipa::path(
    operation_id = "get_job",
    get, path = "/api/v1/jobs/{id}", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job's id"),
        ("wait" = Option<u64>, Query, minimum = 0, maximum = 60,
         description = "Answer when the job has ended or so many seconds (at most 60) have passed"),
    ),
    security(("token" = ["read"])),
    responses(
        (status = 200, description = "The job.", body = Job),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Json<Job>> {
    let id = path::job_id(&id)?;
    let wait = Duration::from_secs(query.number("wait", 0..=MAX_WAIT)?.unwrap_or(0));
    let detail = if wait.is_zero() {
        who.job(&shared, id).await?
    } else {
        ended(&shared, &who, id, Instant::now() + wait).await?
    };
    match Job::try_from(detail) {
        Ok(job) => Ok(ok(job)),
        Err(error) => {
            tracing::error!(job = %id, %error, "a stored payload is no JSON");
            Err(internal())
        }
    }
}

/// The job once it has ended, or as it stands at `deadline`.
async fn ended(shared: &Shared, who: &Identity, id: JobId, deadline: Instant) -> Result<JobDetail> {
    shared.listen();
    let watch = shared.hub.watch(id);
    loop {
        let changed = watch.notify().notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let detail = who.job(shared, id).await?;
        who.still()?;
        let now = Instant::now();
        if detail.job.state.is_ended() || now >= deadline || shared.shutdown.is_cancelled() {
            return Ok(detail);
        }
        tokio::select! {
            () = changed => {}
            () = sleep_until(deadline.min(now + LOOK)) => {}
            () = shared.shutdown.cancelled() => {}
        }
    }
}

/// Asks to cancel a job. A job that runs is `cancelled` only once nothing of it is alive.
#[utoipa::path(
    operation_id = "cancel_job",
    post, path = "/api/v1/jobs/{id}/cancel", tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    security(("token" = ["operate"])),
    responses(
        (status = 202, description = "Cancelled, or the request is noted.", body = Job),
        (status = 200, description = "Nothing changed: it was asked for before.", body = Job),
        (status = 409, description = "The job has ended otherwise.", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn cancel(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Job>> {
    let id = path::job_id(&id)?;
    who.check_job(&shared, id).await?;
    let request = Cancel {
        job: id,
        by: who.name.to_string(),
    };
    match shared.store.cancel(request).await {
        Ok(acted) => Ok(acted_on(acted)),
        Err(error) => Err(shared.missing(error, id).await),
    }
}

/// Retries a failed job by hand.
#[utoipa::path(
    operation_id = "retry_job",
    post, path = "/api/v1/jobs/{id}/retry", tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    security(("token" = ["operate"])),
    responses(
        (status = 202, description = "It is queued again.", body = Job),
        (status = 200, description = "Nothing changed: it waits or runs.", body = Job),
        (status = 409, description = "The job did not fail.", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn retry(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Job>> {
    let id = path::job_id(&id)?;
    who.check_job(&shared, id).await?;
    let request = RetryByHand {
        job: id,
        by: who.name.to_string(),
    };
    match shared.store.retry(request).await {
        Ok(acted) => Ok(acted_on(acted)),
        Err(error) => Err(shared.missing(error, id).await),
    }
}

fn acted_on(acted: Acted) -> Json<Job> {
    let status = if acted.changed {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    Json(status, acted.job.into())
}

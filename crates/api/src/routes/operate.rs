//! What operators do: pause and resume queues, drain workers, call realms lost, look at what could not be taken in.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use robata_api_types::{LoseRequest, LostList, PauseRequest, Problem, Queue, SetAsideList, Worker};
use robata_core::{ErrorKind, IncarnationId, QueueName, executor::RealmId};

use super::{Json, ok, status::all_queues};
use crate::{
    access::Identity,
    body::{JsonBody, parse},
    path::Path,
    query::{MOST, Query},
    refused::{Refused, Result, internal, nearest},
    shared::Shared,
};

/// A pause's reason has at most so many bytes.
const MAX_REASON: usize = 1 << 10;
/// Messages a page.
const PAGE: u64 = 50;
const MAX_PAGE: u64 = 500;

/// Pauses a queue: no worker takes its jobs from here on; what runs goes on. A queue that is paused gets the new reason.
#[utoipa::path(
    operation_id = "pause_queue",
    post, path = "/api/v1/queues/{queue}/pause", tag = "status", request_body = Option<PauseRequest>,
    params(("queue" = String, Path, description = "The queue's name")),
    security(("token" = ["operate"])),
    responses(
        (status = 200, description = "It is paused.", body = Queue),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn pause(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    Path(queue): Path<String>,
    body: JsonBody,
) -> Result<Json<Queue>> {
    let (request, _room) = body
        .with(|bytes| match bytes.is_empty() {
            true => Ok(PauseRequest::default()),
            false => parse::<PauseRequest>(bytes),
        })
        .await?;
    if request.reason.len() > MAX_REASON {
        let detail = format!(
            "reason: has {} bytes, at most {MAX_REASON} are kept",
            request.reason.len()
        );
        return Err(Refused::invalid("invalid_request", detail));
    }
    let queue = known(&shared, &who, &queue).await?;
    shared.store.pause(&queue, Some(&request.reason), &who.name).await?;
    show(&shared, &who, &queue).await
}

/// Resumes a queue.
#[utoipa::path(
    operation_id = "resume_queue",
    post, path = "/api/v1/queues/{queue}/resume", tag = "status",
    params(("queue" = String, Path, description = "The queue's name")),
    security(("token" = ["operate"])),
    responses(
        (status = 200, description = "It is not paused.", body = Queue),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn resume(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    Path(queue): Path<String>,
) -> Result<Json<Queue>> {
    let queue = known(&shared, &who, &queue).await?;
    shared.store.pause(&queue, None, &who.name).await?;
    show(&shared, &who, &queue).await
}

/// A queue's name, where the catalog, a job, a definition or a pause names it.
async fn known(shared: &Shared, who: &Identity, name: &str) -> Result<QueueName> {
    let queues = all_queues(shared, who).await?;
    match queues.iter().find(|queue| queue.queue.as_str() == name) {
        Some(queue) => Ok(queue.queue.clone()),
        None => {
            let near = nearest(name, queues.iter().map(|queue| queue.queue.as_str()));
            let detail = format!("no job, no definition and no setting names a queue {name:?}");
            Err(Refused::not_found("unknown_queue", detail).near(near))
        }
    }
}

async fn show(shared: &Shared, who: &Identity, name: &QueueName) -> Result<Json<Queue>> {
    let queues = all_queues(shared, who).await?;
    match queues.into_iter().find(|queue| queue.queue == *name) {
        Some(queue) => Ok(ok(queue)),
        // Its last job was pruned just now, and nothing else names it.
        None => Err(Refused::not_found("unknown_queue", format!("there is no queue {name}"))),
    }
}

/// Asks a worker to drain: it takes nothing new, and leaves once what it holds has ended.
#[utoipa::path(
    operation_id = "drain_worker",
    post, path = "/api/v1/workers/{id}/drain", tag = "status",
    params(("id" = String, Path, description = "The worker's id")),
    security(("token" = ["admin", "installation"])),
    responses(
        (status = 202, description = "It will.", body = Worker),
        (status = 409, description = "It is not there any more.", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn drain(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Worker>> {
    let unknown = || Refused::not_found("unknown_worker", format!("there is no worker {id}"));
    let incarnation: IncarnationId = id.parse().map_err(|_| unknown())?;
    shared
        .store
        .drain(incarnation, &who.name)
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => unknown(),
            _ => error.into(),
        })?;
    let workers = shared.store.workers().await?;
    let found = workers.into_iter().find(|worker| worker.incarnation == incarnation);
    found.map_or_else(
        || Err(internal()),
        |worker| Ok(Json(StatusCode::ACCEPTED, worker.into())),
    )
}

/// Calls lost, at once, what ran in a realm that is gone for good. Without it that is done `lost_after` later.
#[utoipa::path(
    operation_id = "lose_realm",
    post, path = "/api/v1/realms/lost", tag = "status", request_body = LoseRequest,
    security(("token" = ["admin", "installation"])),
    responses(
        (status = 200, description = "What was called lost.", body = LostList),
        (status = 409, description = "A live worker reaches the realm.", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn lose(who: Identity, State(shared): State<Arc<Shared>>, body: JsonBody) -> Result<Json<LostList>> {
    let LoseRequest { realm } = body.parse().await?.value;
    let workers = shared.store.workers().await?;
    let known: Vec<&str> = workers
        .iter()
        .flat_map(|worker| worker.executors.values())
        .filter_map(|executor| Some(executor.realm.as_ref()?.0.as_str()))
        .collect();
    let lost = shared.store.lose(&RealmId(realm.clone()), &who.name).await?;
    if lost.is_empty() && !known.contains(&realm.as_str()) {
        // A slip of the pen must not look as if all was well.
        let detail = format!("nothing runs in a realm {realm:?}, and no worker has told of it");
        return Err(Refused::not_found("unknown_realm", detail).near(nearest(&realm, known.into_iter())));
    }
    Ok(ok(LostList {
        realm,
        attempts: lost.into_iter().map(Into::into).collect(),
    }))
}

/// Messages that could not be taken in, newest first, each with its reason.
#[utoipa::path(
    operation_id = "list_set_aside",
    get, path = "/api/v1/set-aside", tag = "status",
    params(
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 500,
         description = "At most so many (default 50, at most 500)"),
        ("before" = Option<u64>, Query, minimum = 0, description = "Only numbers below this: the last page's `next_before`"),
    ),
    security(("token" = ["admin", "installation"])),
    responses(
        (status = 200, description = "A page.", body = SetAsideList),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn set_aside(State(shared): State<Arc<Shared>>, query: Query) -> Result<Json<SetAsideList>> {
    let limit = query.number("limit", 1..=MAX_PAGE)?.unwrap_or(PAGE);
    let before = query.number("before", 0..=MOST)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let records = shared.store.set_aside_list(before, limit).await?;
    let next_before = records.last().filter(|_| records.len() == limit).map(|last| last.seq);
    Ok(ok(SetAsideList {
        messages: records.into_iter().map(Into::into).collect(),
        next_before,
    }))
}

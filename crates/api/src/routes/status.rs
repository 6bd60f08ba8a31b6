//! Queues, workers, health, readiness and metrics.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use robata_api_types::{Health, Need, Problem, Queue, QueueList, Ready, WorkerList};
use robata_core::{Error, ErrorKind, QueueName, definition::Catalog, store::QueueCounts};
use tokio::time::timeout;

use super::{Json, ok};
use crate::{
    refused::{Result, internal},
    shared::Shared,
};

/// What is tried for readiness is given up after this time.
const CHECK: Duration = Duration::from_secs(2);

/// All queues that have jobs or settings, or that a definition names.
#[utoipa::path(
    get, path = "/api/v1/queues", tag = "status",
    responses(
        (status = 200, description = "By name.", body = QueueList),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn queues(State(shared): State<Arc<Shared>>) -> Result<Json<QueueList>> {
    let counts = shared.store.queue_counts().await?;
    let catalog = shared.fresh_catalog().await?;
    Ok(ok(QueueList {
        queues: by_queue(&catalog, counts),
    }))
}

fn by_queue(catalog: &Catalog, counts: Vec<QueueCounts>) -> Vec<Queue> {
    let named = catalog.apps.iter().flat_map(|(app, settings)| {
        let jobs = settings.jobs.values();
        jobs.map(|entry| Catalog::queue_of(app, &entry.definition))
    });
    let counted = counts.iter().map(|counts| counts.line.queue.clone());
    let names = catalog.queues.keys().cloned().chain(named).chain(counted);
    let empty = |queue: QueueName| Queue {
        max_running: catalog.queues.get(&queue).and_then(|settings| settings.max_running),
        queue,
        scheduled: 0,
        queued: 0,
        running: 0,
        lines: Vec::new(),
    };
    let mut queues: BTreeMap<QueueName, Queue> = names.map(|name| (name.clone(), empty(name))).collect();
    for counts in counts {
        if let Some(queue) = queues.get_mut(&counts.line.queue) {
            queue.scheduled += counts.scheduled;
            queue.queued += counts.queued;
            queue.running += counts.running;
            queue.lines.push(counts.into());
        }
    }
    queues.into_values().collect()
}

/// All workers, live ones first.
#[utoipa::path(
    get, path = "/api/v1/workers", tag = "status",
    responses(
        (status = 200, description = "The workers.", body = WorkerList),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn workers(State(shared): State<Arc<Shared>>) -> Result<Json<WorkerList>> {
    let workers = shared.store.workers().await?;
    Ok(ok(WorkerList {
        workers: workers.into_iter().map(Into::into).collect(),
    }))
}

/// Whether the process is alive.
#[utoipa::path(
    get, path = "/healthz", tag = "status",
    responses((status = 200, description = "It is.", body = Health)),
)]
pub(super) async fn healthz() -> Json<Health> {
    ok(Health {
        status: "alive".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Whether it can do its work. Without the log store jobs are taken all the same, so that is only degraded.
#[utoipa::path(
    get, path = "/readyz", tag = "status",
    responses(
        (status = 200, description = "It can; what is degraded is named.", body = Ready),
        (status = 503, description = "It cannot.", body = Ready),
    ),
)]
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Json<Ready> {
    let (store, logs) = tokio::join!(
        timeout(CHECK * 2, shared.store.check(CHECK)),
        timeout(CHECK * 2, shared.logs.check(CHECK)),
    );
    let need = |name: &str, required, tried: Result<Result<(), Error>, _>| {
        let error = match tried {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_elapsed) => {
                let message = format!("did not answer within {} s", CHECK.as_secs());
                Some(Error::new(ErrorKind::Unavailable, "ready.check", message))
            }
        };
        Need {
            name: name.to_owned(),
            ok: error.is_none(),
            required,
            message: error.map(|error| error.full()),
        }
    };
    let needs = vec![need("store", true, store), need("logs", false, logs)];
    let ready = needs.iter().all(|need| need.ok || !need.required);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Json(status, Ready { ready, needs })
}

/// Metrics in Prometheus' text form.
#[utoipa::path(
    get, path = "/metrics", tag = "status",
    responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain")),
)]
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Result<Response> {
    let asked = async { tokio::try_join!(shared.store.queue_counts(), shared.store.workers()) };
    let answer = match timeout(CHECK, asked).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::warn!(error = %error.full(), "no metrics of the store");
            None
        }
        Err(_elapsed) => None,
    };
    let store = answer.as_ref().map(|(queues, workers)| (&queues[..], &workers[..]));
    let text = shared
        .metrics
        .render(shared.hub.waiting(), store)
        .map_err(|_| internal())?;
    let media_type = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, media_type)], text).into_response())
}

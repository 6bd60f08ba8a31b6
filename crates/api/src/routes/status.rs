//! Queues, workers, health, readiness and metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{extract::State, response::Response};
use robata_api_types::{Health, Need, Problem, Queue, QueueList, Ready, WorkerList};
use robata_core::{
    QueueName,
    definition::Catalog,
    store::{Pause, QueueCounts},
};
use tokio::time::timeout;

use super::{Json, ok};
use crate::{
    access::Identity,
    degraded::{Degraded, Path},
    probes::{self, CHECK, need},
    refused::{Result, internal},
    shared::Shared,
};

/// All queues that have jobs or settings, or that a definition names.
#[utoipa::path(
    get, path = "/api/v1/queues", tag = "status",
    security(("token" = ["read"])),
    responses(
        (status = 200, description = "By name.", body = QueueList),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn queues(who: Identity, State(shared): State<Arc<Shared>>) -> Result<Json<QueueList>> {
    Ok(ok(QueueList {
        queues: all_queues(&shared, &who).await?,
    }))
}

/// Every queue that something names and that may be seen, by name.
pub(super) async fn all_queues(shared: &Shared, who: &Identity) -> Result<Vec<Queue>> {
    let counts = shared.store.queue_counts().await?;
    let paused = shared.store.paused().await?;
    let catalog = shared.fresh_catalog().await?;
    let mut queues = by_queue(&catalog, counts, paused);
    queues.retain(|queue| who.sees_queue(&catalog, &queue.queue));
    Ok(queues)
}

fn by_queue(catalog: &Catalog, counts: Vec<QueueCounts>, mut paused: BTreeMap<QueueName, Pause>) -> Vec<Queue> {
    let named = catalog.apps.iter().flat_map(|(app, settings)| {
        let jobs = settings.jobs.values();
        jobs.map(|entry| Catalog::queue_of(app, &entry.definition))
    });
    let counted = counts.iter().map(|counts| counts.line.queue.clone());
    let names = catalog.queues.keys().chain(paused.keys()).cloned();
    let names: BTreeSet<QueueName> = names.chain(named).chain(counted).collect();
    let mut empty = |queue: QueueName| Queue {
        paused: paused.remove(&queue).map(Into::into),
        max_running: catalog.queues.get(&queue).and_then(|settings| settings.max_running),
        queue,
        scheduled: 0,
        queued: 0,
        running: 0,
        lines: Vec::new(),
    };
    let mut queues: BTreeMap<QueueName, Queue> = names.into_iter().map(|name| (name.clone(), empty(name))).collect();
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
    security(("token" = ["read", "installation"])),
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
    security(()),
    responses((status = 200, description = "It is.", body = Health)),
)]
pub(super) async fn healthz() -> Json<Health> {
    ok(probes::alive())
}

/// Whether it can do its work. Without the log store or the broker jobs are taken all the same, so that is only degraded; and so
/// is a store that does not serve while the broker takes whole jobs. `enqueue` tells by which path jobs are accepted: `normal`,
/// `degraded` or `none`.
#[utoipa::path(
    get, path = "/readyz", tag = "status",
    security(()),
    responses(
        (status = 200, description = "It can; what is degraded is named.", body = Ready),
        (status = 503, description = "It cannot.", body = Ready),
    ),
)]
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Json<Ready> {
    let others = async {
        match &shared.others {
            Some(others) => others().await,
            None => Vec::new(),
        }
    };
    let (mut store, logs, others) = tokio::join!(
        need("store", true, shared.store.check(CHECK)),
        need("logs", false, shared.logs.check(CHECK)),
        others,
    );
    let mut needs = Vec::new();
    if let Some(degraded) = &shared.degraded {
        let path = degraded.path_now(store.ok).await;
        // One way of accepting is enough.
        store.required = false;
        needs.push(Need {
            name: "enqueue".to_owned(),
            ok: path != Path::None,
            required: true,
            message: Some(format!("the path in use is {}", path.as_str())),
        });
    }
    needs.extend([store, logs]);
    needs.extend(others);
    probes::ready(needs)
}

/// Metrics in Prometheus' text form.
#[utoipa::path(
    get, path = "/metrics", tag = "status",
    security(("token" = ["read", "installation"])),
    responses(
        (status = 200, description = "The metrics.", body = String, content_type = "text/plain"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
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
    let mut text = shared
        .metrics
        .render(
            shared.hub.waiting(),
            shared.degraded.as_ref().map(Degraded::path),
            store,
        )
        .map_err(|_| internal())?;
    if let Some(more) = &shared.more_metrics {
        text.push_str(&more().ok_or_else(internal)?);
    }
    Ok(probes::as_metrics(text))
}

//! Enqueueing many jobs in one commit, each item judged by itself.

use std::sync::Arc;

use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use robata_api_types::{BatchAnswer, BatchItem, BatchRequest, EnqueueRequest, Place, Problem};
use robata_core::{
    definition::Catalog,
    job::{Enqueue, NewJob},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{jobs::count, ok};
use crate::{
    body::{JsonBody, parse},
    enqueue::{is_unknown_name, resolve, traceparent},
    refused::{Refused, Result, internal},
    shared::Shared,
};

/// A batch whose jobs are not looked into yet: one bad item must not hide the others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBatch<'b> {
    #[serde(borrow)]
    jobs: Vec<&'b RawValue>,
    #[serde(default)]
    atomic: bool,
}

/// Enqueues many jobs in one commit.
#[utoipa::path(
    operation_id = "enqueue_batch",
    post, path = "/api/v1/jobs/batch", tag = "jobs", request_body = BatchRequest,
    responses(
        (status = 200, description = "What became of each, in their order.", body = BatchAnswer),
        (status = 422, description = "`atomic`, and at least one is bad: nothing was stored.", body = Problem,
         content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn batch(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: JsonBody) -> Result<Response> {
    let catalog = shared.catalog().await?;
    let trace = traceparent(&headers).map(str::to_owned);
    let (atomic, mut items, _room) = {
        let worker = Arc::clone(&shared);
        let trace = trace.clone();
        let work = move |bytes: &bytes::Bytes| {
            let raw: RawBatch<'_> = parse(bytes)?;
            let most = worker.config.max_batch;
            if raw.jobs.len() > most {
                let count = raw.jobs.len();
                let detail = format!("the batch has {count} jobs; at most {most} are allowed");
                return Err(Refused::invalid("too_many_jobs", detail));
            }
            let item = |raw: &&RawValue| {
                let request = parse::<EnqueueRequest>(raw.get().as_bytes())?;
                // Kept for a second look with a newer catalog, which is rare.
                let again = catalog
                    .job(&request.app, &request.job)
                    .is_none()
                    .then(|| request.clone());
                Ok(match resolve(request, &catalog, &worker.config, trace.as_deref()) {
                    Err(refused) if is_unknown_name(&refused) => match again {
                        Some(request) => Item::Unknown(Box::new(request), refused),
                        None => Item::Refused(refused),
                    },
                    Err(refused) => Item::Refused(refused),
                    Ok(job) => Item::Job(Box::new(job)),
                })
            };
            let items = raw.jobs.iter().map(|raw| item(raw).unwrap_or_else(Item::Refused));
            Ok((raw.atomic, items.collect::<Vec<Item>>()))
        };
        let ((atomic, items), room) = body.with(work).await?;
        (atomic, items, room)
    };
    if items.iter().any(|item| matches!(item, Item::Unknown(..)))
        && let Some(newer) = shared.newer_catalog().await?
    {
        for item in &mut items {
            item.resolve_again(&newer, &shared, trace.as_deref());
        }
    }
    let results = store_batch(&shared, items, atomic).await?;
    Ok(ok(BatchAnswer { results }).into_response())
}

/// One item on its way.
enum Item {
    Job(Box<NewJob>),
    Refused(Refused),
    /// Refused for a name that a newer catalog may know.
    Unknown(Box<EnqueueRequest>, Refused),
}

impl Item {
    fn resolve_again(&mut self, catalog: &Catalog, shared: &Shared, trace: Option<&str>) {
        if let Self::Unknown(request, _) = self {
            *self = match resolve((**request).clone(), catalog, &shared.config, trace) {
                Ok(job) => Self::Job(Box::new(job)),
                Err(refused) => Self::Refused(refused),
            };
        }
    }
}

async fn store_batch(shared: &Shared, items: Vec<Item>, atomic: bool) -> Result<Vec<BatchItem>> {
    let mut jobs = Vec::with_capacity(items.len());
    let mut refusals: Vec<Option<Refused>> = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Item::Job(job) => {
                jobs.push(*job);
                refusals.push(None);
            }
            Item::Refused(refused) | Item::Unknown(_, refused) => refusals.push(Some(refused)),
        }
    }
    if atomic && refusals.iter().any(Option::is_some) {
        return Err(none_stored(shared, refusals.into_iter()));
    }
    let asked = jobs.len();
    let answers = if jobs.is_empty() {
        Vec::new()
    } else {
        shared.store.enqueue(Enqueue { jobs, atomic }).await?
    };
    if answers.len() != asked {
        tracing::error!(
            asked,
            answered = answers.len(),
            "the store answered another number of jobs"
        );
        return Err(internal());
    }
    if atomic && answers.iter().any(Result::is_err) {
        // What the store says of the good ones is only that they were not stored.
        let refused = answers.into_iter().map(|answer| {
            answer
                .err()
                .filter(|error| error.kind() != robata_core::ErrorKind::Conflict)
                .map(Refused::from)
        });
        return Err(none_stored(shared, refused));
    }
    let mut answers = answers.into_iter();
    let mut results = Vec::with_capacity(refusals.len());
    for refusal in refusals {
        let outcome = match refusal {
            Some(refused) => Err(refused),
            None => match answers.next() {
                Some(answer) => answer.map_err(Refused::from),
                None => Err(internal()),
            },
        };
        results.push(match outcome {
            Ok(enqueued) => BatchItem {
                status: count(shared, &enqueued).as_u16(),
                job: Some(enqueued.job.into()),
                problem: None,
            },
            Err(refused) => {
                shared.metrics.refused();
                BatchItem {
                    status: refused.status(),
                    job: None,
                    problem: Some(*refused.0),
                }
            }
        });
    }
    Ok(results)
}

/// 422 with every bad item of an atomic batch.
fn none_stored(shared: &Shared, refusals: impl Iterator<Item = Option<Refused>>) -> Refused {
    let problems: Vec<Place> = refusals
        .enumerate()
        .filter_map(|(index, refused)| {
            let problem = refused?.0;
            shared.metrics.refused();
            Some(Place {
                path: vec!["jobs".to_owned(), index.to_string()],
                code: problem.code,
                message: problem.detail,
            })
        })
        .collect();
    let detail = format!("{} of the batch's jobs are bad, so none was stored", problems.len());
    Refused::invalid("batch_refused", detail).places(problems)
}

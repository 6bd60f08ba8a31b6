//! One-offs: an app's settings with another command.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use robata_api_types::{Job, Problem, RunRequest};
use robata_core::{
    AppName, JobId, JobName, Payload,
    definition::{
        Catalog, Definition,
        document::{Options, check_options, definition, merge},
    },
    job::{Line, NewJob, OneOff, When},
};
use serde_json::Value;

use super::{
    Json,
    apps::below,
    jobs::{Taken, count, store_one},
};
use crate::{
    access::Identity,
    body::JsonBody,
    enqueue::{self, entry, executor, traceparent},
    path::{self, Path},
    policy::refusals_of,
    refused::{Refused, Result, internal, nearest},
    shared::Shared,
};

/// The job name of a one-off that is of no definition.
const NAME: &str = "run";

/// Runs a one-off with another command. It has one attempt of its own; what the platform causes is tried again.
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/run", tag = "apps", request_body = RunRequest,
    params(("app" = String, Path, example = "shop", description = "The app's name")),
    security(("token" = ["deploy"])),
    responses(
        (status = 201, description = "The job; it is durable.", body = Job),
        (status = 422, description = "Every mistake stands in `problems`.", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn run(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    Path(app): Path<String>,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Json<Job>> {
    let app = path::app(&app)?;
    who.check_app(&shared, &app).await?;
    let request = body.parse::<RunRequest>().await?.value;
    // A one-off is asked for by somebody who waits for it: it goes into the store or not at all.
    let catalog = match shared.ask(1, shared.store.catalog()).await {
        Ok(catalog) => who.view_of(shared.keep_catalog(catalog?)),
        Err(unanswered) => return Err(unanswered.refused("a one-off needs the store")),
    };
    let definition = whole(&catalog, &app, &request)?;
    let line = Line {
        queue: queue(&catalog, &app, &request, &definition)?,
        executor: executor(&definition, &shared.config),
    };
    let known = &shared.config.executors;
    if !known.is_empty() && !known.contains(&line.executor) {
        let names: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
        let detail = format!(
            "no executor is called {}; there are {}",
            line.executor,
            names.join(", ")
        );
        return Err(
            Refused::invalid("unknown_executor", detail).near(nearest(line.executor.as_str(), names.into_iter()))
        );
    }
    let refused = refusals_of(&shared.config, &app, &definition);
    if !refused.is_empty() {
        return Err(below(refused, 0));
    }
    let job = match request.job {
        Some(job) => job,
        None => JobName::new(NAME).map_err(|_| internal())?,
    };
    let new = NewJob {
        id: JobId::new(),
        app,
        job,
        line,
        queue_chosen: request.queue.is_some(),
        payload: Payload::null(),
        labels: BTreeMap::new(),
        env: BTreeMap::new(),
        priority: 0,
        when: When::Now,
        expires_in: None,
        key: None,
        max_attempts: 1,
        definition: Some(Box::new(OneOff {
            definition,
            by: who.name.to_string(),
        })),
        traceparent: traceparent(&headers).map(str::to_owned),
    };
    let enqueued = store_one(&*shared.store, new).await?;
    let taken = Taken::Stored(enqueued);
    count(&shared, &taken);
    Ok(Json(StatusCode::CREATED, taken.into_job().into()))
}

/// Defaults, app, the definition named, and what the request says, merged.
fn whole(catalog: &Catalog, app: &AppName, request: &RunRequest) -> Result<Definition> {
    let settings = enqueue::app(catalog, app)?;
    let named = match &request.job {
        Some(job) => Some(&entry(catalog, app, job)?.options),
        None => None,
    };
    let own = layer(request);
    let found = check_options(&own, &[]);
    if !found.is_empty() {
        return Err(below(found, 0));
    }
    let layers: Vec<&Options> = [&catalog.defaults, &settings.options]
        .into_iter()
        .chain(named)
        .chain([&own])
        .collect();
    let mut whole = definition(merge(&layers), &[]).map_err(|found| below(found, 0))?;
    whole.retry.max_attempts = 1;
    Ok(whole)
}

/// What the request says, as keys of a definition.
fn layer(request: &RunRequest) -> Options {
    let words = |words: &Vec<String>| Value::from(words.clone());
    let env = request
        .env
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()));
    [
        ("image", request.image.clone().map(Value::from)),
        ("entrypoint", request.entrypoint.as_ref().map(words)),
        ("command", Some(words(&request.command))),
        ("env", Some(Value::Object(env.collect()))),
        ("executor", request.executor.as_ref().map(|name| name.as_str().into())),
        ("timeout", request.timeout.clone().map(Value::from)),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_owned(), value?)))
    .collect()
}

fn queue(
    catalog: &Catalog,
    app: &AppName,
    request: &RunRequest,
    definition: &Definition,
) -> Result<robata_core::QueueName> {
    // An app without definitions has its own queue all the same.
    let own: robata_core::QueueName = app.clone().into();
    match &request.queue {
        Some(queue) if *queue == own => Ok(own),
        chosen => enqueue::queue(catalog, app, chosen.clone(), definition),
    }
}

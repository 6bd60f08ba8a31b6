//! Job definitions of an app, one by one.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State, http::StatusCode};
use robata_api_types::{Definition, DefinitionList, Problem, strict::StrictMap};
use robata_core::{
    AppName, JobName,
    definition::{
        CatalogWrite, Document, JobEntry,
        document::{AppDocument, check_options},
        plan::Plan,
    },
};
use serde_json::Value;

use super::{
    Json,
    apply::change,
    apps::{below, made_or_replaced},
    condition::{Condition, Tagged},
    ok,
};
use crate::{
    access::Identity,
    body::JsonBody,
    enqueue::{self, entry},
    path::{self, Path, new_name},
    policy,
    refused::{Result, internal},
    shared::Shared,
};

/// All definitions of an app.
#[utoipa::path(
    operation_id = "list_definitions",
    get, path = "/api/v1/apps/{app}/definitions", tag = "apps",
    params(("app" = String, Path, example = "shop", description = "The app's name")),
    security(("token" = ["read"])),
    responses(
        (status = 200, description = "By name.", body = DefinitionList),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    Path(app): Path<String>,
) -> Result<Json<DefinitionList>> {
    let catalog = who.view_of(shared.fresh_catalog().await?);
    let name = path::app(&app)?;
    let app = enqueue::app(&catalog, &name)?;
    let definitions = app.jobs.iter().map(|(job, entry)| body(&name, job, entry));
    Ok(ok(DefinitionList {
        definitions: definitions.collect::<Result<_>>()?,
    }))
}

/// A definition.
#[utoipa::path(
    operation_id = "get_definition",
    get, path = "/api/v1/apps/{app}/definitions/{job}", tag = "apps",
    params(
        ("app" = String, Path, example = "shop", description = "The app's name"),
        ("job" = String, Path, example = "resize", description = "The definition's name"),
        ("If-Match" = Option<String>, Header, description = "`*`, or ETags: do it only where this is still what was read"),
    ),
    security(("token" = ["read"])),
    responses(
        (status = 200, description = "The definition.", body = Definition, headers(("ETag" = String, description = "For `If-Match`"))),
        (status = 412, description = "`precondition_failed`: it is not what `If-Match` asks for; nothing was changed.",
         body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    Path((app, job)): Path<(String, String)>,
    condition: Condition,
) -> Result<Tagged<Definition>> {
    let catalog = who.view_of(shared.fresh_catalog().await?);
    let (app, job) = (path::app(&app)?, path::job(&job)?);
    let definition = body(&app, &job, entry(&catalog, &app, &job)?)?;
    condition.check(Some(&definition))?;
    Ok(Tagged(ok(definition)))
}

/// Makes or replaces a definition: the keys of `[apps.X.jobs.Y]`. The app must be there.
#[utoipa::path(
    operation_id = "put_definition",
    put, path = "/api/v1/apps/{app}/definitions/{job}", tag = "apps",
    params(
        ("app" = String, Path, example = "shop", description = "The app's name"),
        ("job" = String, Path, example = "resize", description = "The definition's name"),
        ("If-Match" = Option<String>, Header, description = "`*`, or ETags: do it only where this is still what was read"),
    ),
    request_body(content = Object, description = "The keys of `[apps.X.jobs.Y]`"),
    security(("token" = ["deploy"])),
    responses(
        (status = 200, description = "Replaced.", body = Definition, headers(("ETag" = String, description = "For `If-Match`"))),
        (status = 201, description = "Made.", body = Definition, headers(("ETag" = String, description = "For `If-Match`"))),
        (status = 412, description = "`precondition_failed`: it is not what `If-Match` asks for; nothing was changed.",
         body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Every mistake stands in `problems`.", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn put(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    Path((app, job)): Path<(String, String)>,
    condition: Condition,
    settings: JsonBody,
) -> Result<Tagged<Definition>> {
    let app = path::app(&app)?;
    who.check_app(&shared, &app).await?;
    let job: JobName = new_name(&job)?;
    let settings = settings.parse::<StrictMap>().await?;
    let StrictMap(settings) = &settings.value;
    let found = check_options(settings, &[]);
    if !found.is_empty() {
        return Err(below(found, 0));
    }
    let (_, before, after) = change(&shared, &who, |catalog| {
        let seen = who.view(catalog);
        let now = enqueue::app(&seen, &app)?;
        let current = now.jobs.get(&job).map(|entry| body(&app, &job, entry)).transpose()?;
        condition.check(current.as_ref())?;
        let document = Document {
            apps: BTreeMap::from([(
                app.clone(),
                AppDocument {
                    description: now.description.clone(),
                    options: now.options.clone(),
                    max_running: now.max_running,
                    retention: now.retention,
                    jobs: BTreeMap::from([(job.clone(), settings.clone())]),
                },
            )]),
            ..Document::default()
        };
        // Below `apps.X.jobs.Y`.
        policy::plan(&shared.config, catalog, &document, false).map_err(|found| below(found, 4))
    })
    .await?;
    let status = made_or_replaced(before.job(&app, &job).is_some());
    Ok(Tagged(Json(status, body(&app, &job, entry(&after, &app, &job)?)?)))
}

/// Removes a definition. Its jobs that wait end as `no_definition`.
#[utoipa::path(
    operation_id = "delete_definition",
    delete, path = "/api/v1/apps/{app}/definitions/{job}", tag = "apps",
    params(
        ("app" = String, Path, description = "The app's name"), ("job" = String, Path, description = "The definition's name"),
        ("If-Match" = Option<String>, Header, description = "`*`, or ETags: do it only where this is still what was read"),
    ),
    security(("token" = ["deploy"])),
    responses(
        (status = 204, description = "Removed."),
        (status = 412, description = "`precondition_failed`: it is not what `If-Match` asks for; nothing was changed.",
         body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn delete(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    Path((app, job)): Path<(String, String)>,
    condition: Condition,
) -> Result<StatusCode> {
    let (app, job) = (path::app(&app)?, path::job(&job)?);
    change(&shared, &who, |catalog| {
        condition.check(Some(&body(&app, &job, entry(&who.view(catalog), &app, &job)?)?))?;
        Ok(Plan {
            items: Vec::new(),
            writes: vec![CatalogWrite::DeleteJob(app.clone(), job.clone())],
        })
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn body(app: &AppName, job: &JobName, entry: &JobEntry) -> Result<Definition> {
    let Ok(Value::Object(definition)) = serde_json::to_value(&*entry.definition) else {
        tracing::error!(%app, %job, "a definition cannot be written as JSON");
        return Err(internal());
    };
    Ok(Definition {
        app: app.clone(),
        job: job.clone(),
        version: entry.version,
        updated_at: entry.updated_at,
        settings: entry.options.clone(),
        definition,
    })
}

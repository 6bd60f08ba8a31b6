//! Apps: their settings, without their definitions.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use robata_api_types::{App, AppList, Place, Problem, strict::StrictMap};
use robata_core::{
    AppName,
    definition::{self, CatalogWrite, Document, plan::Plan},
};

use super::{
    Json,
    apply::{change, invalid_definitions},
    condition::{Condition, Tagged},
    ok,
};
use crate::{
    access::Identity,
    body::JsonBody,
    enqueue,
    path::{self, Path, new_name},
    policy,
    refused::{Refused, Result},
    shared::Shared,
};

/// All apps.
#[utoipa::path(
    operation_id = "list_apps",
    get, path = "/api/v1/apps", tag = "apps",
    security(("token" = ["read"])),
    responses(
        (status = 200, description = "By name.", body = AppList),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(who: Identity, State(shared): State<Arc<Shared>>) -> Result<Json<AppList>> {
    let catalog = who.view_of(shared.fresh_catalog().await?);
    let apps = catalog.apps.iter().map(|(name, app)| body(name, app));
    Ok(ok(AppList { apps: apps.collect() }))
}

/// An app.
#[utoipa::path(
    operation_id = "get_app",
    get, path = "/api/v1/apps/{app}", tag = "apps", params(
        ("app" = String, Path, example = "shop", description = "The app's name"),
        ("If-Match" = Option<String>, Header, description = "`*`, or ETags: do it only where this is still what was read"),
    ),
    security(("token" = ["read"])),
    responses(
        (status = 200, description = "The app.", body = App, headers(("ETag" = String, description = "For `If-Match`"))),
        (status = 412, description = "`precondition_failed`: it is not what `If-Match` asks for; nothing was changed.",
         body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    condition: Condition,
) -> Result<Tagged<App>> {
    let catalog = who.view_of(shared.fresh_catalog().await?);
    let name = path::app(&name)?;
    let app = body(&name, enqueue::app(&catalog, &name)?);
    condition.check(Some(&app))?;
    Ok(Tagged(ok(app)))
}

/// Makes an app or replaces its settings: the keys of `[apps.X]` without `jobs`. Its definitions stay.
#[utoipa::path(
    operation_id = "put_app",
    put, path = "/api/v1/apps/{app}", tag = "apps", params(
        ("app" = String, Path, example = "shop", description = "The app's name"),
        ("If-Match" = Option<String>, Header, description = "`*`, or ETags: do it only where this is still what was read"),
    ),
    request_body(content = Object, description = "The keys of `[apps.X]`, without `jobs`"),
    security(("token" = ["deploy"])),
    responses(
        (status = 200, description = "Replaced.", body = App, headers(("ETag" = String, description = "For `If-Match`"))),
        (status = 201, description = "Made.", body = App, headers(("ETag" = String, description = "For `If-Match`"))),
        (status = 412, description = "`precondition_failed`: it is not what `If-Match` asks for; nothing was changed.",
         body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Every mistake stands in `problems`.", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn put(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    condition: Condition,
    settings: JsonBody,
) -> Result<Tagged<App>> {
    let name: AppName = new_name(&name)?;
    who.check_app(&shared, &name).await?;
    let settings = settings.parse::<StrictMap>().await?;
    let StrictMap(settings) = &settings.value;
    if settings.contains_key("jobs") {
        let message = "definitions are put one by one at /apps/{app}/definitions/{job}, or all by /apply";
        return Err(invalid_definitions(vec![Place {
            path: vec!["jobs".to_owned()],
            code: "unknown_key".to_owned(),
            message: message.to_owned(),
        }]));
    }
    let whole = serde_json::json!({ "apps": { name.as_str(): settings } });
    let document = Document::read(&whole).map_err(below_the_app)?;
    let (_, before, after) = change(&shared, &who, |catalog| {
        let current = catalog.apps.get(&name).map(|app| body(&name, app));
        condition.check(current.as_ref())?;
        policy::plan(&shared.config, catalog, &document, false).map_err(below_the_app)
    })
    .await?;
    let status = made_or_replaced(before.apps.contains_key(&name));
    Ok(Tagged(Json(status, body(&name, enqueue::app(&after, &name)?))))
}

/// Removes an app and its definitions. Its jobs that wait end as `no_definition`.
#[utoipa::path(
    operation_id = "delete_app",
    delete, path = "/api/v1/apps/{app}", tag = "apps", params(
        ("app" = String, Path, description = "The app's name"),
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
    Path(name): Path<String>,
    condition: Condition,
) -> Result<StatusCode> {
    let name = path::app(&name)?;
    change(&shared, &who, |catalog| {
        condition.check(Some(&body(&name, enqueue::app(&who.view(catalog), &name)?)))?;
        Ok(Plan {
            items: Vec::new(),
            writes: vec![CatalogWrite::DeleteApp(name.clone())],
        })
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn body(name: &AppName, app: &definition::App) -> App {
    App {
        app: name.clone(),
        settings: app.settings().shown(),
        jobs: app.jobs.keys().cloned().collect(),
    }
}

/// 422 with paths that begin below `apps.X`.
fn below_the_app(found: Vec<robata_core::definition::Problem>) -> Refused {
    below(found, 2)
}

/// 422 with paths less their first `depth` keys.
pub(super) fn below(found: Vec<robata_core::definition::Problem>, depth: usize) -> Refused {
    let places = found.into_iter().map(|problem| {
        let mut place = Place::from(problem);
        place.path.drain(..depth.min(place.path.len()));
        place
    });
    invalid_definitions(places.collect())
}

/// 200 or 201.
pub(super) fn made_or_replaced(was_there: bool) -> StatusCode {
    if was_there { StatusCode::OK } else { StatusCode::CREATED }
}

//! Apps: their settings, without their definitions.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
};
use robata_api_types::{App, AppList, Place, Problem, strict::StrictMap};
use robata_core::{
    AppName,
    definition::{Catalog, CatalogWrite, Document, plan::Plan},
};

use super::{
    Json,
    apply::{change, invalid_definitions},
    ok,
};
use crate::{
    body::JsonBody,
    enqueue,
    path::{self, Path, new_name},
    refused::{Refused, Result},
    shared::Shared,
};

/// All apps.
#[utoipa::path(
    operation_id = "list_apps",
    get, path = "/api/v1/apps", tag = "apps",
    responses(
        (status = 200, description = "By name.", body = AppList),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Result<Json<AppList>> {
    let catalog = shared.fresh_catalog().await?;
    let apps = catalog.apps.keys().map(|name| body(&catalog, name));
    Ok(ok(AppList {
        apps: apps.collect::<Result<_>>()?,
    }))
}

/// An app.
#[utoipa::path(
    operation_id = "get_app",
    get, path = "/api/v1/apps/{app}", tag = "apps", params(("app" = String, Path, description = "The app's name")),
    responses(
        (status = 200, description = "The app.", body = App),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Result<Json<App>> {
    let catalog = shared.fresh_catalog().await?;
    Ok(ok(body(&catalog, &path::app(&name)?)?))
}

/// Makes an app or replaces its settings: the keys of `[apps.X]` without `jobs`. Its definitions stay.
#[utoipa::path(
    operation_id = "put_app",
    put, path = "/api/v1/apps/{app}", tag = "apps", params(("app" = String, Path, description = "The app's name")),
    request_body(content = serde_json::Value, description = "The keys of `[apps.X]`, without `jobs`"),
    responses(
        (status = 200, description = "Replaced.", body = App),
        (status = 201, description = "Made.", body = App),
        (status = 422, description = "Every mistake stands in `problems`.", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    settings: JsonBody,
) -> Result<Json<App>> {
    unconditional(&headers)?;
    let name: AppName = new_name(&name)?;
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
    let (_, before, after) = change(&shared, |catalog| {
        catalog
            .plan(&document, false, &shared.config.executors)
            .map_err(below_the_app)
    })
    .await?;
    let status = made_or_replaced(before.apps.contains_key(&name));
    Ok(Json(status, body(&after, &name)?))
}

/// Removes an app and its definitions. Its jobs that wait end as `no_definition`.
#[utoipa::path(
    operation_id = "delete_app",
    delete, path = "/api/v1/apps/{app}", tag = "apps", params(("app" = String, Path, description = "The app's name")),
    responses(
        (status = 204, description = "Removed."),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode> {
    unconditional(&headers)?;
    let name = path::app(&name)?;
    change(&shared, |catalog| {
        enqueue::app(catalog, &name)?;
        Ok(Plan {
            items: Vec::new(),
            writes: vec![CatalogWrite::DeleteApp(name.clone())],
        })
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn body(catalog: &Catalog, name: &AppName) -> Result<App> {
    let app = enqueue::app(catalog, name)?;
    Ok(App {
        app: name.clone(),
        settings: app.settings().shown(),
        jobs: app.jobs.keys().cloned().collect(),
    })
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

/// Ignoring a condition would do what the client asked us not to do.
pub(super) fn unconditional(headers: &HeaderMap) -> Result<()> {
    if headers.contains_key(header::IF_MATCH) {
        return Err(Refused::unsupported("If-Match"));
    }
    Ok(())
}

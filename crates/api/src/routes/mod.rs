//! All routes, and the document that is generated from them.

mod apply;
mod apps;
mod audit;
mod batch;
mod condition;
mod definitions;
mod jobs;
mod list;
mod logs;
mod operate;
mod run;
mod status;
mod tokens;

use std::{any::Any, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, Uri, header},
    middleware,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Serialize;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Api,
    access::{Gate, Needs, SCHEME, gate},
    guard::guard,
    query::{Known, only_known},
    refused::{Refused, internal},
    shared::Shared,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Robata",
        description = "Runs jobs in containers. Errors are application/problem+json with a stable `code`. Clients ignore \
                       fields and accept words that they do not know.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
        contact(name = "Robata"),
    ),
    components(schemas(robata_api_types::Problem)),
    tags(
        (name = "jobs", description = "Enqueue, look at, cancel and retry jobs"),
        (name = "apps", description = "Apps and their job definitions"),
        (name = "status", description = "Queues, workers, health"),
        (name = "access", description = "Tokens, and who did what"),
    ),
    modifiers(&Tokens),
)]
struct Document;

/// The security scheme.
struct Tokens;

impl Modify for Tokens {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "A token, with at least the role that stands beside the operation (enqueue; read; operate, which is both and \
                 more; deploy; admin; or `any`). `installation`: a token with an app finds nothing there. Until the first \
                 token is made, and on this machine only, none is needed.",
            ))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(SCHEME, SecurityScheme::Http(scheme));
    }
}

/// The API's router. Without any token, in the store or the settings, every request acts as `admin`: it is to be served on
/// loopback only then.
pub fn router(api: Api) -> Router {
    let shared = Shared::new(api);
    if tokio::runtime::Handle::try_current().is_ok() {
        shared.begin();
    }
    let document = openapi();
    let known = middleware::from_fn_with_state(Arc::new(Known::of(&document)), only_known);
    let needs = Needs::of(&document).and_any(DOCUMENT);
    let keyring = Arc::clone(&shared.keyring);
    // Made of this program's own types, which all can be written as JSON.
    let document = Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
    let serve_document = move || {
        let document = document.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], document) }
    };
    let open = Router::from(open_routes())
        .route_layer(known.clone())
        .method_not_allowed_fallback(method_not_allowed);
    // Also what is not there lies behind the gate: nobody finds out what there is without a token.
    let gated = Router::from(gated_routes())
        .route(DOCUMENT, axum::routing::get(serve_document))
        .route_layer(known)
        .fallback(async |uri: Uri| unknown_route(&uri))
        .layer(middleware::from_fn_with_state(Arc::new(Gate { keyring, needs }), gate));
    open.merge(gated)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

/// The OpenAPI document of the routes.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let routes = gated_routes().merge(open_routes());
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(routes)
        .into_openapi()
}

/// Where the document is.
const DOCUMENT: &str = "/api/v1/openapi.json";

/// The two routes that need no token: exactly these, and nothing below or beside them.
fn open_routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(status::healthz))
        .routes(routes!(status::readyz))
}

/// All others.
fn gated_routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(jobs::enqueue, list::list))
        .routes(routes!(batch::batch))
        .routes(routes!(jobs::show))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(logs::logs))
        .routes(routes!(apps::list))
        .routes(routes!(apps::show, apps::put, apps::delete))
        .routes(routes!(definitions::list))
        .routes(routes!(definitions::show, definitions::put, definitions::delete))
        .routes(routes!(run::run))
        .routes(routes!(apply::apply))
        .routes(routes!(status::queues))
        .routes(routes!(status::workers))
        .routes(routes!(operate::pause))
        .routes(routes!(operate::resume))
        .routes(routes!(operate::drain))
        .routes(routes!(operate::lose))
        .routes(routes!(operate::set_aside))
        .routes(routes!(status::metrics))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(audit::list))
}

/// 404 with these words, for a route that is not there.
pub(crate) fn not_found(detail: &str) -> Refused {
    Refused::not_found("unknown_route", detail)
}

/// The same for what matched nothing.
pub(crate) fn unknown_route(uri: &Uri) -> Refused {
    let path: String = uri.path().chars().take(200).collect();
    Refused::not_found(
        "unknown_route",
        format!("there is nothing at {path}; /api/v1/openapi.json lists what there is"),
    )
}

pub(crate) async fn method_not_allowed() -> Refused {
    Refused::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this route does not know that method; the header Allow lists those it knows",
    )
}

fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let text = cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("without words");
    tracing::error!(panic = text, "a request's handler panicked");
    internal().into_response()
}

/// An answer in JSON.
pub(crate) struct Json<T>(pub(crate) StatusCode, pub(crate) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.1) {
            Ok(body) => (self.0, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => {
                tracing::error!(%error, "an answer cannot be written as JSON");
                internal().into_response()
            }
        }
    }
}

/// 200 with JSON.
pub(crate) fn ok<T>(body: T) -> Json<T> {
    Json(StatusCode::OK, body)
}

#[cfg(test)]
mod tests {
    use std::future::IntoFuture;

    use axum::{body::Body, extract::Request, routing::get};
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_a_problem_and_the_server_goes_on() {
        let fails = || async {
            if true {
                panic!("as a test");
            }
        };
        let router: Router = Router::new()
            .route("/", get(fails))
            .layer(CatchPanicLayer::custom(panicked));
        for _ in 0..2 {
            let request = Request::get("/").body(Body::empty()).unwrap();
            let response = tower::ServiceExt::oneshot(router.clone(), request)
                .into_future()
                .await
                .unwrap();
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(String::from_utf8_lossy(&body).contains("\"code\":\"internal\""));
        }
    }
}

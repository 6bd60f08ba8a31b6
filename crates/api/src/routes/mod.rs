//! All routes, and the document that is generated from them.

mod apply;
mod apps;
mod batch;
mod definitions;
mod jobs;
mod list;
mod logs;
mod operate;
mod run;
mod status;

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
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Api,
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
    ),
)]
struct Document;

/// The API's router. To be served on loopback only: every request acts as `admin`.
pub fn router(api: Api) -> Router {
    let shared = Shared::new(api);
    let (router, document) = routes_with_document().split_for_parts();
    let known = Arc::new(Known::of(&document));
    // Made of this program's own types, which all can be written as JSON.
    let document = Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
    let serve_document = move || {
        let document = document.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], document) }
    };
    router
        .route("/api/v1/openapi.json", axum::routing::get(serve_document))
        .route_layer(middleware::from_fn_with_state(known, only_known))
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

/// The OpenAPI document of the routes.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes_with_document().into_openapi()
}

fn routes_with_document() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::with_openapi(Document::openapi())
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
        .routes(routes!(status::healthz))
        .routes(routes!(status::readyz))
        .routes(routes!(status::metrics))
}

/// 404 with these words, for a route that is not there.
pub(crate) fn not_found(detail: &str) -> Refused {
    Refused::not_found("unknown_route", detail)
}

async fn unknown_route(uri: Uri) -> Refused {
    let path: String = uri.path().chars().take(200).collect();
    Refused::not_found(
        "unknown_route",
        format!("there is nothing at {path}; /api/v1/openapi.json lists what there is"),
    )
}

async fn method_not_allowed() -> Refused {
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

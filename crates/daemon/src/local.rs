//! The API of this very process, asked without a connection: what must be done before anybody else is answered.

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
};
use http_body_util::BodyExt;
use robata_api_types::{ApplyAnswer, ApplyRequest, Problem};
use serde::de::DeserializeOwned;
use tower::ServiceExt;

/// The API of this process. [`Running::api`](crate::Running::api) answers others by it.
#[derive(Debug)]
pub struct LocalApi(pub(crate) Router);

impl LocalApi {
    /// Applies definitions, with the checks and the answer of `POST /apply`.
    pub async fn apply(&self, request: &ApplyRequest) -> Result<ApplyAnswer, Box<Problem>> {
        let body = serde_json::to_vec(request).map_err(internal)?;
        let request = Request::post("/api/v1/apply?dry_run=false")
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, body.len())
            .body(Body::from(body))
            .map_err(internal)?;
        let Ok(response) = self.0.clone().oneshot(request).await;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(internal)?.to_bytes();
        if status == StatusCode::OK {
            read(&body)
        } else {
            Err(read(&body)?)
        }
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Box<Problem>> {
    serde_json::from_slice(body).map_err(internal)
}

fn internal(error: impl std::fmt::Display) -> Box<Problem> {
    Box::new(Problem::new(
        500,
        "Internal Server Error",
        "internal",
        error.to_string(),
    ))
}

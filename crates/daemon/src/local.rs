//! The API of this very process, asked without a connection: what must be done before anybody else is answered, and what
//! the process does itself. It acts as the admin `local` whatever tokens there are; nobody else can come this way.

use axum::{
    Router,
    body::Body,
    http::{Method, Request, header},
};
use http_body_util::BodyExt;
use robata_api_types::{ApplyAnswer, ApplyRequest, EnqueueRequest, Job, Problem};
use robata_core::JobId;
use serde::{Serialize, de::DeserializeOwned};
use tower::ServiceExt;

/// The API of this process. [`Running::api`](crate::Running::api) answers others by it.
#[derive(Clone, Debug)]
pub struct LocalApi(pub(crate) Router);

impl LocalApi {
    /// Applies definitions, with the checks and the answer of `POST /apply`.
    pub async fn apply(&self, request: &ApplyRequest) -> Result<ApplyAnswer, Box<Problem>> {
        self.post("/api/v1/apply?dry_run=false", request).await
    }

    /// Enqueues a job, with the checks and the answer of `POST /jobs`.
    pub async fn enqueue(&self, request: &EnqueueRequest) -> Result<Job, Box<Problem>> {
        self.post("/api/v1/jobs", request).await
    }

    /// A job with payload and attempts.
    pub async fn job(&self, id: JobId) -> Result<Job, Box<Problem>> {
        self.ask(Method::GET, &format!("/api/v1/jobs/{id}"), Vec::new()).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Box<Problem>> {
        self.ask(Method::POST, path, serde_json::to_vec(body).map_err(internal)?)
            .await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Vec<u8>) -> Result<T, Box<Problem>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, body.len())
            .body(Body::from(body))
            .map_err(internal)?;
        robata_api::as_local(request.extensions_mut());
        let Ok(response) = self.0.clone().oneshot(request).await;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(internal)?.to_bytes();
        if status.is_success() {
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

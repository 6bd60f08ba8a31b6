//! Names and ids in a route's path.

use std::{str::FromStr, sync::Arc};

use axum::{
    extract::{FromRequestParts, Path as AxumPath},
    http::request::Parts,
};
use robata_core::{AppName, JobId, JobName};
use serde::de::DeserializeOwned;

use crate::{
    refused::{Refused, Result},
    shared::Shared,
};

/// The parts of the path, as text.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Shared>> for Path<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        AxumPath::from_request_parts(parts, shared)
            .await
            .map(|AxumPath(path)| Self(path))
            .map_err(|error| Refused::bad("invalid_path", error.body_text()))
    }
}

/// There is no such job, or none that may be seen: nobody can tell which.
pub(crate) fn unknown_job(id: JobId) -> Refused {
    Refused::not_found("unknown_job", format!("there is no job {id}"))
}

/// A job's id; what is none can be no job's.
pub(crate) fn job_id(text: &str) -> Result<JobId> {
    JobId::from_str(text).map_err(|error| Refused::not_found("unknown_job", error.message()))
}

/// An app's name; what is none can be no app's.
pub(crate) fn app(text: &str) -> Result<AppName> {
    AppName::new(text).map_err(|error| Refused::not_found("unknown_app", error.message()))
}

/// A definition's name; what is none can be no definition's.
pub(crate) fn job(text: &str) -> Result<JobName> {
    JobName::new(text).map_err(|error| Refused::not_found("unknown_definition", error.message()))
}

/// A name that is about to be given.
pub(crate) fn new_name<N: FromStr<Err = robata_core::Error>>(text: &str) -> Result<N> {
    text.parse()
        .map_err(|error: robata_core::Error| Refused::invalid("invalid_name", error.message()))
}

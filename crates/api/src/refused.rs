//! Every error of the API as `application/problem+json`, and the one mapping from the seams' errors.

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use robata_api_types::{Place, Problem, problem::PROBLEM_JSON};
use robata_core::{Error, ErrorKind, Retry};

/// A result with [`Refused`].
pub(crate) type Result<T, E = Refused> = std::result::Result<T, E>;

/// A refused request.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Box<Problem>);

impl Refused {
    /// A refusal with this status, code and words.
    pub(crate) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self(Box::new(Problem::new(status.as_u16(), title, code, detail)))
    }

    /// 400: the request is malformed.
    pub(crate) fn bad(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 404.
    pub(crate) fn not_found(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// 422: well-formed, and wrong.
    pub(crate) fn invalid(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// 503, to be tried again after this time.
    pub(crate) fn unavailable(detail: impl Into<String>, after: Duration) -> Self {
        let mut refused = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail);
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        refused.0.retry_after = Some(seconds.max(1));
        refused
    }

    /// The same with names that are near to the one that does not exist.
    pub(crate) fn near(mut self, nearest: Vec<String>) -> Self {
        if let [first, ..] = &nearest[..] {
            self.0.detail.push_str(&format!("; did you mean {first}?"));
        }
        self.0.nearest = nearest;
        self
    }

    /// The same with every mistake and its place.
    pub(crate) fn places(mut self, problems: Vec<Place>) -> Self {
        self.0.problems = problems;
        self
    }

    pub(crate) fn status(&self) -> u16 {
        self.0.status
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let (status, code) = match error.kind() {
            ErrorKind::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            ErrorKind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            ErrorKind::Conflict | ErrorKind::Fenced | ErrorKind::StillRuns => (StatusCode::CONFLICT, "conflict"),
            ErrorKind::KeyReused => (StatusCode::CONFLICT, "key_reused"),
            ErrorKind::Unavailable | ErrorKind::NoCapacity => {
                tracing::warn!(operation = error.operation(), error = %error.full(), "unavailable");
                let after = match error.retry() {
                    Retry::After(time) => time,
                    Retry::Yes | Retry::No => Duration::from_secs(1),
                };
                return Self::unavailable(error.message(), after);
            }
            ErrorKind::Unsupported => (StatusCode::NOT_IMPLEMENTED, "unsupported"),
            _ => {
                tracing::error!(operation = error.operation(), error = %error.full(), "failed");
                return internal();
            }
        };
        Self::new(status, code, error.message())
    }
}

/// 500; what happened stands in the log.
pub(crate) fn internal() -> Refused {
    Refused::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "a fault of the server; its log says what happened",
    )
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // A problem is made of text and numbers alone, so writing it cannot fail.
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.0.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Longer names than this are near to nothing.
const MAX_NAME: usize = 256;

/// Up to three of `known` that are near to `name`, the nearest first.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    // What is so long is no slip of the pen, and to compare it is work.
    if name.len() > MAX_NAME {
        return Vec::new();
    }
    let mut near: Vec<(usize, &str)> = known
        .map(|known| {
            let distance = strsim::damerau_levenshtein(&name.to_lowercase(), &known.to_lowercase());
            (distance, known)
        })
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(2))
        .collect();
    near.sort_unstable();
    near.into_iter().take(3).map(|(_, known)| known.to_owned()).collect()
}

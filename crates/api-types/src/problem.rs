//! `application/problem+json` (RFC 9457) with a stable `code`.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// An error as the API answers it. Decide by `code`, never by the text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A name for the kind of error, `urn:robata:problem:` and the code.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// The HTTP status in words.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// A stable word, as `unknown_app`.
    pub code: String,
    /// What is wrong here, and what to do.
    #[serde(default)]
    pub detail: String,
    /// The line of the request's body, from 1, where it is malformed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The column in that line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// Names that are near to one that does not exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nearest: Vec<String>,
    /// Every mistake with its place, where there may be several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Place>,
    /// After how many seconds to try again, as in the header `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

/// One mistake of a document, with its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Place {
    /// Keys and positions from the document's root.
    pub path: Vec<String>,
    /// A stable word, as `unknown_key`.
    pub code: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Problem {
    /// A problem of this status, code and detail.
    #[must_use]
    pub fn new(status: u16, title: &str, code: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:robata:problem:{code}"),
            title: title.to_owned(),
            status,
            code: code.to_owned(),
            detail: detail.into(),
            ..Self::default()
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            write!(f, "{} ({})", self.title, self.code)
        } else {
            f.write_str(&self.detail)
        }
    }
}

impl std::error::Error for Problem {}

impl From<robata_core::definition::Problem> for Place {
    fn from(problem: robata_core::definition::Problem) -> Self {
        Self {
            path: problem.path,
            code: problem.code.to_owned(),
            message: problem.message,
        }
    }
}

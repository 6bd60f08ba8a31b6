//! Listing jobs, newest first, page by page.

use std::sync::Arc;

use axum::extract::State;
use robata_api_types::{JobList, Problem};
use robata_core::{JobId, JobState, store::ListJobs};

use super::{Json, ok};
use crate::{
    access::Identity,
    query::{Query, read},
    refused::{Refused, Result},
    shared::Shared,
};

const DEFAULT_LIMIT: u64 = 50;
const MAX_LIMIT: u64 = 500;

/// Jobs without payloads and attempts, newest first.
#[utoipa::path(
    operation_id = "list_jobs",
    get, path = "/api/v1/jobs", tag = "jobs",
    params(
        ("app" = Option<String>, Query, description = "Of this app"),
        ("job" = Option<String>, Query, description = "Of this definition"),
        ("queue" = Option<String>, Query, description = "In this queue"),
        ("state" = Option<Vec<String>>, Query, description = "In one of these states; several by comma or by repeating"),
        ("reason" = Option<String>, Query, description = "With this reason"),
        ("label" = Option<Vec<String>>, Query, description = "KEY=VALUE; repeated: with all of them"),
        ("since" = Option<String>, Query, description = "Stored at or after this time"),
        ("until" = Option<String>, Query, description = "Stored before this time"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 500, description = "Jobs a page, 1 to 500; default 50"),
    ),
    security(("token" = ["read"])),
    responses(
        (status = 200, description = "A page.", body = JobList),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(who: Identity, State(shared): State<Arc<Shared>>, query: Query) -> Result<Json<JobList>> {
    let limit = query.number("limit", 1..=MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut request = ListJobs::default();
    request.app = query.read("app")?;
    request.job = query.read("job")?;
    request.queue = query.read("queue")?;
    request.reason = query.read("reason")?;
    request.since = query.read("since")?;
    request.until = query.read("until")?;
    request.after = cursor(&query)?;
    request.states = states(&query)?;
    request.labels = labels(&query)?;
    if let Some(own) = &who.app {
        // Another app has no jobs for its eyes, as one that is not there has none.
        if request.app.as_ref().is_some_and(|app| app != own) {
            return Ok(ok(JobList {
                jobs: Vec::new(),
                next_cursor: None,
            }));
        }
        request.app = Some(own.clone());
    }
    // One more tells whether there is another page.
    request.limit = limit + 1;
    let mut jobs = shared.store.jobs(request).await?;
    let more = jobs.len() > limit;
    jobs.truncate(limit);
    let last = jobs.last().filter(|_| more);
    Ok(ok(JobList {
        next_cursor: last.map(|job| job.id.to_string()),
        jobs: jobs.into_iter().map(Into::into).collect(),
    }))
}

fn cursor(query: &Query) -> Result<Option<JobId>> {
    query
        .text("cursor")?
        .map(|text| {
            text.parse().map_err(|_| {
                let detail = "cursor: is none; take the next_cursor of the page before";
                Refused::bad("invalid_query", detail)
            })
        })
        .transpose()
}

fn states(query: &Query) -> Result<Vec<JobState>> {
    query
        .all("state")
        .flat_map(|states| states.split(','))
        .map(|state| read("state", state))
        .collect()
}

fn labels(query: &Query) -> Result<Vec<(String, String)>> {
    query
        .all("label")
        .map(|label| match label.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Refused::bad("invalid_query", "label must be KEY=VALUE")),
        })
        .collect()
}

//! Who did what.

use std::sync::Arc;

use axum::extract::State;
use robata_api_types::{AuditList, Problem};
use robata_core::access::ListAudit;

use super::{Json, ok};
use crate::{
    access::Identity,
    query::{MOST, Query},
    refused::Result,
    shared::Shared,
};

/// Records a page.
const PAGE: u64 = 50;
const MAX_PAGE: u64 = 500;

/// Who changed the catalog, acted on jobs, queues, workers and realms, made and revoked tokens; newest first. A token with
/// an app sees what was done to that app alone.
#[utoipa::path(
    operation_id = "list_audit",
    get, path = "/api/v1/audit", tag = "access",
    params(
        ("app" = Option<String>, Query, description = "What was done to this app, its definitions and jobs"),
        ("by" = Option<String>, Query, description = "What this token did"),
        ("job" = Option<String>, Query, description = "What was done to the job of this id"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 500,
         description = "At most so many (default 50, at most 500)"),
        ("before" = Option<u64>, Query, minimum = 0, description = "Only numbers below this: the last page's `next_before`"),
    ),
    security(("token" = ["read"])),
    responses(
        (status = 200, description = "A page.", body = AuditList),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(who: Identity, State(shared): State<Arc<Shared>>, query: Query) -> Result<Json<AuditList>> {
    let limit = usize::try_from(query.number("limit", 1..=MAX_PAGE)?.unwrap_or(PAGE)).unwrap_or(usize::MAX);
    let mut request = ListAudit::default();
    request.app = query.read("app")?;
    request.by = query.text("by")?.map(str::to_owned);
    request.job = query.read("job")?;
    request.before = query.number("before", 0..=MOST)?;
    if let Some(own) = &who.app {
        if request.app.as_ref().is_some_and(|app| app != own) {
            return Ok(ok(AuditList {
                records: Vec::new(),
                next_before: None,
            }));
        }
        request.app = Some(own.clone());
    }
    request.limit = limit;
    let records = shared.store.audit(request).await?;
    Ok(ok(AuditList {
        next_before: records.last().filter(|_| records.len() == limit).map(|last| last.seq),
        records: records.into_iter().map(Into::into).collect(),
    }))
}

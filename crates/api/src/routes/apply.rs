//! Applying a definitions document, and the one way in which the catalog is changed.

use std::sync::Arc;

use axum::extract::State;
use robata_api_types::{ApplyAnswer, ApplyRequest, Place, Problem};
use robata_core::{
    ErrorKind,
    definition::{Catalog, Document, plan::Plan},
};

use super::{Json, jobs::LOCAL, ok};
use crate::{
    body::JsonBody,
    query::Query,
    refused::{Refused, Result},
    shared::Shared,
};

/// A change is planned anew at most so often when others change the catalog meanwhile.
const TRIES: usize = 8;

/// Applies a definitions document: all of it, or nothing and every mistake with its path.
#[utoipa::path(
    post, path = "/api/v1/apply", tag = "apps", request_body = ApplyRequest,
    params(
        ("dry_run" = Option<bool>, Query, description = "Only say what would change"),
        ("prune" = Option<bool>, Query, description = "Not supported yet"),
    ),
    responses(
        (status = 200, description = "Applied, or with `dry_run` what would be.", body = ApplyAnswer),
        (status = 422, description = "`invalid_definitions`: every mistake stands in `problems`; nothing was changed.",
         body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn apply(
    State(shared): State<Arc<Shared>>,
    query: Query,
    body: JsonBody,
) -> Result<Json<ApplyAnswer>> {
    let dry_run = query.flag("dry_run")?;
    if query.flag("prune")? {
        return Err(Refused::unsupported("prune"));
    }
    let body = body.parse::<ApplyRequest>().await?;
    let request = &body.value;
    if !request.images.is_empty() {
        return Err(Refused::unsupported("images"));
    }
    let document = Document::read(&request.document).map_err(|found| {
        let problems = found.into_iter().map(Place::from).collect();
        invalid_definitions(problems)
    })?;
    let plan_it = |catalog: &Catalog| {
        catalog
            .plan(&document, false, &shared.config.executors)
            .map_err(|found| invalid_definitions(found.into_iter().map(Place::from).collect()))
    };
    let plan = if dry_run {
        let catalog = shared.fresh_catalog().await?;
        plan_it(&catalog)?
    } else {
        change(&shared, plan_it).await?.0
    };
    Ok(ok(ApplyAnswer {
        plan: plan.items.into_iter().map(Into::into).collect(),
        problems: Vec::new(),
    }))
}

/// 422 with every mistake.
pub(super) fn invalid_definitions(problems: Vec<Place>) -> Refused {
    let first = problems.first().map_or_else(String::new, |place| {
        format!(": {}: {}", place.path.join("."), place.message)
    });
    let detail = match problems.len() {
        1 => format!("the document has a mistake{first}"),
        count => format!("the document has {count} mistakes; the first{first}"),
    };
    Refused::invalid("invalid_definitions", detail).places(problems)
}

/// Changes the catalog as `plan` says, planned anew where somebody else was faster. Answers the plan that was carried
/// out, the catalog before it and the one after.
pub(super) async fn change(
    shared: &Shared,
    plan: impl Fn(&Catalog) -> Result<Plan>,
) -> Result<(Plan, Arc<Catalog>, Arc<Catalog>)> {
    let mut tries = 0;
    loop {
        let before = shared.fresh_catalog().await?;
        let planned = plan(&before)?;
        if planned.writes.is_empty() {
            return Ok((planned, Arc::clone(&before), before));
        }
        let writes = planned.writes.clone();
        match shared.store.change_catalog(before.revision, writes, LOCAL).await {
            Ok(after) => return Ok((planned, before, shared.keep_catalog(after))),
            Err(error) if error.kind() == ErrorKind::Conflict && tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

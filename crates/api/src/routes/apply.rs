//! Applying a definitions document, and the one way in which the catalog is changed.

use std::sync::Arc;

use axum::extract::State;
use robata_api_types::{ApplyAnswer, ApplyRequest, Place, Problem};
use robata_core::{
    ErrorKind,
    definition::{Catalog, Document, plan::Plan},
};

use super::{Json, ok};
use crate::{
    access::Identity,
    body::JsonBody,
    policy,
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
        ("prune" = Option<bool>, Query, description = "Remove definitions that the document leaves out of an app that it names"),
    ),
    security(("token" = ["deploy"])),
    responses(
        (status = 200, description = "Applied, or with `dry_run` what would be.", body = ApplyAnswer),
        (status = 422, description = "`invalid_definitions`: every mistake stands in `problems`; nothing was changed.",
         body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn apply(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    query: Query,
    body: JsonBody,
) -> Result<Json<ApplyAnswer>> {
    let (dry_run, prune) = (query.flag("dry_run")?, query.flag("prune")?);
    let body = body.parse::<ApplyRequest>().await?;
    let request = &body.value;
    let mistakes = |found: Vec<_>| invalid_definitions(found.into_iter().map(Place::from).collect());
    let mut document = Document::read(&request.document).map_err(mistakes)?;
    let mut wrong = document.set_images(&request.images);
    wrong.extend(who.foreign_parts(&document));
    if !wrong.is_empty() {
        return Err(mistakes(wrong));
    }
    let plan_it = |catalog: &Catalog| policy::plan(&shared.config, catalog, &document, prune).map_err(mistakes);
    let plan = if dry_run {
        let catalog = shared.fresh_catalog().await?;
        plan_it(&catalog)?
    } else {
        change(&shared, &who, plan_it).await?.0
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
    who: &Identity,
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
        match shared.store.change_catalog(before.revision, writes, &who.name).await {
            Ok(after) => return Ok((planned, before, shared.keep_catalog(after))),
            Err(error) if error.kind() == ErrorKind::Conflict && tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

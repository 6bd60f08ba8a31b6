//! The operator's policy at an apply: a plan is made only of definitions that each executor's policy allows.

use robata_core::{
    AppName, Policy,
    definition::{
        Catalog, Definition, Document, Plan, Problem,
        document::{Options, definition, merge},
    },
};

use crate::{config::ApiConfig, enqueue::executor};

/// Plans a document, or tells every mistake and every refusal of a policy.
pub(crate) fn plan(
    config: &ApiConfig,
    catalog: &Catalog,
    document: &Document,
    prune: bool,
) -> Result<Plan, Vec<Problem>> {
    let mut refused = refusals(config, catalog, document, prune);
    match catalog.plan(document, prune, &config.executors) {
        Ok(plan) if refused.is_empty() => Ok(plan),
        Ok(_) => Err(refused),
        Err(mut problems) => {
            problems.append(&mut refused);
            Err(problems)
        }
    }
}

/// Every refusal of the executor's policy; paths begin at the definition.
pub(crate) fn refusals_of(config: &ApiConfig, app: &AppName, definition: &Definition) -> Vec<Problem> {
    match config.policies.get(&executor(definition, config)) {
        Some(policy) => policy.check(app, definition),
        None => Policy::default().check(app, definition),
    }
}

/// Refusals of what the document names, changed or not, and of what follows from it in definitions that it does not name.
fn refusals(config: &ApiConfig, catalog: &Catalog, document: &Document, prune: bool) -> Vec<Problem> {
    let defaults = document.defaults.as_ref().unwrap_or(&catalog.defaults);
    // As in the plan: what no defaults have changed for is not touched, and nobody's matter here.
    let changed = *defaults != catalog.defaults;
    let others = catalog
        .apps
        .keys()
        .filter(|name| changed && !document.apps.contains_key(*name));
    let mut refused = Vec::new();
    for name in document.apps.keys().chain(others) {
        let (old, new) = (catalog.apps.get(name), document.apps.get(name));
        let none = Options::new();
        let settings = new
            .map(|app| &app.options)
            .or_else(|| old.map(|app| &app.options))
            .unwrap_or(&none);
        let named = new
            .into_iter()
            .flat_map(|app| app.jobs.iter().map(|(job, options)| (job, options, None)));
        let kept = old
            .filter(|_| new.is_none() || !prune)
            .into_iter()
            .flat_map(|app| app.jobs.iter())
            .filter(|(job, _)| new.is_none_or(|app| !app.jobs.contains_key(*job)))
            .map(|(job, entry)| (job, &entry.options, Some(&entry.definition)));
        for (job, options, before) in named.chain(kept) {
            // What is no definition at all is told by the plan.
            let Ok(whole) = definition(merge(&[defaults, settings, options]), &[]) else {
                continue;
            };
            if before.is_some_and(|before| **before == whole) {
                continue;
            }
            let above = ["apps", name.as_str(), "jobs", job.as_str()].map(str::to_owned);
            refused.extend(refusals_of(config, name, &whole).into_iter().map(|mut problem| {
                problem.path.splice(0..0, above.clone());
                problem
            }));
        }
    }
    refused
}

//! What an apply would change in the catalog: all of a document, or nothing and every mistake.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use serde_json::Value;

use super::{
    catalog::{AppSettings, Catalog, CatalogWrite, as_options},
    document::{self, Document, Options, Problem},
};
use crate::name::{AppName, ExecutorName};

/// What an item of a plan is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanKind {
    /// `[defaults]`.
    Defaults,
    /// A queue's settings.
    Queue,
    /// An app.
    App,
    /// A job definition.
    Definition,
}

/// What an apply does to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanAction {
    /// Makes it.
    Create,
    /// Changes it.
    Update,
    /// Leaves it as it is: the document says the same.
    Unchanged,
    /// Keeps it though the document leaves it out.
    Keep,
    /// Removes it.
    Delete,
}

/// One line of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanItem {
    /// What it is about.
    pub kind: PlanKind,
    /// The app, if it is of one.
    pub app: Option<AppName>,
    /// The name of the thing.
    pub name: String,
    /// What is done.
    pub action: PlanAction,
    /// The keys that change, as `key: old → new`.
    pub changes: Vec<String>,
}

/// What an apply would do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// For people, in the document's order of kinds.
    pub items: Vec<PlanItem>,
    /// For the store; empty where nothing changes.
    pub writes: Vec<CatalogWrite>,
}

impl Catalog {
    /// Plans to apply `document`: all of it, or nothing and every mistake.
    ///
    /// Apps that the document does not name are untouched, but for what follows from changed `[defaults]`; jobs left
    /// out of a named app are kept, or removed if `prune`. `executors` are the names that exist here; empty: any.
    pub fn plan(&self, document: &Document, prune: bool, executors: &[ExecutorName]) -> Result<Plan, Vec<Problem>> {
        let mut plan = Plan::default();
        let mut problems = Vec::new();
        let defaults = document.defaults.as_ref().unwrap_or(&self.defaults);
        if document.defaults.is_some() {
            plan.note(PlanKind::Defaults, None, "defaults", Some(&self.defaults), defaults);
            if *defaults != self.defaults {
                plan.writes.push(CatalogWrite::Defaults(defaults.clone()));
            }
        }
        for (name, queue) in &document.queues {
            let old = self.queues.get(name);
            plan.note(
                PlanKind::Queue,
                None,
                name.as_str(),
                old.map(as_options).as_ref(),
                &as_options(queue),
            );
            if old != Some(queue) {
                plan.writes.push(CatalogWrite::Queue(name.clone(), queue.clone()));
            }
        }
        let untouched = self
            .apps
            .keys()
            .filter(|name| !document.apps.contains_key(*name) && *defaults != self.defaults);
        for name in document.apps.keys().chain(untouched) {
            self.plan_app(name, document, defaults, prune, executors, &mut plan, &mut problems);
        }
        if problems.is_empty() { Ok(plan) } else { Err(problems) }
    }

    #[expect(clippy::too_many_arguments, reason = "one step of `plan`, cut out for its length")]
    fn plan_app(
        &self,
        name: &AppName,
        document: &Document,
        defaults: &Options,
        prune: bool,
        executors: &[ExecutorName],
        plan: &mut Plan,
        problems: &mut Vec<Problem>,
    ) {
        let old = self.apps.get(name);
        let new = document.apps.get(name);
        let old_settings = old.map(|app| app.settings());
        let settings = match new {
            Some(app) => AppSettings {
                description: app.description.clone(),
                options: app.options.clone(),
                max_running: app.max_running,
                retention: app.retention,
            },
            None => old_settings.clone().unwrap_or_default(),
        };
        if new.is_some() {
            plan.note(
                PlanKind::App,
                None,
                name.as_str(),
                old_settings.as_ref().map(AppSettings::shown).as_ref(),
                &settings.shown(),
            );
            if old_settings.as_ref() != Some(&settings) {
                plan.writes.push(CatalogWrite::App(name.clone(), settings.clone()));
            }
        }
        let kept: BTreeMap<_, _> = old
            .into_iter()
            .flat_map(|app| app.jobs.iter().map(|(job, entry)| (job, &entry.options)))
            .collect();
        let named: BTreeMap<_, _> = new.into_iter().flat_map(|app| app.jobs.iter()).collect();
        for job in kept.keys().chain(named.keys().filter(|job| !kept.contains_key(*job))) {
            let before = self.job(name, job);
            let Some(&options) = named
                .get(job)
                .or_else(|| kept.get(job).filter(|_| !prune || new.is_none()))
            else {
                plan.items.push(PlanItem::new(
                    PlanKind::Definition,
                    Some(name),
                    job.as_str(),
                    PlanAction::Delete,
                ));
                plan.writes.push(CatalogWrite::DeleteJob(name.clone(), (*job).clone()));
                continue;
            };
            let path = ["apps", name.as_str(), "jobs", job.as_str()];
            let definition = match document::definition(document::merge(&[defaults, &settings.options, options]), &path)
            {
                Ok(definition) => Arc::new(definition),
                Err(mut found) => {
                    problems.append(&mut found);
                    continue;
                }
            };
            if let Some(executor) = definition
                .executor
                .as_ref()
                .filter(|name| !executors.is_empty() && !executors.contains(name))
            {
                let known: Vec<_> = executors.iter().map(ExecutorName::as_str).collect();
                let path = path.iter().copied().chain(["executor"]).map(str::to_owned).collect();
                let message = format!("no executor is called {executor}; there are {}", known.join(", "));
                problems.push(Problem {
                    path,
                    code: "unknown_executor",
                    message,
                });
                continue;
            }
            let same = before.is_some_and(|entry| *entry.definition == *definition && entry.options == *options);
            if !named.contains_key(job) && same {
                if new.is_some() {
                    plan.items.push(PlanItem::new(
                        PlanKind::Definition,
                        Some(name),
                        job.as_str(),
                        PlanAction::Keep,
                    ));
                }
                continue;
            }
            let whole = before.map(|entry| as_options(&*entry.definition));
            plan.note(
                PlanKind::Definition,
                Some(name),
                job.as_str(),
                whole.as_ref(),
                &as_options(&*definition),
            );
            if !same {
                plan.writes.push(CatalogWrite::Job(
                    name.clone(),
                    (*job).clone(),
                    options.clone(),
                    definition,
                ));
            }
        }
    }
}

impl PlanItem {
    fn new(kind: PlanKind, app: Option<&AppName>, name: &str, action: PlanAction) -> Self {
        Self {
            kind,
            app: app.cloned(),
            name: name.to_owned(),
            action,
            changes: Vec::new(),
        }
    }
}

impl Plan {
    fn note(&mut self, kind: PlanKind, app: Option<&AppName>, name: &str, old: Option<&Options>, new: &Options) {
        let action = match old {
            None => PlanAction::Create,
            Some(old) if old == new => PlanAction::Unchanged,
            Some(_) => PlanAction::Update,
        };
        let mut item = PlanItem::new(kind, app, name, action);
        if let (PlanAction::Update, Some(old)) = (action, old) {
            differences("", old, new, &mut item.changes);
        }
        self.items.push(item);
    }
}

fn differences(prefix: &str, old: &Options, new: &Options, changes: &mut Vec<String>) {
    let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for key in keys {
        match (old.get(key), new.get(key)) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => {
                differences(&format!("{prefix}{key}."), old, new, changes)
            }
            (old, new) if old != new => {
                let show = |value: Option<&Value>| value.map_or_else(|| "unset".to_owned(), Value::to_string);
                changes.push(format!("{prefix}{key}: {} → {}", show(old), show(new)));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Timestamp, name::JobName};

    fn applied(catalog: &Catalog, document: Value, prune: bool) -> (Catalog, Plan) {
        let plan = catalog.plan(&Document::read(&document).unwrap(), prune, &[]).unwrap();
        let mut catalog = catalog.clone();
        for write in plan.writes.clone() {
            catalog.write(write, Timestamp::from_millis(1));
        }
        (catalog, plan)
    }

    #[test]
    fn applying_twice_changes_nothing_the_second_time() {
        let document = json!({"apps": {"a": {"image": "i", "jobs": {"x": {}, "y": {"timeout": "1m"}}}}, "queues": {"q": {"max_running": 2}}});
        let (catalog, plan) = applied(&Catalog::default(), document.clone(), false);
        assert_eq!(plan.writes.len(), 4);
        let (_, again) = applied(&catalog, document, false);
        assert!(again.writes.is_empty());
        assert!(again.items.iter().all(|item| item.action == PlanAction::Unchanged));
    }

    #[test]
    fn jobs_left_out_are_kept_and_reported_unless_pruned() {
        let (catalog, _) = applied(
            &Catalog::default(),
            json!({"apps": {"a": {"image": "i", "jobs": {"x": {}, "y": {}}}}}),
            false,
        );
        let less = json!({"apps": {"a": {"image": "i", "jobs": {"x": {}}}}});
        let (kept, plan) = applied(&catalog, less.clone(), false);
        assert!(
            plan.items
                .iter()
                .any(|item| item.name == "y" && item.action == PlanAction::Keep)
        );
        assert_eq!(kept.apps[&AppName::new("a").unwrap()].jobs.len(), 2);
        let (pruned, plan) = applied(&catalog, less, true);
        assert!(
            plan.items
                .iter()
                .any(|item| item.name == "y" && item.action == PlanAction::Delete)
        );
        assert_eq!(pruned.apps[&AppName::new("a").unwrap()].jobs.len(), 1);
    }

    #[test]
    fn an_apps_image_reaches_all_its_definitions_and_raises_their_versions() {
        let (catalog, _) = applied(
            &Catalog::default(),
            json!({"apps": {"a": {"image": "i:1", "jobs": {"x": {}}}}}),
            false,
        );
        let (catalog, plan) = applied(&catalog, json!({"apps": {"a": {"image": "i:2"}}}), false);
        let entry = catalog
            .job(&AppName::new("a").unwrap(), &JobName::new("x").unwrap())
            .unwrap();
        assert_eq!((entry.definition.image.as_deref(), entry.version), (Some("i:2"), 2));
        assert!(
            plan.items
                .iter()
                .any(|item| item.changes == ["image: \"i:1\" → \"i:2\""])
        );
    }

    #[test]
    fn pruning_removes_nothing_of_an_app_that_the_document_does_not_name() {
        let both = json!({"defaults": {"timeout": "1m"}, "apps": {
            "a": {"image": "i", "jobs": {"x": {}, "y": {}}}, "b": {"image": "i", "jobs": {"z": {}}}}});
        let (catalog, _) = applied(&Catalog::default(), both, false);
        // Changed defaults reach the other app, too: its definitions are planned, and still not pruned.
        let less = json!({"defaults": {"timeout": "2m"}, "apps": {"a": {"image": "i", "jobs": {"x": {}}}}});
        let (pruned, plan) = applied(&catalog, less, true);
        let deleted: Vec<_> = plan
            .items
            .iter()
            .filter(|item| item.action == PlanAction::Delete)
            .collect();
        assert_eq!(deleted.len(), 1, "{deleted:?}");
        assert_eq!((deleted[0].name.as_str(), pruned.apps["b"].jobs.len()), ("y", 1));
        let (none, _) = applied(&catalog, json!({"apps": {"a": {"image": "i"}}}), true);
        assert!(none.apps["a"].jobs.is_empty() && none.apps.contains_key("b"));
    }

    #[test]
    fn a_description_is_of_its_app_or_its_job_alone() {
        let document = json!({"apps": {"a": {"image": "i", "description": "The shop.\nAll of it.",
            "jobs": {"x": {"description": "Resizes."}, "y": {}}}}});
        let (catalog, _) = applied(&Catalog::default(), document.clone(), false);
        let app = &catalog.apps["a"];
        assert_eq!(app.description.as_deref(), Some("The shop.\nAll of it."));
        let of = |job: &str| app.jobs[&JobName::new(job).unwrap()].definition.description.clone();
        assert_eq!((of("x").as_deref(), of("y")), (Some("Resizes."), None));
        assert_eq!(app.settings().shown()["description"], "The shop.\nAll of it.");
        let (_, again) = applied(&catalog, document, false);
        assert!(again.writes.is_empty());
        let (catalog, plan) = applied(&catalog, json!({"apps": {"a": {"image": "i"}}}), false);
        assert_eq!(catalog.apps["a"].description, None);
        assert_eq!(
            plan.items[0].changes,
            ["description: \"The shop.\\nAll of it.\" → unset"]
        );
    }

    #[test]
    fn a_description_is_bounded_and_moves_no_cursor() {
        let long = "ä".repeat(1_001);
        for (document, path) in [
            (
                json!({"apps": {"a": {"description": long}}}),
                "apps.a.description invalid",
            ),
            (
                json!({"apps": {"a": {"description": "\u{1b}[2J"}}}),
                "apps.a.description invalid",
            ),
            (
                json!({"apps": {"a": {"jobs": {"x": {"description": "\r"}}}}}),
                "apps.a.jobs.x.description invalid",
            ),
            (
                json!({"apps": {"a": {"description": 3}}}),
                "apps.a.description wrong_type",
            ),
            (
                json!({"defaults": {"description": "x"}}),
                "defaults.description unknown_key",
            ),
        ] {
            let problems = Document::read(&document).unwrap_err();
            let told: Vec<_> = problems
                .iter()
                .map(|p| format!("{} {}", p.path.join("."), p.code))
                .collect();
            assert_eq!(told, [path]);
        }
        Document::read(&json!({"apps": {"a": {"description": "ä".repeat(1_000)}}})).unwrap();
    }

    #[test]
    fn an_unknown_executor_is_a_problem_with_its_path() {
        let document =
            Document::read(&json!({"apps": {"a": {"image": "i", "jobs": {"x": {"executor": "dokcer"}}}}})).unwrap();
        let problems = Catalog::default()
            .plan(&document, false, &[ExecutorName::new("docker").unwrap()])
            .unwrap_err();
        assert_eq!(problems[0].path, ["apps", "a", "jobs", "x", "executor"]);
    }
}

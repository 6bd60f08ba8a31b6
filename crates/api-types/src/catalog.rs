//! Apps, definitions, applying a document, and one-off runs.

use std::collections::BTreeMap;

use robata_core::{AppName, ExecutorName, JobName, QueueName, Timestamp, definition};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::problem::Place;

/// An app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct App {
    /// Its name.
    #[schema(value_type = String)]
    pub app: AppName,
    /// Its own keys as they were written: what `PUT /apps/{app}` takes.
    #[schema(value_type = Object)]
    pub settings: Map<String, Value>,
    /// The names of its job definitions.
    #[schema(value_type = Vec<String>)]
    pub jobs: Vec<JobName>,
}

/// All apps.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AppList {
    /// By name.
    pub apps: Vec<App>,
}

/// A job definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Definition {
    /// The app.
    #[schema(value_type = String)]
    pub app: AppName,
    /// The definition's name.
    #[schema(value_type = String)]
    pub job: JobName,
    /// Raised by each change of the whole definition, from 1.
    pub version: u32,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// Its own keys as they were written: what `PUT /apps/{app}/definitions/{job}` takes.
    #[schema(value_type = Object)]
    pub settings: Map<String, Value>,
    /// The whole definition: defaults and app merged in.
    #[schema(value_type = Object)]
    pub definition: Map<String, Value>,
}

/// All definitions of an app.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DefinitionList {
    /// By name.
    pub definitions: Vec<Definition>,
}

/// A definitions document to be applied, all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The document, as `jobs.toml` says it. A key that stands twice in it is an error.
    #[serde(deserialize_with = "crate::strict::value")]
    #[schema(value_type = Object, example = json!({"apps": {"shop": {"image": "shop:1", "jobs": {"resize": {"timeout": "10m"}}}}}))]
    pub document: Value,
    /// Images that replace those of the named apps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub images: BTreeMap<AppName, String>,
}

/// What an apply did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApplyAnswer {
    /// What changes.
    pub plan: Vec<PlanItem>,
    /// Empty where it was good; a document with mistakes is answered as a problem with the same list.
    pub problems: Vec<Place>,
}

/// One line of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanItem {
    /// `defaults`, `queue`, `app` or `definition`; may grow.
    pub kind: String,
    /// The app, if it is of one.
    #[schema(value_type = Option<String>)]
    pub app: Option<AppName>,
    /// The name of the thing.
    pub name: String,
    /// `create`, `update`, `unchanged`, `keep` (the document leaves it out) or `delete`; may grow.
    pub action: String,
    /// The keys that change, as `key: old → new`.
    pub changes: Vec<String>,
}

/// A one-off with another command. Unknown fields are refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// The definition whose settings it takes; default: the app's own settings alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub job: Option<JobName>,
    /// Another image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Replaces the image's ENTRYPOINT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's CMD; argv, never a shell string.
    #[schema(example = json!(["bin/resize", "--all"]))]
    pub command: Vec<String>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Another executor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub executor: Option<ExecutorName>,
    /// Another queue, one that the app's definitions name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub queue: Option<QueueName>,
    /// Text as `10m`, or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

impl From<definition::PlanItem> for PlanItem {
    fn from(item: definition::PlanItem) -> Self {
        use definition::{PlanAction, PlanKind};
        let kind = match item.kind {
            PlanKind::Defaults => "defaults",
            PlanKind::Queue => "queue",
            PlanKind::App => "app",
            PlanKind::Definition => "definition",
        };
        let action = match item.action {
            PlanAction::Create => "create",
            PlanAction::Update => "update",
            PlanAction::Unchanged => "unchanged",
            PlanAction::Keep => "keep",
            PlanAction::Delete => "delete",
        };
        Self {
            kind: kind.to_owned(),
            app: item.app,
            name: item.name,
            action: action.to_owned(),
            changes: item.changes,
        }
    }
}

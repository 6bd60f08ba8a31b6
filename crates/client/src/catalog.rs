//! Apps, definitions and applying.

use reqwest::Method;
use robata_api_types::{App, AppList, ApplyAnswer, ApplyRequest, Definition, DefinitionList};
use robata_core::{AppName, JobName};
use serde_json::{Map, Value};

use crate::{
    error::ClientError,
    http::{Client, with_json},
};

/// How a document is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApplyOptions {
    /// Only say what would change.
    pub dry_run: bool,
    /// Remove definitions that the document leaves out of an app that it names.
    pub prune: bool,
}

impl Client {
    /// All apps.
    pub async fn apps(&self) -> Result<Vec<App>, ClientError> {
        let list: AppList = self.json(self.api(Method::GET, &["apps"])).await?;
        Ok(list.apps)
    }

    /// An app.
    pub async fn app(&self, app: &AppName) -> Result<App, ClientError> {
        self.json(self.api(Method::GET, &["apps", app.as_str()])).await
    }

    /// Makes an app or replaces its settings; its definitions stay.
    pub async fn put_app(&self, app: &AppName, settings: &Map<String, Value>) -> Result<App, ClientError> {
        let request = self.api(Method::PUT, &["apps", app.as_str()]);
        self.json(with_json(request, settings)).await
    }

    /// Removes an app and its definitions.
    pub async fn delete_app(&self, app: &AppName) -> Result<(), ClientError> {
        let request = self.api(Method::DELETE, &["apps", app.as_str()]);
        self.send(request).await.map(drop)
    }

    /// All definitions of an app.
    pub async fn definitions(&self, app: &AppName) -> Result<Vec<Definition>, ClientError> {
        let path = ["apps", app.as_str(), "definitions"];
        let list: DefinitionList = self.json(self.api(Method::GET, &path)).await?;
        Ok(list.definitions)
    }

    /// A definition.
    pub async fn definition(&self, app: &AppName, job: &JobName) -> Result<Definition, ClientError> {
        let path = ["apps", app.as_str(), "definitions", job.as_str()];
        self.json(self.api(Method::GET, &path)).await
    }

    /// Makes or replaces a definition.
    pub async fn put_definition(
        &self,
        app: &AppName,
        job: &JobName,
        settings: &Map<String, Value>,
    ) -> Result<Definition, ClientError> {
        let path = ["apps", app.as_str(), "definitions", job.as_str()];
        self.json(with_json(self.api(Method::PUT, &path), settings)).await
    }

    /// Removes a definition.
    pub async fn delete_definition(&self, app: &AppName, job: &JobName) -> Result<(), ClientError> {
        let path = ["apps", app.as_str(), "definitions", job.as_str()];
        self.send(self.api(Method::DELETE, &path)).await.map(drop)
    }

    /// Applies a document. A document with mistakes is
    /// [`ClientError::Problem`] with code `invalid_definitions`; [`crate::definitions::locate`] finds their lines.
    pub async fn apply(&self, request: &ApplyRequest, how: ApplyOptions) -> Result<ApplyAnswer, ClientError> {
        let query = [("dry_run", how.dry_run), ("prune", how.prune)];
        let call = self.api(Method::POST, &["apply"]).query(&query);
        self.json(with_json(call, request)).await
    }
}

//! Apps, definitions and applying.

use reqwest::{Method, RequestBuilder, header};
use robata_api_types::{App, AppList, ApplyAnswer, ApplyRequest, Definition, DefinitionList};
use robata_core::{AppName, JobName};
use serde::de::DeserializeOwned;
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

/// What was read, with its tag: who changes it only where it is still so undoes nothing that others did meanwhile.
#[derive(Clone, Debug, PartialEq)]
pub struct Tagged<T> {
    /// What was read.
    pub value: T,
    /// Its `ETag` as the server sent it, for [`Client::if_match`].
    pub tag: String,
}

impl Client {
    /// A client whose changes of apps and definitions are done only where what is there still has this tag (`*`: where there
    /// is something). Else they are a [`ClientError::Problem`] with code `precondition_failed`.
    #[must_use]
    pub fn if_match(&self, tag: &str) -> Self {
        let mut client = self.clone();
        client.if_match = Some(tag.to_owned());
        client
    }

    /// An app, with its tag.
    pub async fn app_tagged(&self, app: &AppName) -> Result<Tagged<App>, ClientError> {
        self.tagged(self.api(Method::GET, &["apps", app.as_str()])).await
    }

    /// A definition, with its tag.
    pub async fn definition_tagged(&self, app: &AppName, job: &JobName) -> Result<Tagged<Definition>, ClientError> {
        let path = ["apps", app.as_str(), "definitions", job.as_str()];
        self.tagged(self.api(Method::GET, &path)).await
    }

    async fn tagged<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<Tagged<T>, ClientError> {
        let response = self.send(request).await?;
        let tag = response.headers().get(header::ETAG);
        let tag = tag.and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
        let value = self.read(response).await?;
        Ok(Tagged { value, tag })
    }

    /// A change of an app or a definition, on the condition that was asked for.
    fn change(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let request = self.api(method, path);
        match &self.if_match {
            Some(tag) => request.header(header::IF_MATCH, tag),
            None => request,
        }
    }

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
        let request = self.change(Method::PUT, &["apps", app.as_str()]);
        self.json(with_json(request, settings)).await
    }

    /// Removes an app and its definitions.
    pub async fn delete_app(&self, app: &AppName) -> Result<(), ClientError> {
        let request = self.change(Method::DELETE, &["apps", app.as_str()]);
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
        self.json(with_json(self.change(Method::PUT, &path), settings)).await
    }

    /// Removes a definition.
    pub async fn delete_definition(&self, app: &AppName, job: &JobName) -> Result<(), ClientError> {
        let path = ["apps", app.as_str(), "definitions", job.as_str()];
        self.send(self.change(Method::DELETE, &path)).await.map(drop)
    }

    /// Applies a document. A document with mistakes is
    /// [`ClientError::Problem`] with code `invalid_definitions`; [`crate::definitions::locate`] finds their lines.
    pub async fn apply(&self, request: &ApplyRequest, how: ApplyOptions) -> Result<ApplyAnswer, ClientError> {
        let query = [("dry_run", how.dry_run), ("prune", how.prune)];
        let call = self.api(Method::POST, &["apply"]).query(&query);
        self.json(with_json(call, request)).await
    }
}

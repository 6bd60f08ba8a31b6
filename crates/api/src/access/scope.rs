//! What a token with an app sees: that app, as if there were no other.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use robata_core::{
    AppName, JobId, QueueName,
    definition::{Catalog, Document, Problem},
    job::JobDetail,
};

use super::identity::Identity;
use crate::{enqueue::unknown_app, path::unknown_job, refused::Result, shared::Shared};

impl Identity {
    /// Whether it sees what is this app's.
    pub(crate) fn sees(&self, app: &AppName) -> bool {
        self.app.as_ref().is_none_or(|own| own == app)
    }

    /// Refuses an app that it does not see, as one that is not there.
    pub(crate) async fn check_app(&self, shared: &Shared, app: &AppName) -> Result<()> {
        if self.sees(app) {
            return Ok(());
        }
        Err(unknown_app(&self.view_of(shared.catalog().await?), app))
    }

    /// The catalog as it sees it. What is looked for in it is found, missing, and near to others as if nothing else were
    /// there.
    pub(crate) fn view<'c>(&self, catalog: &'c Catalog) -> Cow<'c, Catalog> {
        let Some(own) = &self.app else {
            return Cow::Borrowed(catalog);
        };
        let apps: BTreeMap<_, _> = catalog
            .apps
            .get_key_value(own)
            .map(|(name, app)| (name.clone(), Arc::clone(app)))
            .into_iter()
            .collect();
        let queues = catalog
            .queues
            .iter()
            .filter(|(queue, _)| self.sees_queue(catalog, queue));
        Cow::Owned(Catalog {
            revision: catalog.revision,
            defaults: catalog.defaults.clone(),
            queues: queues
                .map(|(name, settings)| (name.clone(), settings.clone()))
                .collect(),
            apps,
        })
    }

    /// The same of a catalog that is kept.
    pub(crate) fn view_of(&self, catalog: Arc<Catalog>) -> Arc<Catalog> {
        match self.view(&catalog) {
            Cow::Borrowed(_) => catalog,
            Cow::Owned(own) => Arc::new(own),
        }
    }

    /// Whether it sees this queue: of those that definitions name only what no other app's do, since counts and a pause
    /// are the whole queue's.
    pub(crate) fn sees_queue(&self, catalog: &Catalog, queue: &QueueName) -> bool {
        let Some(own) = &self.app else {
            return true;
        };
        let named_by = |app: &AppName| catalog.may_use_queue(app, queue);
        let others = || catalog.apps.keys().filter(|app| *app != own);
        // One-offs of an app go to the queue of its name, whether a definition names that or not.
        let own_name = |app: &AppName| queue.as_str() == app.as_str();
        (named_by(own) || own_name(own)) && !others().any(|app| named_by(app) || own_name(app))
    }

    /// What it may not say in a document that is applied, each with its path.
    pub(crate) fn foreign_parts(&self, document: &Document) -> Vec<Problem> {
        let Some(own) = &self.app else {
            return Vec::new();
        };
        let refused = |path: Vec<String>, what: &str| Problem {
            path,
            code: "not_allowed",
            message: format!("{what}; the token {} is for the app {own} alone", self.name),
        };
        let defaults = document.defaults.is_some().then(|| vec!["defaults".to_owned()]);
        let queues = document
            .queues
            .keys()
            .map(|queue| vec!["queues".to_owned(), queue.to_string()]);
        let whole = defaults
            .into_iter()
            .chain(queues)
            .map(|path| refused(path, "this needs a token without an app"));
        let apps = document.apps.keys().filter(|app| *app != own).map(|app| {
            let path = vec!["apps".to_owned(), app.to_string()];
            refused(path, "this app cannot be changed")
        });
        whole.chain(apps).collect()
    }

    /// A job that it sees, or that there is none of this id.
    pub(crate) async fn job(&self, shared: &Shared, id: JobId) -> Result<JobDetail> {
        shared.can_look(id)?;
        match shared.store.job(id).await {
            Ok(detail) if self.sees(&detail.job.app) => Ok(detail),
            Ok(_) => Err(unknown_job(id)),
            Err(error) => Err(shared.missing(error, id).await),
        }
    }

    /// Refuses a job that it does not see, before anything is done to it. A job's app never changes.
    pub(crate) async fn check_job(&self, shared: &Shared, id: JobId) -> Result<()> {
        match &self.app {
            None => shared.can_look(id),
            Some(_) => self.job(shared, id).await.map(drop),
        }
    }
}

//! What stores record of what somebody did: the words stand once, so that every store tells the same ones.

use std::fmt::Display;

use super::JobRow;
use crate::{
    AppName, IncarnationId, JobId, QueueName, definition::CatalogWrite, executor::RealmId, job::NewJob, name::TokenName,
};

/// Something that was done and has changed something, as [`AuditRecord`](crate::access::AuditRecord) tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// What.
    pub action: &'static str,
    /// To which app.
    pub app: Option<AppName>,
    /// To what: a definition, queue, worker, realm or token.
    pub name: Option<String>,
    /// To which job.
    pub job: Option<JobId>,
}

impl Deed {
    fn to(action: &'static str, name: &impl Display) -> Self {
        Self {
            action,
            app: None,
            name: Some(name.to_string()),
            job: None,
        }
    }

    fn of_job(action: &'static str, job: &JobRow) -> Self {
        Self {
            action,
            app: Some(job.app.clone()),
            name: Some(job.job.to_string()),
            job: Some(job.id),
        }
    }

    /// A write of the catalog.
    #[must_use]
    pub fn catalog(write: &CatalogWrite) -> Self {
        let (action, app, name) = match write {
            CatalogWrite::Defaults(_) => ("set_defaults", None, None),
            CatalogWrite::Queue(queue, _) => return Self::to("set_queue", queue),
            CatalogWrite::App(app, _) => ("set_app", Some(app), None),
            CatalogWrite::DeleteApp(app) => ("delete_app", Some(app), None),
            CatalogWrite::Job(app, job, ..) => ("set_definition", Some(app), Some(job)),
            CatalogWrite::DeleteJob(app, job) => ("delete_definition", Some(app), Some(job)),
        };
        Self {
            action,
            app: app.cloned(),
            name: name.map(ToString::to_string),
            job: None,
        }
    }

    /// Another command than its definition's was run for an app.
    #[must_use]
    pub fn run(job: &NewJob) -> Self {
        Self {
            action: "run",
            app: Some(job.app.clone()),
            name: Some(job.job.to_string()),
            job: Some(job.id),
        }
    }

    /// A job was cancelled, or asked to end.
    #[must_use]
    pub fn cancel(job: &JobRow) -> Self {
        Self::of_job("cancel", job)
    }

    /// A failed job was retried.
    #[must_use]
    pub fn retry(job: &JobRow) -> Self {
        Self::of_job("retry", job)
    }

    /// A queue was paused, or its pause got another reason.
    #[must_use]
    pub fn pause(queue: &QueueName) -> Self {
        Self::to("pause_queue", queue)
    }

    /// A queue was resumed.
    #[must_use]
    pub fn resume(queue: &QueueName) -> Self {
        Self::to("resume_queue", queue)
    }

    /// A worker was asked to drain.
    #[must_use]
    pub fn drain(worker: IncarnationId) -> Self {
        Self::to("drain_worker", &worker)
    }

    /// A realm was called gone for good, and something was in it.
    #[must_use]
    pub fn lose(realm: &RealmId) -> Self {
        Self::to("lose_realm", realm)
    }

    /// A token was made. Of no app, also where the token is one's: tokens are the installation's.
    #[must_use]
    pub fn create_token(name: &TokenName) -> Self {
        Self::to("create_token", name)
    }

    /// A token was revoked.
    #[must_use]
    pub fn revoke_token(name: &TokenName) -> Self {
        Self::to("revoke_token", name)
    }
}

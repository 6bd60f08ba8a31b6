//! What `max_running` is on.

use crate::{AppName, JobName, QueueName, definition::Catalog};

/// What a limit is on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// A queue.
    Queue(QueueName),
    /// An app.
    App(AppName),
    /// A definition.
    Definition(AppName, JobName),
}

/// The limits that a job comes under.
#[must_use]
pub fn limits(catalog: &Catalog, queue: &QueueName, app: &AppName, job: &JobName) -> Vec<(Scope, u32)> {
    let of_queue = catalog
        .queues
        .get(queue)
        .and_then(|settings| settings.max_running)
        .map(|limit| (Scope::Queue(queue.clone()), limit));
    let entry = catalog.apps.get(app);
    let of_app = entry
        .and_then(|entry| entry.max_running)
        .map(|limit| (Scope::App(app.clone()), limit));
    let of_definition = entry
        .and_then(|entry| entry.jobs.get(job)?.definition.max_running)
        .map(|limit| (Scope::Definition(app.clone(), job.clone()), limit));
    [of_queue, of_app, of_definition].into_iter().flatten().collect()
}

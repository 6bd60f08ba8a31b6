//! The catalog: every app, definition and queue setting of an installation; and what an apply would change in it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Definition, document::Options, duration};
use crate::{
    Timestamp,
    name::{AppName, JobName, QueueName},
};

/// The whole catalog, as small as its definitions; held in memory by all who resolve jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// Grows with every change; a change names the revision it was planned on.
    pub revision: u64,
    /// The document's `[defaults]`.
    pub defaults: Options,
    /// Settings of queues; a queue without settings need not be here.
    pub queues: BTreeMap<QueueName, QueueSettings>,
    /// The apps.
    pub apps: BTreeMap<AppName, Arc<App>>,
}

/// Settings of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// At most so many attempts of the queue's jobs at once, over all workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
}

/// An application.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct App {
    /// What it is, for people; of the app alone, not of its jobs.
    pub description: Option<String>,
    /// A job's keys, for all jobs of the app, as they were written.
    pub options: Options,
    /// At most so many attempts of the app at once.
    pub max_running: Option<u32>,
    /// How long ended jobs and logs are kept.
    pub retention: Retention,
    /// The job definitions.
    pub jobs: BTreeMap<JobName, JobEntry>,
}

/// One job definition of an app.
#[derive(Clone, Debug, PartialEq)]
pub struct JobEntry {
    /// Its own keys, as they were written.
    pub options: Options,
    /// The whole definition, defaults and app merged in.
    pub definition: Arc<Definition>,
    /// Raised by each change of the whole definition, from 1.
    pub version: u32,
    /// When it was last changed; the store's time.
    pub updated_at: Timestamp,
}

/// How long what has ended is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Jobs that succeeded or were cancelled.
    #[serde(with = "duration")]
    pub jobs: Duration,
    /// Jobs that failed.
    #[serde(with = "duration")]
    pub failed: Duration,
    /// Logs.
    #[serde(with = "duration")]
    pub logs: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        Self {
            jobs: days(30),
            failed: days(90),
            logs: days(30),
        }
    }
}

/// One write that a plan consists of.
#[derive(Clone, Debug, PartialEq)]
pub enum CatalogWrite {
    /// Replaces `[defaults]`.
    Defaults(Options),
    /// Makes or replaces a queue's settings.
    Queue(QueueName, QueueSettings),
    /// Makes or replaces an app, not its jobs.
    App(AppName, AppSettings),
    /// Removes an app and its definitions; its jobs that wait end as `no_definition` at their claim.
    DeleteApp(AppName),
    /// Makes or replaces a definition; the store sets version and time. The options are its own keys.
    Job(AppName, JobName, Options, Arc<Definition>),
    /// Removes a definition.
    DeleteJob(AppName, JobName),
}

/// An app without its jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AppSettings {
    /// As in [`App`].
    pub description: Option<String>,
    /// As in [`App`].
    pub options: Options,
    /// As in [`App`].
    pub max_running: Option<u32>,
    /// As in [`App`].
    pub retention: Retention,
}

impl Catalog {
    /// The definition of this job, if there is one.
    #[must_use]
    pub fn job(&self, app: &AppName, job: &JobName) -> Option<&JobEntry> {
        self.apps.get(app)?.jobs.get(job)
    }

    /// The queue that jobs of `definition` go to where their enqueuer names none.
    #[must_use]
    pub fn queue_of(app: &AppName, definition: &Definition) -> QueueName {
        definition.queue.clone().unwrap_or_else(|| app.clone().into())
    }

    /// Whether the enqueuer of a job of `app` may name `queue`: one that the app's definitions name, or its own.
    #[must_use]
    pub fn may_use_queue(&self, app: &AppName, queue: &QueueName) -> bool {
        self.apps.get(app).is_some_and(|entry| {
            entry
                .jobs
                .values()
                .any(|job| Self::queue_of(app, &job.definition) == *queue)
        })
    }
}

impl Catalog {
    /// Does one write in memory; stores use it to keep their copy in step with their rows.
    pub fn write(&mut self, write: CatalogWrite, now: Timestamp) {
        match write {
            CatalogWrite::Defaults(options) => self.defaults = options,
            CatalogWrite::Queue(name, settings) => {
                self.queues.insert(name, settings);
            }
            CatalogWrite::App(name, settings) => {
                let app = Arc::make_mut(self.apps.entry(name).or_default());
                app.description = settings.description;
                app.options = settings.options;
                app.max_running = settings.max_running;
                app.retention = settings.retention;
            }
            CatalogWrite::DeleteApp(name) => {
                self.apps.remove(&name);
            }
            CatalogWrite::Job(app, job, options, definition) => {
                let jobs = &mut Arc::make_mut(self.apps.entry(app).or_default()).jobs;
                let version = jobs
                    .get(&job)
                    .map_or(1, |entry| entry.version + u32::from(*entry.definition != *definition));
                jobs.insert(
                    job,
                    JobEntry {
                        options,
                        definition,
                        version,
                        updated_at: now,
                    },
                );
            }
            CatalogWrite::DeleteJob(app, job) => {
                if let Some(app) = self.apps.get_mut(&app) {
                    Arc::make_mut(app).jobs.remove(&job);
                }
            }
        }
    }
}

impl App {
    /// The app without its jobs.
    #[must_use]
    pub fn settings(&self) -> AppSettings {
        AppSettings {
            description: self.description.clone(),
            options: self.options.clone(),
            max_running: self.max_running,
            retention: self.retention,
        }
    }
}

impl AppSettings {
    /// The keys as they stand in a document.
    #[must_use]
    pub fn shown(&self) -> Options {
        let mut shown = self.options.clone();
        if let Some(description) = &self.description {
            shown.insert("description".into(), description.clone().into());
        }
        if let Some(limit) = self.max_running {
            shown.insert("max_running".into(), limit.into());
        }
        if self.retention != Retention::default() {
            shown.insert("retention".into(), Value::Object(as_options(&self.retention)));
        }
        shown
    }
}

pub(super) fn as_options<T: Serialize>(value: &T) -> Options {
    match serde_json::to_value(value) {
        Ok(Value::Object(options)) => options,
        _ => Options::new(),
    }
}

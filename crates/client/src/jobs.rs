//! Enqueueing, waiting, listing, cancelling and retrying.

use std::time::Duration;

use futures::{Stream, TryStreamExt, stream};
use reqwest::{Method, StatusCode};
use robata_api_types::{BatchAnswer, BatchRequest, EnqueueRequest, Job, JobList, RunRequest};
use robata_core::{AppName, JobId};
use tokio::time::{Instant, sleep};

use crate::{
    error::ClientError,
    http::{Client, with_json},
};

/// A waiting client bears a server that does not answer for this long.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// One long poll asks the server to wait so long.
const POLL: Duration = Duration::from_secs(25);
/// From one try to the next while the server does not answer.
const RETRY: Duration = Duration::from_millis(250);

/// A job that was taken.
#[derive(Clone, Debug)]
pub struct Enqueued {
    /// The job, or the first one of a replayed key.
    pub job: Job,
    /// Whether the key was there already.
    pub replayed: bool,
    /// Whether it was taken on the degraded path and is not in the store yet.
    pub degraded: bool,
}

/// What a cancel or retry did.
#[derive(Clone, Debug)]
pub struct Acted {
    /// The job as it stands now.
    pub job: Job,
    /// Whether the request changed anything.
    pub changed: bool,
}

/// Which jobs are listed. Words and names go to the server as they are; it says what is wrong with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Of this app.
    pub app: Option<String>,
    /// Of this definition.
    pub job: Option<String>,
    /// In this queue.
    pub queue: Option<String>,
    /// In one of these states; empty: all.
    pub states: Vec<String>,
    /// With this reason.
    pub reason: Option<String>,
    /// With all of these labels.
    pub labels: Vec<(String, String)>,
    /// Stored at or after this time (RFC 3339).
    pub since: Option<String>,
    /// Stored before this time.
    pub until: Option<String>,
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// Jobs a page.
    pub limit: Option<usize>,
}

impl JobFilter {
    fn query(&self) -> Vec<(&'static str, String)> {
        let one = |name, value: &Option<String>| value.clone().map(|value| (name, value));
        let labels = self
            .labels
            .iter()
            .map(|(key, value)| ("label", format!("{key}={value}")));
        [
            one("app", &self.app),
            one("job", &self.job),
            one("queue", &self.queue),
            one("reason", &self.reason),
            one("since", &self.since),
            one("until", &self.until),
            one("cursor", &self.cursor),
            self.limit.map(|limit| ("limit", limit.to_string())),
        ]
        .into_iter()
        .flatten()
        .chain(self.states.iter().map(|state| ("state", state.clone())))
        .chain(labels)
        .collect()
    }
}

impl Client {
    /// Enqueues a job. It is durable when this returns.
    pub async fn enqueue(&self, request: &EnqueueRequest) -> Result<Enqueued, ClientError> {
        let request = with_json(self.api(Method::POST, &["jobs"]), request);
        let response = self.send(request).await?;
        let status = response.status();
        Ok(Enqueued {
            job: self.read(response).await?,
            replayed: status == StatusCode::OK,
            degraded: status == StatusCode::ACCEPTED,
        })
    }

    /// Enqueues many jobs in one call; what became of each stands in the answer, in their order.
    pub async fn batch(&self, request: &BatchRequest) -> Result<BatchAnswer, ClientError> {
        self.json(with_json(self.api(Method::POST, &["jobs", "batch"]), request))
            .await
    }

    /// Runs a one-off with another command.
    pub async fn run(&self, app: &AppName, request: &RunRequest) -> Result<Job, ClientError> {
        let path = ["apps", app.as_str(), "run"];
        self.json(with_json(self.api(Method::POST, &path), request)).await
    }

    /// A job with payload and attempts.
    pub async fn job(&self, id: JobId) -> Result<Job, ClientError> {
        self.json(self.api(Method::GET, &["jobs", &id.to_string()])).await
    }

    /// A job with payload and attempts, once it has ended or this time has passed.
    pub async fn job_within(&self, id: JobId, wait: Duration) -> Result<Job, ClientError> {
        let request = self
            .api(Method::GET, &["jobs", &id.to_string()])
            .query(&[("wait", wait.as_secs().to_string())])
            .timeout(wait + Duration::from_secs(15));
        self.json(request).await
    }

    /// The job with payload and attempts once it has ended, however long that takes.
    ///
    /// A server that does not answer (it is being restarted) is borne for [`PATIENCE`].
    pub async fn wait(&self, id: JobId) -> Result<Job, ClientError> {
        // Since the first of the errors in a row: the time of a long poll that broke off is no silence.
        let mut silent_since = None;
        loop {
            match self.job_within(id, POLL).await {
                Ok(job) if job.state.is_ended() => return Ok(job),
                Ok(_) => silent_since = None,
                Err(error) => {
                    let since = *silent_since.get_or_insert_with(Instant::now);
                    if !error.is_passing() || since.elapsed() >= PATIENCE {
                        return Err(error);
                    }
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// A page of jobs, newest first.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<JobList, ClientError> {
        let request = self.api(Method::GET, &["jobs"]).query(&filter.query());
        self.json(request).await
    }

    /// All jobs of the filter, newest first, page after page as they are asked for.
    pub fn all_jobs(&self, filter: JobFilter) -> impl Stream<Item = Result<Job, ClientError>> {
        let client = self.clone();
        stream::try_unfold(Some(filter), move |filter| {
            let client = client.clone();
            async move {
                let Some(filter) = filter else {
                    return Ok(None);
                };
                let page = client.jobs(&filter).await?;
                let next = page.next_cursor.map(|cursor| JobFilter {
                    cursor: Some(cursor),
                    ..filter
                });
                let jobs = stream::iter(page.jobs.into_iter().map(Ok));
                Ok::<_, ClientError>(Some((jobs, next)))
            }
        })
        .try_flatten()
    }

    /// Asks to cancel a job.
    pub async fn cancel(&self, id: JobId) -> Result<Acted, ClientError> {
        self.act(id, "cancel").await
    }

    /// Retries a failed job.
    pub async fn retry(&self, id: JobId) -> Result<Acted, ClientError> {
        self.act(id, "retry").await
    }

    async fn act(&self, id: JobId, what: &str) -> Result<Acted, ClientError> {
        let path = ["jobs", &id.to_string(), what];
        let response = self.send(self.api(Method::POST, &path)).await?;
        let changed = response.status() == StatusCode::ACCEPTED;
        Ok(Acted {
            job: self.read(response).await?,
            changed,
        })
    }
}

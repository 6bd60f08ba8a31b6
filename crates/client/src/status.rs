//! Queues, workers, health and readiness.

use reqwest::{Method, StatusCode};
use robata_api_types::{
    Health, LoseRequest, LostList, PauseRequest, Queue, QueueList, Ready, SetAsideList, Worker, WorkerList,
};
use robata_core::{IncarnationId, QueueName};

use crate::{
    error::ClientError,
    http::{Client, with_json},
};

impl Client {
    /// All queues that have jobs or settings.
    pub async fn queues(&self) -> Result<Vec<Queue>, ClientError> {
        let list: QueueList = self.json(self.api(Method::GET, &["queues"])).await?;
        Ok(list.queues)
    }

    /// All workers, live ones first.
    pub async fn workers(&self) -> Result<Vec<Worker>, ClientError> {
        let list: WorkerList = self.json(self.api(Method::GET, &["workers"])).await?;
        Ok(list.workers)
    }

    /// Pauses a queue: no worker takes its jobs from here on.
    pub async fn pause_queue(&self, queue: &QueueName, reason: &str) -> Result<Queue, ClientError> {
        let body = PauseRequest {
            reason: reason.to_owned(),
        };
        let path = ["queues", queue.as_str(), "pause"];
        self.json(with_json(self.api(Method::POST, &path), &body)).await
    }

    /// Resumes a queue.
    pub async fn resume_queue(&self, queue: &QueueName) -> Result<Queue, ClientError> {
        self.json(self.api(Method::POST, &["queues", queue.as_str(), "resume"]))
            .await
    }

    /// Asks a worker to drain: it takes nothing new, and leaves once what it holds has ended.
    pub async fn drain_worker(&self, worker: IncarnationId) -> Result<Worker, ClientError> {
        let id = worker.to_string();
        self.json(self.api(Method::POST, &["workers", &id, "drain"])).await
    }

    /// Calls lost, at once, what ran in a realm that is gone for good.
    pub async fn lose_realm(&self, realm: &str) -> Result<LostList, ClientError> {
        let body = LoseRequest {
            realm: realm.to_owned(),
        };
        self.json(with_json(self.api(Method::POST, &["realms", "lost"]), &body))
            .await
    }

    /// Messages that could not be taken in, newest first, with numbers below `before`.
    pub async fn set_aside(&self, before: Option<u64>, limit: usize) -> Result<SetAsideList, ClientError> {
        let mut query = vec![("limit", limit.to_string())];
        query.extend(before.map(|before| ("before", before.to_string())));
        self.json(self.api(Method::GET, &["set-aside"]).query(&query)).await
    }

    /// Whether the server can do its work; each need is named, also where it is not ready.
    pub async fn ready(&self) -> Result<Ready, ClientError> {
        let response = self.send_any(self.plain(Method::GET, &["readyz"])).await?;
        match response.status() {
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => self.read(response).await,
            _ => Err(self.refused(response).await),
        }
    }

    /// Whether the server is alive, and its version.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.json(self.plain(Method::GET, &["healthz"])).await
    }
}

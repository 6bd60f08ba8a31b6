//! Queues, workers, health and readiness.

use reqwest::{Method, StatusCode};
use robata_api_types::{Health, Queue, QueueList, Ready, Worker, WorkerList};

use crate::{error::ClientError, http::Client};

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

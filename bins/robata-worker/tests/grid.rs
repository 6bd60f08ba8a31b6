//! Every store and queue with every executor, through the real programs: what a user does with a job, in each cell of the grid.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use serde_json::{Value, json};
use support::{Site, eventually, rig::Rig};

/// What runs in a cell, and where.
struct Cell {
    rig: Rig,
    executor: &'static str,
    /// Set for each job: an image, where the executor needs one.
    image: Option<String>,
}

impl Cell {
    async fn new(site: Site, executor: &'static str) -> Self {
        let image = (executor == "docker").then(|| support::service("ROBATA_TEST_IMAGE"));
        Self {
            rig: Rig::start(site).await,
            executor,
            image,
        }
    }

    async fn define(&self, job: &str, text: &str, mut more: Value) {
        more["executor"] = self.executor.into();
        if let Some(image) = &self.image {
            more["image"] = image.as_str().into();
            more["docker"] = json!({"network": "none"});
        }
        self.rig.site.define(&self.rig.url, job, text, &more).await;
    }

    async fn enqueue(&self, job: &str) -> String {
        self.rig.site.enqueue(&self.rig.url, job).await
    }

    /// The job once it has ended and its logs are sealed.
    async fn ended(&self, id: &str) -> Value {
        eventually(format!("{id} has ended"), || async {
            let job = self.rig.site.job(&self.rig.url, id).await;
            let ended = ["succeeded", "failed", "cancelled"].contains(&job["state"].as_str()?);
            let open = job["attempts"]
                .as_array()?
                .iter()
                .any(|attempt| attempt["log"]["state"] == "open");
            (ended && !open).then_some(job)
        })
        .await
    }

    async fn log(&self, id: &str) -> String {
        self.rig
            .site
            .get(&format!("{}/api/v1/jobs/{id}/logs", self.rig.url))
            .await
            .1
    }

    /// Success, retry, time-out and cancel, all at once; then adoption.
    async fn scenarios(mut self) {
        self.define("succeeds", "echo hello; printf end", json!({})).await;
        let retry = json!({"retry": {"max_attempts": 3, "base": "100ms", "backoff": "fixed"}});
        self.define("retries", "echo $ROBATA_ATTEMPT; [ $ROBATA_ATTEMPT = 3 ]", retry)
            .await;
        let limit = json!({"timeout": "1s", "grace_period": "1s"});
        self.define("times-out", "echo begun; sleep 600", limit).await;
        self.define("is-cancelled", "echo begun; sleep 600", json!({"grace_period": "1s"}))
            .await;
        let succeeds = self.enqueue("succeeds").await;
        let retries = self.enqueue("retries").await;
        let times_out = self.enqueue("times-out").await;
        let cancelled = self.enqueue("is-cancelled").await;
        self.rig.site.until(&self.rig.url, &cancelled, "running").await;
        let cancel = format!("{}/api/v1/jobs/{cancelled}/cancel", self.rig.url);
        let (status, answer) = self.rig.site.post(&cancel, &json!({})).await;
        assert_eq!(status, 202, "{answer}");

        let job = self.ended(&succeeds).await;
        assert_eq!(
            (&job["state"], &job["reason"]),
            (&json!("succeeded"), &Value::Null),
            "{job:#}"
        );
        assert_eq!(job["attempts"][0]["log"]["state"], "complete");
        assert_eq!(self.log(&succeeds).await, "hello\nend");
        let job = self.ended(&retries).await;
        let states: Vec<_> = job["attempts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|attempt| &attempt["state"])
            .collect();
        assert_eq!(job["state"], "succeeded", "{job:#}");
        assert_eq!(states, ["failed", "failed", "succeeded"]);
        assert_eq!(self.log(&retries).await, "3\n");
        let job = self.ended(&times_out).await;
        assert_eq!(
            (&job["state"], &job["reason"]),
            (&json!("failed"), &json!("timed_out")),
            "{job:#}"
        );
        let job = self.ended(&cancelled).await;
        assert_eq!(
            (&job["state"], &job["reason"]),
            (&json!("cancelled"), &json!("cancelled")),
            "{job:#}"
        );
        self.adoption().await;
    }

    /// The worker is killed while a job runs; the next one tells its true end and its whole log.
    async fn adoption(&mut self) {
        self.define("is-adopted", "echo begun; sleep 4; echo over; exit 7", json!({}))
            .await;
        let id = self.enqueue("is-adopted").await;
        self.rig.site.until(&self.rig.url, &id, "running").await;
        self.rig.kill_worker_and_start_another().await;
        let job = self.ended(&id).await;
        let attempts = job["attempts"].as_array().unwrap();
        assert_eq!((attempts.len(), &attempts[0]["exit_code"]), (1, &json!(7)), "{job:#}");
        assert_eq!((&job["state"], &job["reason"]), (&json!("failed"), &json!("exit_code")));
        assert_eq!(attempts[0]["log"]["state"], "complete", "{job:#}");
        assert_eq!(self.log(&id).await, "begun\nover\n");
    }
}

async fn embedded(queue: &str, executor: &'static str) {
    Cell::new(Site::embedded(queue), executor).await.scenarios().await;
}

async fn embedded_over_postgres(queue: &str, executor: &'static str) {
    Cell::new(Site::embedded_over_postgres(queue).await, executor)
        .await
        .scenarios()
        .await;
}

async fn over_postgres(queue: &str, executor: &'static str) {
    Cell::new(Site::over_postgres(queue).await, executor)
        .await
        .scenarios()
        .await;
}

#[tokio::test]
async fn sqlite_memory_process() {
    embedded("memory", "process").await;
}

#[tokio::test]
async fn sqlite_memory_docker() {
    embedded("memory", "docker").await;
}

#[tokio::test]
async fn sqlite_redis_process() {
    embedded("redis", "process").await;
}

#[tokio::test]
async fn sqlite_redis_docker() {
    embedded("redis", "docker").await;
}

#[tokio::test]
async fn sqlite_rabbitmq_process() {
    embedded("rabbitmq", "process").await;
}

#[tokio::test]
async fn sqlite_rabbitmq_docker() {
    embedded("rabbitmq", "docker").await;
}

#[tokio::test]
async fn sqlite_sqs_process() {
    embedded("sqs", "process").await;
}

#[tokio::test]
async fn sqlite_sqs_docker() {
    embedded("sqs", "docker").await;
}

#[tokio::test]
async fn postgres_memory_process() {
    embedded_over_postgres("memory", "process").await;
}

#[tokio::test]
async fn postgres_memory_docker() {
    embedded_over_postgres("memory", "docker").await;
}

#[tokio::test]
async fn postgres_redis_process() {
    over_postgres("redis", "process").await;
}

#[tokio::test]
async fn postgres_redis_docker() {
    over_postgres("redis", "docker").await;
}

#[tokio::test]
async fn postgres_rabbitmq_process() {
    over_postgres("rabbitmq", "process").await;
}

#[tokio::test]
async fn postgres_rabbitmq_docker() {
    over_postgres("rabbitmq", "docker").await;
}

#[tokio::test]
async fn postgres_sqs_process() {
    over_postgres("sqs", "process").await;
}

#[tokio::test]
async fn postgres_sqs_docker() {
    over_postgres("sqs", "docker").await;
}

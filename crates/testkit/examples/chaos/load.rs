//! Those who enqueue the run's jobs until they are accepted.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use reqwest::{Client, StatusCode};
use robata_core::JobId;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    chance::Chance,
    kinds::{Kind, document},
};

/// Those who enqueue.
#[derive(Debug)]
pub(crate) struct Load {
    client: Client,
    masters: Vec<u16>,
    /// What jobs in containers run in; `None`: there are none.
    image: Option<String>,
    accepted: Mutex<BTreeMap<JobId, Kind>>,
    /// Requests that were answered by nobody or refused, and made again.
    refused: Mutex<BTreeMap<String, usize>>,
}

/// Why a job of a batch was not taken, where one was not: the batch is sent again whole, and keys make its jobs once.
fn refused(answer: &Value) -> Option<String> {
    let mut results = answer["results"].as_array().into_iter().flatten();
    let refused = results.find(|result| result["status"].as_u64().is_some_and(|status| status >= 500))?;
    let code = refused["problem"]["code"].as_str().unwrap_or("?");
    Some(format!("{} {code}, in a batch", refused["status"]))
}

impl Load {
    pub(crate) fn new(masters: Vec<u16>, image: Option<String>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            client: robata_testkit::http().timeout(Duration::from_secs(5)).build()?,
            masters,
            image,
            accepted: Mutex::default(),
            refused: Mutex::default(),
        }))
    }

    pub(crate) fn accepted(&self) -> BTreeMap<JobId, Kind> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn refused(&self) -> BTreeMap<String, usize> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what the jobs are.
    pub(crate) async fn apply(&self, journal: &Path) -> Result<()> {
        let document: toml::Table = toml::from_str(&document(journal, self.image.as_deref()))?;
        let url = format!("http://127.0.0.1:{}/api/v1/apply", self.masters[0]);
        let answer = self
            .client
            .post(url)
            .json(&json!({"document": document}))
            .send()
            .await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "apply: {status} {text}");
        Ok(())
    }

    /// Enqueues `per_second` jobs a second until told to stop.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut chance: Chance,
        per_second: u64,
        stop: CancellationToken,
    ) -> Result<()> {
        let mut number = 0;
        let mut tasks = tokio::task::JoinSet::new();
        while !stop.is_cancelled() {
            number += 1;
            let pause = Duration::from_millis(1000 / per_second.max(1));
            let load = Arc::clone(&self);
            let mut chance = chance.fork();
            // Some come in batches: a request for each, or one for ten.
            let count = if number % 50 == 0 { 10 } else { 1 };
            tasks.spawn(async move { load.enqueue(number, count, &mut chance).await });
            sleep(pause * u32::try_from(count).unwrap_or(1)).await;
            while let Some(done) = tasks.try_join_next() {
                done?;
            }
        }
        // What was asked for is asked for until it is accepted.
        while let Some(done) = tasks.join_next().await {
            done?;
        }
        Ok(())
    }

    async fn enqueue(&self, number: u64, count: usize, chance: &mut Chance) {
        let kinds: Vec<Kind> = (0..count).map(|_| Kind::pick(chance, self.image.is_some())).collect();
        let jobs: Vec<Value> = kinds
            .iter()
            .enumerate()
            .map(|(item, kind)| {
                let mut job = json!({
                    "app": if kind.is_contained() { "contained" } else { "chaos" },
                    "job": kind.name(),
                    "payload": {"number": number},
                    "idempotency_key": format!("{number}-{item}"),
                    "priority": chance.below(3),
                });
                if *kind == Kind::Delayed {
                    job["delay_seconds"] = (1 + chance.below(15)).into();
                }
                job
            })
            .collect();
        let (path, body) = match jobs.as_slice() {
            [job] => ("jobs", job.clone()),
            _ => ("jobs/batch", json!({"jobs": jobs})),
        };
        // The same request with the same key, to whichever master, until it is accepted.
        let answer = self.until_taken(path, &body, chance).await;
        let ids: Vec<JobId> = match answer["results"].as_array() {
            Some(results) => results
                .iter()
                .filter_map(|result| result["job"]["id"].as_str()?.parse().ok())
                .collect(),
            None => answer["id"]
                .as_str()
                .and_then(|id| id.parse().ok())
                .into_iter()
                .collect(),
        };
        assert_eq!(ids.len(), kinds.len(), "an id for each job: {answer}");
        let mut cancelled = Vec::new();
        {
            let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, kind) in ids.into_iter().zip(kinds) {
                assert_eq!(accepted.insert(id, kind), None, "{id} was given to two requests");
                if kind.is_cancelled() {
                    cancelled.push(id);
                }
            }
        }
        for id in cancelled {
            sleep(chance.millis(0, 4000)).await;
            self.until_taken(&format!("jobs/{id}/cancel"), &json!({}), chance).await;
        }
    }

    async fn until_taken(&self, path: &str, body: &Value, chance: &mut Chance) -> Value {
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            let master = chance.pick(&self.masters);
            let url = format!("http://127.0.0.1:{master}/api/v1/{path}");
            let why = match self.ask(&url, body).await {
                Ok((status, answer)) if status.is_success() => match refused(&answer) {
                    None => return answer,
                    Some(why) => why,
                },
                // Cancelled too late: the job has ended.
                Ok((StatusCode::CONFLICT, answer)) if path.ends_with("/cancel") => return answer,
                Ok((status, answer)) if status.is_server_error() => {
                    format!("{} {}", status.as_u16(), answer["code"].as_str().unwrap_or("?"))
                }
                // Taken in by way of the broker, and not yet known to a master that never lost the store.
                Ok((StatusCode::NOT_FOUND, _)) if path.ends_with("/cancel") => "404, not yet taken in".to_owned(),
                Ok((status, answer)) => panic!("{path}: {status} {answer}"),
                Err(error) if error.downcast_ref().is_some_and(reqwest::Error::is_timeout) => {
                    "no answer in 5 s".to_owned()
                }
                Err(_) => "no connection".to_owned(),
            };
            assert!(Instant::now() < deadline, "{path}: not taken for 300 s: {why}");
            *self
                .refused
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(why)
                .or_default() += 1;
            sleep(chance.millis(50, 500)).await;
        }
    }

    async fn ask(&self, url: &str, body: &Value) -> Result<(StatusCode, Value)> {
        let answer = self.client.post(url).json(body).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        let answer = serde_json::from_str(&text).with_context(|| format!("{status} with {text:?}"))?;
        Ok((status, answer))
    }

    /// Asks any master that answers.
    pub(crate) async fn get(&self, path: &str) -> Result<String> {
        let mut last = None;
        for master in &self.masters {
            let url = format!("http://127.0.0.1:{master}/api/v1/{path}");
            match self
                .client
                .get(url)
                .send()
                .await
                .and_then(reqwest::Response::error_for_status)
            {
                Ok(answer) => return Ok(answer.text().await?),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("there is no master")?.into())
    }
}

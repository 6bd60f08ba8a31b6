//! Fairness in a shared queue, end to end: a hundred thousand waiting jobs of one app delay another app's single job, and one
//! of a higher priority, by no more than the line's window (PROTOCOL O2). Counted in the store's own order of claims, never
//! by time.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use std::time::Instant;

use serde_json::{Value, json};
use sqlx::PgConnection;
use support::{Site, eventually};

/// Jobs of the app that fills the queue, and how many one request brings.
const CROWD: i64 = 100_000;
const BATCH: i64 = 5_000;
/// Slots of the worker (see [`Site`]), and the line's window that follows: four times the slots, at least 32.
const SLOTS: i64 = 4;
const WINDOW: i64 = 32;
/// Each way is tried so often: one time of good luck proves nothing.
const TIMES: usize = 3;

/// Two apps that share a queue. The crowd's jobs take a moment, so that hardly any is claimed while a request is answered.
async fn define(site: &Site, master: &str) {
    let job = |command: &[&str]| json!({"command": command, "executor": "process", "queue": "shared"});
    let document = json!({"apps": {
        "crowd": {"jobs": {"many": job(&["sleep", "0.1"])}},
        "single": {"jobs": {"one": job(&["true"])}},
    }});
    let url = format!("{master}/api/v1/apply");
    let (status, answer) = site.post(&url, &json!({"document": document})).await;
    assert_eq!(status, 200, "{answer}");
}

async fn enqueue_the_crowd(site: &Site, master: &str) {
    let url = format!("{master}/api/v1/jobs/batch");
    let job = json!({"app": "crowd", "job": "many", "payload": {}});
    let body = json!({"jobs": vec![job; usize::try_from(BATCH).unwrap()]});
    for _ in 0..CROWD / BATCH {
        let (status, answer) = site.post(&url, &body).await;
        assert_eq!(status, 200, "{answer}");
        let results = answer["results"].as_array().unwrap();
        assert!(results.iter().all(|result| result["status"] == 201), "{answer}");
    }
}

async fn number(database: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(database).await.unwrap()
}

/// The crowd's claims so far.
const CLAIMED: &str = "SELECT count(*) FROM robata.attempts WHERE app = 'crowd'";
/// The latest claim.
const LATEST: &str = "SELECT coalesce(max(seq), 0) FROM robata.attempts";

/// Enqueues one job and counts the other claims between its being asked for and its own; fails as soon as there are too many.
async fn overtaken(site: &Site, master: &str, database: &mut PgConnection, job: &Value) -> i64 {
    let before = number(database, LATEST).await;
    let (status, job) = site.post(&format!("{master}/api/v1/jobs"), job).await;
    assert_eq!(status, 201, "{job}");
    let id: uuid::Uuid = job["id"].as_str().unwrap().parse().unwrap();
    let begin = Instant::now();
    loop {
        let counted: (i64, Option<i64>) = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE a.job_id <> $2 AND a.seq < coalesce(own.seq, a.seq + 1)), max(own.seq)
             FROM robata.attempts a LEFT JOIN robata.attempts own ON own.job_id = $2 WHERE a.seq > $1",
        )
        .bind(before)
        .bind(id)
        .fetch_one(&mut *database)
        .await
        .unwrap();
        let (others, own) = counted;
        if own.is_some() {
            return others;
        }
        assert!(
            others <= 4 * WINDOW,
            "{others} others were claimed, and {job} still waits"
        );
        assert!(begin.elapsed() < support::DEADLINE, "nothing is claimed any more");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_hundred_thousand_jobs_delay_another_apps_job_and_an_urgent_one_by_no_more_than_the_window() {
    let site = Site::new().await;
    let (_master, master) = site.master().await;
    define(&site, &master).await;
    enqueue_the_crowd(&site, &master).await;
    let mut database = site.database().await;
    let waiting = "SELECT count(*) FROM robata.queued WHERE queue = 'shared'";
    assert_eq!(number(&mut database, waiting).await, CROWD);
    let _worker = site.worker(&[], &[]).await;
    let database = tokio::sync::Mutex::new(database);
    eventually("the line is full, and moves", || async {
        (number(&mut *database.lock().await, CLAIMED).await > WINDOW).then_some(())
    })
    .await;
    let mut database = database.into_inner();

    let another = json!({"app": "single", "job": "one", "payload": {}});
    let urgent = json!({"app": "crowd", "job": "many", "payload": {}, "priority": 10});
    let mut most = [0; 2];
    for _ in 0..TIMES {
        for (most, job) in most.iter_mut().zip([&another, &urgent]) {
            *most = overtaken(&site, &master, &mut database, job).await.max(*most);
        }
    }
    // What is out already goes first; beside it what each slot took while the request was under way.
    let bound = WINDOW + SLOTS;
    assert!(
        most.iter().all(|most| *most <= bound),
        "{most:?}, and the bound is {bound}"
    );
    // All the time there were far more that could have gone first.
    assert!(number(&mut database, waiting).await > CROWD - 5_000);
}

//! What bounds the degraded path (PROTOCOL I1): one job that the broker does not take keeps no other out, what never reached the
//! broker uses up nothing, nobody waits for a store that does not answer, and `/readyz` says so where nothing is accepted.

use std::sync::atomic::Ordering;

use robata_testkit::engine::Moment;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    degraded::{AWAY, MAIL, site, site_with},
    server::{LONG, refused, until},
};

#[tokio::test]
async fn a_job_that_the_brokers_own_queue_does_not_take_is_refused_alone() {
    let site = site().await;
    site.broker.takes.store(2_000, Ordering::SeqCst);
    site.store_fails();
    let job = |payload: usize| json!({"app": "shop", "job": "mail", "payload": "x".repeat(payload)});
    let batch = json!({"jobs": [job(1), job(2), job(3_000), job(3), job(4)]}).to_string();
    let response = site.server.post("/api/v1/jobs/batch", &batch).await;
    assert_eq!(response.status(), 200);
    let answer: Value = response.json().await.unwrap();
    let results = answer["results"].as_array().unwrap();
    let told: Vec<_> = results
        .iter()
        .map(|result| result["status"].as_u64().unwrap())
        .collect();
    assert_eq!(told, [202, 202, 503, 202, 202], "{answer}");
    let detail = results[2]["problem"]["detail"].as_str().unwrap();
    assert!(
        detail.contains("the broker does not take this job") && detail.contains("at most 2000"),
        "{detail}"
    );
    // Nobody rests for it.
    site.accepted(MAIL).await;
    let taken = site.take_in().await;
    assert_eq!(taken.len(), 5, "{taken:?}");
}

#[tokio::test]
async fn what_was_refused_while_the_broker_rests_is_not_counted_as_put_into_it() {
    let site = site_with(|config| {
        config.max_job_bytes = 2_000;
        config.max_outage_bytes = 40_000;
    })
    .await;
    site.store_fails();
    site.faults.fail("queue.publish", AWAY, usize::MAX);
    let body = json!({"app": "shop", "job": "mail", "payload": "x".repeat(1_500)}).to_string();
    // Only the first after each rest of half a second may be in the broker; twenty would be as much as may be.
    for _ in 0..60 {
        let problem = refused(site.server.post("/api/v1/jobs", &body).await, 503, "unavailable").await;
        assert!(
            problem.detail.contains("neither the store nor the broker"),
            "{problem:?}"
        );
    }
    site.faults.heal("queue.publish");
    until("the broker is asked again", || async {
        site.server.post("/api/v1/jobs", &body).await.status() == 202
    })
    .await;
}

#[tokio::test]
async fn where_the_broker_tells_its_depth_and_takes_nothing_the_server_is_not_ready() {
    let site = site().await;
    site.store_fails();
    site.faults.fail("queue.publish", AWAY, usize::MAX);
    until("it is not ready", || async {
        refused(site.server.post("/api/v1/jobs", MAIL).await, 503, "unavailable").await;
        site.server.get("/readyz").await.status() == 503
    })
    .await;
    site.faults.heal("queue.publish");
    until("it is ready again, so that somebody tries", || async {
        site.server.get("/readyz").await.status() == 200
    })
    .await;
    site.accepted(MAIL).await;
}

#[tokio::test]
async fn without_a_durable_broker_a_store_that_fails_is_not_asked_for_ever_either() {
    let site = site().await;
    site.broker.whole_jobs.store(false, Ordering::SeqCst);
    site.store_fails();
    let before = site.faults.calls("store.enqueue");
    for _ in 0..10 {
        let problem = refused(site.server.post("/api/v1/jobs", MAIL).await, 503, "unavailable").await;
        for words in ["not known to be durable enough", "store.enqueue is refused by a test"] {
            assert!(problem.detail.contains(words), "{problem:?}");
        }
        assert!(problem.retry_after.is_some());
    }
    let batch = json!({"jobs": [{"app": "shop", "job": "mail"}]}).to_string();
    refused(site.server.post("/api/v1/jobs/batch", &batch).await, 503, "unavailable").await;
    assert_eq!(site.faults.calls("store.enqueue") - before, 3, "then it is open");
    site.store_heals();
    site.path_is("normal").await;
    site.server.mail().await;
}

#[tokio::test]
async fn without_a_durable_broker_a_store_that_hangs_is_waited_for_once_and_what_it_kept_is_kept() {
    let site = site().await;
    site.broker.whole_jobs.store(false, Ordering::SeqCst);
    let gate = site.faults.hold("store.enqueue", Moment::End);
    let check = site.faults.hold("store.check", Moment::Begin);
    let key = r#"{"app": "shop", "job": "mail", "idempotency_key": "k"}"#;
    let first = timeout(LONG, site.server.post("/api/v1/jobs", key)).await.unwrap();
    let problem = refused(first, 503, "unavailable").await;
    assert!(problem.detail.contains("did not answer within"), "{problem:?}");
    let next = timeout(LONG, site.server.post("/api/v1/jobs", MAIL)).await.unwrap();
    refused(next, 503, "unavailable").await;
    assert_eq!(gate.reached(), 1, "who comes next is told without asking it");
    drop((gate, check));
    site.path_is("normal").await;
    let again = site.server.post("/api/v1/jobs", key).await;
    assert_eq!(again.status(), 200, "it is the job that was stored before");
}

//! Many jobs in one call.

use robata_client::{BatchAnswer, BatchRequest, EnqueueRequest};
use serde_json::Value;

use crate::server::{Server, refused, shop, start_with};

const GOOD: &str = r#"{"app": "shop", "job": "mail"}"#;

async fn batch(server: &Server, items: &[&str], atomic: bool) -> reqwest::Response {
    let body = format!(r#"{{"jobs": [{}], "atomic": {atomic}}}"#, items.join(","));
    server.post("/api/v1/jobs/batch", &body).await
}

async fn stored(server: &Server) -> usize {
    server.client.jobs(&Default::default()).await.unwrap().jobs.len()
}

#[tokio::test]
async fn a_bad_item_is_reported_alone_and_the_rest_is_taken() {
    let server = shop().await;
    let keyed = r#"{"app": "shop", "job": "mail", "payload": 1, "idempotency_key": "k"}"#;
    let clash = r#"{"app": "shop", "job": "mail", "payload": 2, "idempotency_key": "k"}"#;
    let deep = format!(
        r#"{{"app": "shop", "job": "mail", "payload": {}{}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    let items = [
        GOOD,
        r#"{"app": "shop", "job": "nope"}"#,
        keyed,
        keyed,
        clash,
        r#"{"app": "shop", "job": "mail", "x": 1}"#,
        "17",
        r#"{"app": "shop", "job": "mail", "payload": "\ud800"}"#,
        &deep,
        GOOD,
    ];
    let response = batch(&server, &items, false).await;
    assert_eq!(response.status(), 200);
    let answer: BatchAnswer = response.json().await.unwrap();
    let told: Vec<(u16, Option<String>)> = answer
        .results
        .iter()
        .map(|item| (item.status, item.problem.as_ref().map(|problem| problem.code.clone())))
        .collect();
    let refused = |status, code: &str| (status, Some(code.to_owned()));
    assert_eq!(
        told,
        [
            (201, None),
            refused(404, "unknown_definition"),
            (201, None),
            (200, None),
            refused(409, "key_reused"),
            refused(422, "invalid_request"),
            refused(422, "invalid_request"),
            refused(422, "invalid_payload"),
            refused(422, "invalid_payload"),
            (201, None),
        ]
    );
    let id = |at: usize| answer.results[at].job.as_ref().unwrap().id;
    assert_eq!(id(2), id(3));
    assert_ne!(id(0), id(9));
    assert_eq!(stored(&server).await, 3);
}

#[tokio::test]
async fn an_atomic_batch_with_a_bad_item_stores_nothing() {
    let server = shop().await;
    let response = batch(&server, &[GOOD, r#"{"app": "shop", "job": "nope"}"#, GOOD], true).await;
    let problem = refused(response, 422, "batch_refused").await;
    assert_eq!(problem.problems.len(), 1);
    assert_eq!(problem.problems[0].path, ["jobs", "1"]);
    assert_eq!(problem.problems[0].code, "unknown_definition");
    assert_eq!(stored(&server).await, 0);

    // One that only the store can find.
    let key =
        |payload: u8| format!(r#"{{"app": "shop", "job": "mail", "payload": {payload}, "idempotency_key": "k"}}"#);
    server.enqueue(&key(1)).await;
    let response = batch(&server, &[GOOD, &key(2)], true).await;
    let problem = refused(response, 422, "batch_refused").await;
    assert_eq!(problem.problems.len(), 1, "{problem:?}");
    assert_eq!(problem.problems[0].code, "key_reused");
    assert_eq!(problem.problems[0].path, ["jobs", "1"]);
    assert_eq!(stored(&server).await, 1);

    let response = batch(&server, &[GOOD, GOOD], true).await;
    assert_eq!(response.status(), 200);
    assert_eq!(stored(&server).await, 3);
}

#[tokio::test]
async fn a_malformed_batch_is_refused_whole() {
    let server = shop().await;
    for (body, status, code) in [
        (r#"{"jobs": [{"app": "shop", "job": "mail"},]}"#, 400, "invalid_json"),
        (r#"{"jobs": 1}"#, 422, "invalid_request"),
        (r#"{"jobs": [], "atomic": true, "x": 1}"#, 422, "invalid_request"),
        ("[]", 422, "invalid_request"),
    ] {
        refused(server.post("/api/v1/jobs/batch", body).await, status, code).await;
    }
    let answer: Value = batch(&server, &[], true).await.json().await.unwrap();
    assert_eq!(answer["results"], Value::Array(Vec::new()));
    assert_eq!(stored(&server).await, 0);
}

#[tokio::test]
async fn a_batch_is_bounded() {
    let server = start_with(|config| config.max_batch = 3).await;
    server.apply(crate::server::document()).await;
    refused(batch(&server, &[GOOD; 4], false).await, 422, "too_many_jobs").await;
    assert_eq!(batch(&server, &[GOOD; 3], false).await.status(), 200);
    assert_eq!(stored(&server).await, 3);
}

#[tokio::test]
async fn ten_thousand_jobs_are_taken_in_their_order() {
    let server = shop().await;
    let request = EnqueueRequest::new("shop", "mail").unwrap();
    let jobs = (0..10_000)
        .map(|number: u32| EnqueueRequest {
            payload: Some(serde_json::value::to_raw_value(&number).unwrap()),
            ..request.clone()
        })
        .collect();
    let answer = server.client.batch(&BatchRequest { jobs, atomic: true }).await.unwrap();
    assert_eq!(answer.results.len(), 10_000);
    assert!(answer.results.iter().all(|item| item.status == 201));
    for at in [0, 4_999, 9_999] {
        let id = answer.results[at].job.as_ref().unwrap().id;
        let job = server.client.job(id).await.unwrap();
        assert_eq!(job.payload.unwrap().get(), at.to_string());
    }
}

//! Sizes, routes and methods.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Body;

use crate::server::{document, refused, shop, start_with};

#[tokio::test]
async fn a_body_that_is_declared_too_large_is_refused_unread() {
    let server = start_with(|config| config.max_body_bytes = 1000).await;
    // Nothing of the body is ever sent.
    let head = format!(
        "POST /api/v1/jobs HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 1001\r\nConnection: close\r\n\r\n",
        server.address
    );
    let answer = server.raw(&head).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("body_too_large"), "{answer}");
}

#[tokio::test]
async fn a_body_that_turns_out_too_large_is_refused() {
    let server = start_with(|config| config.max_body_bytes = 1000).await;
    let pieces = futures::stream::iter((0..4).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 300]))));
    let request = server
        .http
        .post(server.url("/api/v1/jobs"))
        .header("content-type", "application/json")
        .body(Body::wrap_stream(pieces));
    refused(request.send().await.unwrap(), 413, "body_too_large").await;
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let server = start_with(|config| config.body_timeout = Duration::from_millis(200)).await;
    let head = format!(
        "POST /api/v1/jobs HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{{",
        server.address
    );
    let answer = server.raw(&head).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("too_slow"), "{answer}");
}

#[tokio::test]
async fn a_large_body_is_taken_up_to_the_bound() {
    let server = start_with(|config| config.max_body_bytes = 8 << 20).await;
    server.apply(document()).await;
    let payload = format!("\"{}\"", "y".repeat(1_000_000));
    let item = format!(r#"{{"app": "shop", "job": "mail", "payload": {payload}}}"#);
    let body = format!(r#"{{"jobs": [{}]}}"#, [&*item; 8].join(","));
    let response = server.post("/api/v1/jobs/batch", &body).await;
    assert_eq!(response.status(), 200);
    let answer: robata_client::BatchAnswer = response.json().await.unwrap();
    let id = answer.results[7].job.as_ref().unwrap().id;
    assert_eq!(server.client.job(id).await.unwrap().payload.unwrap().get(), payload);
}

#[tokio::test]
async fn a_deep_body_is_refused_without_harm() {
    let server = shop().await;
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    for (path, body) in [
        ("/api/v1/jobs", deep.clone()),
        ("/api/v1/jobs/batch", format!("{{\"jobs\": {deep}}}")),
        ("/api/v1/apply", format!("{{\"document\": {deep}}}")),
        ("/api/v1/apps/shop/run", format!("{{\"command\": {deep}}}")),
    ] {
        let response = server.post(path, &body).await;
        let status = response.status().as_u16();
        let expected = if path.ends_with("batch") {
            vec![200]
        } else {
            vec![400, 422]
        };
        assert!(expected.contains(&status), "{path}: {status}");
        if status == 200 {
            let answer: robata_client::BatchAnswer = response.json().await.unwrap();
            assert_eq!(answer.results[0].status, 422);
        }
    }
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems_too() {
    let server = shop().await;
    refused(server.get("/api/v1/job").await, 404, "unknown_route").await;
    refused(server.get("/").await, 404, "unknown_route").await;
    let response = server.send(reqwest::Method::PATCH, "/api/v1/jobs", "{}").await;
    let allow = response.headers()["allow"].to_str().unwrap().to_owned();
    assert!(allow.contains("POST") && allow.contains("GET"), "{allow}");
    refused(response, 405, "method_not_allowed").await;
    let response = server.http.head(server.url("/api/v1/jobs")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    refused(server.post("/api/v1/jobs", "").await, 400, "invalid_json").await;
    let problem = refused(server.post("/api/v1/jobs", "{\n \"app\": ,").await, 400, "invalid_json").await;
    assert_eq!((problem.line, problem.column), (Some(2), Some(9)));
}

//! Health, readiness, metrics, queues and workers.

use robata_client::{Client, ClientError};
use serde_json::{Value, json};

use crate::server::{LONG, Worker, refused, shop, start};

#[tokio::test]
async fn health_and_readiness_are_told() {
    let server = start().await;
    assert_eq!(server.client.health().await.unwrap().status, "alive");
    let ready = server.client.ready().await.unwrap();
    assert!(ready.ready);
    let needs: Vec<(&str, bool)> = ready.needs.iter().map(|need| (&*need.name, need.ok)).collect();
    assert_eq!(needs, [("store", true), ("logs", true)]);
}

#[tokio::test]
async fn logs_that_cannot_be_written_degrade_and_a_store_that_does_not_serve_is_not_ready() {
    let server = shop().await;
    let logs = server.folder.path().join("logs");
    std::fs::remove_dir_all(&logs).unwrap();
    std::fs::write(&logs, "in the way").unwrap();
    let ready = server.client.ready().await.unwrap();
    assert!(ready.ready);
    let need = ready.needs.iter().find(|need| need.name == "logs").unwrap();
    assert!(!need.ok && need.message.is_some(), "{need:?}");
    tokio::time::timeout(LONG, server.store.close()).await.unwrap();
    let response = server.get("/readyz").await;
    assert_eq!(response.status(), 503);
    let ready = server.client.ready().await.unwrap();
    assert!(!ready.ready);
    assert!(!ready.needs.iter().find(|need| need.name == "store").unwrap().ok);
    // Being alive needs nothing.
    assert_eq!(server.get("/healthz").await.status(), 200);
    let metrics = server.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("robata_store_up 0"), "{metrics}");
}

#[tokio::test]
async fn metrics_count_jobs_by_line_and_state() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let id = server.mail().await;
    worker.start(id).await;
    server.mail().await;
    server
        .enqueue(r#"{"app": "shop", "job": "resize", "delay_seconds": 60}"#)
        .await;
    refused(
        server.post("/api/v1/jobs", r#"{"app": "x", "job": "y"}"#).await,
        404,
        "unknown_app",
    )
    .await;
    let response = server.get("/metrics").await;
    assert!(
        response.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let metrics = response.text().await.unwrap();
    for line in [
        "robata_jobs{queue=\"shop\",executor=\"docker\",state=\"queued\"} 1",
        "robata_jobs{queue=\"shop\",executor=\"docker\",state=\"running\"} 1",
        "robata_jobs{queue=\"images\",executor=\"docker\",state=\"scheduled\"} 1",
        "robata_enqueued_total{result=\"created\"} 3",
        "robata_enqueued_total{result=\"refused\"} 1",
        "robata_workers 1",
        "robata_attempts_held 1",
        "robata_store_up 1",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} is not in\n{metrics}"
        );
    }
}

#[tokio::test]
async fn queues_are_shown_by_name_with_their_lines() {
    let server = shop().await;
    server.apply(json!({"queues": {"images": {"max_running": 2}}})).await;
    server.mail().await;
    let queues: Value = server.get("/api/v1/queues").await.json().await.unwrap();
    assert_eq!(
        queues,
        json!({"queues": [
            {"queue": "images", "max_running": 2, "paused": null, "scheduled": 0, "queued": 0, "running": 0, "lines": []},
            {"queue": "shop", "max_running": null, "paused": null, "scheduled": 0, "queued": 1, "running": 0,
             "lines": [{"executor": "docker", "scheduled": 0, "queued": 1, "running": 0}]},
        ]})
    );
}

#[tokio::test]
async fn workers_are_shown() {
    let server = shop().await;
    assert!(server.client.workers().await.unwrap().is_empty());
    let worker = Worker::new(&server).await;
    let id = server.mail().await;
    worker.start(id).await;
    let workers = server.client.workers().await.unwrap();
    assert_eq!(workers.len(), 1);
    assert_eq!((workers[0].pid, workers[0].attempts), (7, 1));
    assert_eq!(workers[0].executors.values().next().unwrap().slots, 4);
}

#[tokio::test]
async fn the_document_is_served() {
    let server = start().await;
    let document: Value = server.get("/api/v1/openapi.json").await.json().await.unwrap();
    assert_eq!(document, serde_json::to_value(robata_api::openapi()).unwrap());
}

#[tokio::test]
async fn a_client_without_server_says_what_to_do() {
    // Bound and closed again: nobody listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let client = Client::new(&address.to_string(), None).unwrap();
    let error = client.health().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }));
    let text = error.to_string();
    assert!(
        text.contains(&address.to_string()) && text.contains("robata up"),
        "{text}"
    );
    for bad in ["ftp://x", "http://", "a b"] {
        assert!(
            matches!(Client::new(bad, None), Err(ClientError::InvalidServer { .. })),
            "{bad}"
        );
    }
}

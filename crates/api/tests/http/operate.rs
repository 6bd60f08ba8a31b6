//! Pause, drain, lost realms, and what was set aside.

use robata_core::{
    QueueName,
    store::{AttemptStore, JobStore, SetAside},
};
use serde_json::{Value, json};

use crate::server::{Worker, refused, shop};

#[tokio::test]
async fn a_queue_is_paused_and_resumed() {
    let server = shop().await;
    let id = server.mail().await;
    for reason in ["closed", "closed", "still closed"] {
        let body = json!({"reason": reason}).to_string();
        let response = server.post("/api/v1/queues/shop/pause", &body).await;
        assert_eq!(response.status(), 200);
        let queue: Value = response.json().await.unwrap();
        assert_eq!((&queue["queue"], &queue["queued"]), (&json!("shop"), &json!(1)));
        assert_eq!(queue["paused"]["reason"], reason);
        assert_eq!(queue["paused"]["by"], "local");
    }
    let shown: Value = server.get(&format!("/api/v1/jobs/{id}")).await.json().await.unwrap();
    assert_eq!(shown["waiting"]["reason"], "paused");
    assert_eq!(shown["waiting"]["message"], "still closed");
    let queues = server.client.queues().await.unwrap();
    assert!(
        queues
            .iter()
            .any(|queue| queue.queue.as_str() == "shop" && queue.paused.is_some())
    );
    let name = "shop".parse().unwrap();
    for _ in 0..2 {
        assert_eq!(server.client.resume_queue(&name).await.unwrap().paused, None);
    }
    // Without a body, too; and one that only a definition names.
    let response = server.post("/api/v1/queues/images/pause", "").await;
    assert_eq!(response.status(), 200);
    assert!(
        server
            .store
            .paused()
            .await
            .unwrap()
            .contains_key(&QueueName::new("images").unwrap())
    );
}

#[tokio::test]
async fn a_pause_that_cannot_be_is_refused() {
    let server = shop().await;
    let unknown = server.post("/api/v1/queues/shpo/pause", "{}").await;
    let problem = refused(unknown, 404, "unknown_queue").await;
    assert_eq!(problem.nearest, ["shop"]);
    refused(
        server.post("/api/v1/queues/a%2Fb/resume", "").await,
        404,
        "unknown_queue",
    )
    .await;
    let long = json!({"reason": "x".repeat(1025)}).to_string();
    refused(
        server.post("/api/v1/queues/shop/pause", &long).await,
        422,
        "invalid_request",
    )
    .await;
    refused(
        server.post("/api/v1/queues/shop/pause", r#"{"why": "x"}"#).await,
        422,
        "invalid_request",
    )
    .await;
    assert!(server.store.paused().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_worker_is_asked_to_drain() {
    let server = shop().await;
    Worker::new(&server).await;
    let id = server.client.workers().await.unwrap()[0].id;
    for _ in 0..2 {
        assert!(server.client.drain_worker(id).await.unwrap().draining);
    }
    assert!(server.client.workers().await.unwrap()[0].draining);
    let drain = |id: &str| format!("/api/v1/workers/{id}/drain");
    for unknown in ["x", "018f4a3e-0000-7000-8000-000000000000"] {
        refused(server.post(&drain(unknown), "").await, 404, "unknown_worker").await;
    }
    server.store.release(id).await.unwrap();
    refused(server.post(&drain(&id.to_string()), "").await, 409, "conflict").await;
}

#[tokio::test]
async fn what_ran_in_a_realm_that_is_gone_is_called_lost() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let job = server.mail().await;
    worker.start(job).await;
    let lost = r#"{"realm": "realm"}"#;
    let problem = refused(server.post("/api/v1/realms/lost", lost).await, 409, "conflict").await;
    assert!(problem.detail.contains("here"), "which worker is told: {problem:?}");
    let id = server.client.workers().await.unwrap()[0].id;
    server.store.release(id).await.unwrap();
    let answer = server.client.lose_realm("realm").await.unwrap();
    assert_eq!(
        (
            answer.attempts.len(),
            answer.attempts[0].job,
            answer.attempts[0].attempt
        ),
        (1, job, 1)
    );
    assert!(server.client.lose_realm("realm").await.unwrap().attempts.is_empty());
    let near = server.post("/api/v1/realms/lost", r#"{"realm": "raelm"}"#).await;
    assert_eq!(refused(near, 404, "unknown_realm").await.nearest, ["realm"]);
}

#[tokio::test]
async fn what_was_set_aside_is_listed_in_pages() {
    let server = shop().await;
    assert!(server.client.set_aside(None, 50).await.unwrap().messages.is_empty());
    let message = |n: u8| SetAside {
        source: "shop/docker".into(),
        reason: format!("reason {n}"),
        body: if n == 0 {
            vec![0xff, 0].into()
        } else {
            format!("body {n}").into()
        },
        attributes: [("n".to_owned(), n.to_string())].into(),
    };
    server.store.set_aside((0..3).map(message).collect()).await.unwrap();
    let page = server.client.set_aside(None, 2).await.unwrap();
    let bodies: Vec<_> = page
        .messages
        .iter()
        .filter_map(|message| message.body.as_deref())
        .collect();
    assert_eq!(bodies, ["body 2", "body 1"]);
    let rest = server.client.set_aside(page.next_before, 2).await.unwrap();
    assert_eq!((rest.messages.len(), rest.next_before), (1, None));
    let raw: Value = server.get("/api/v1/set-aside?limit=500").await.json().await.unwrap();
    let last = &raw["messages"][2];
    assert_eq!((&last["body_base64"], &last["bytes"]), (&json!("/wA="), &json!(2)));
    assert_eq!(
        (&last["attributes"]["n"], &last["truncated"]),
        (&json!("0"), &json!(false))
    );
    for bad in [
        "limit=0",
        "limit=501",
        "before=x",
        "before=9223372036854775808",
        "after=1",
    ] {
        refused(
            server.get(&format!("/api/v1/set-aside?{bad}")).await,
            400,
            "invalid_query",
        )
        .await;
    }
}

//! What a token with an app sees: its app, as if there were no other.

use reqwest::Method;
use robata_client::{AuditFilter, JobFilter};
use robata_core::Role;
use serde_json::{Value, json};

use crate::server::{Server, refused, start};

async fn two_apps() -> (Server, String) {
    let server = start().await;
    server
        .apply(json!({
            "queues": {"images": {"max_running": 2}, "shared": {"max_running": 3}},
            "apps": {
                "shop": {"image": "shop:1", "jobs": {"resize": {"queue": "images"}, "mail": {}, "both": {"queue": "shared"}}},
                "bank": {"image": "bank:1", "jobs": {"pay": {}, "both": {"queue": "shared"}}},
            },
        }))
        .await;
    for (app, job) in [
        ("shop", "mail"),
        ("shop", "both"),
        ("bank", "pay"),
        ("bank", "both"),
        ("bank", "pay"),
    ] {
        server.enqueue(&json!({"app": app, "job": job}).to_string()).await;
    }
    let root = server.token("root", Role::Admin, None).await;
    (server, root)
}

#[tokio::test]
async fn lists_hold_only_what_is_its_own() {
    let (server, root) = two_apps().await;
    let shop = server.client_as(&server.token("shop", Role::Operate, Some("shop")).await);
    let jobs = |filter: JobFilter| {
        let shop = shop.clone();
        async move {
            let jobs = shop.jobs(&filter).await.unwrap().jobs;
            jobs.iter().map(|job| job.app.to_string()).collect::<Vec<_>>()
        }
    };
    assert_eq!(jobs(JobFilter::default()).await, ["shop", "shop"]);
    assert_eq!(
        jobs(JobFilter {
            app: Some("shop".into()),
            ..Default::default()
        })
        .await,
        ["shop", "shop"]
    );
    // Another app is as empty as one that is not there.
    for app in ["bank", "nope"] {
        assert!(
            jobs(JobFilter {
                app: Some(app.into()),
                ..Default::default()
            })
            .await
            .is_empty()
        );
    }
    assert_eq!(
        jobs(JobFilter {
            queue: Some("shared".into()),
            ..Default::default()
        })
        .await,
        ["shop"]
    );
    // Page after page, from anywhere.
    let newest = server.client_as(&root).jobs(&JobFilter::default()).await.unwrap().jobs[0].id;
    let from = JobFilter {
        cursor: Some(newest.to_string()),
        limit: Some(1),
        ..Default::default()
    };
    assert_eq!(jobs(from).await, ["shop"]);
    let apps = shop.apps().await.unwrap();
    assert_eq!(apps.iter().map(|app| app.app.as_str()).collect::<Vec<_>>(), ["shop"]);
    // A queue that two apps share is nobody's alone.
    let queues = shop.queues().await.unwrap();
    let names: Vec<_> = queues.iter().map(|queue| queue.queue.as_str()).collect();
    assert_eq!(names, ["images", "shop"]);
    let shop_audit = shop.audit(&AuditFilter::default()).await.unwrap().records;
    assert!(!shop_audit.is_empty());
    for record in shop_audit {
        assert_eq!(record.app.map(|app| app.to_string()).as_deref(), Some("shop"));
    }
    let bank = AuditFilter {
        app: Some("bank".into()),
        ..Default::default()
    };
    assert!(shop.audit(&bank).await.unwrap().records.is_empty());
}

#[tokio::test]
async fn only_a_queue_of_its_own_is_paused() {
    let (server, _) = two_apps().await;
    let shop = server.token("shop", Role::Operate, Some("shop")).await;
    let mut told = Vec::new();
    for queue in ["bank", "shared", "nope"] {
        for verb in ["pause", "resume"] {
            let path = format!("/api/v1/queues/{queue}/{verb}");
            let response = server.send_as(&shop, Method::POST, &path, "").await;
            let problem = refused(response, 404, "unknown_queue").await;
            told.push((problem.detail.replace(queue, "Q"), problem.nearest));
        }
    }
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(server.client.queues().await.is_err());
    let response = server
        .send_as(&shop, Method::POST, "/api/v1/queues/images/pause", "{}")
        .await;
    assert_eq!(response.json::<Value>().await.unwrap()["paused"]["by"], "shop");
}

#[tokio::test]
async fn names_that_are_near_are_its_own() {
    let (server, _) = two_apps().await;
    let shop = server.token("shop", Role::Deploy, Some("shop")).await;
    for (method, path, body) in [
        (Method::GET, "/api/v1/apps/bnk", String::new()),
        (Method::PUT, "/api/v1/apps/bnk", "{}".into()),
        (Method::PUT, "/api/v1/apps/bnk/definitions/x", "{}".into()),
        (Method::DELETE, "/api/v1/apps/bnk", String::new()),
        (
            Method::POST,
            "/api/v1/apps/bnk/run",
            json!({"command": ["x"]}).to_string(),
        ),
        (
            Method::POST,
            "/api/v1/jobs",
            json!({"app": "bnk", "job": "pay"}).to_string(),
        ),
    ] {
        let response = server.send_as(&shop, method.clone(), path, &body).await;
        let problem = refused(response, 404, "unknown_app").await;
        assert!(problem.nearest.is_empty(), "{method} {path}: {problem:?}");
    }
    let near = server.get_as(&shop, "/api/v1/apps/shopp").await;
    assert_eq!(refused(near, 404, "unknown_app").await.nearest, ["shop"]);
    // One whose app is not there yet makes it, and sees no other meanwhile.
    let new = server.token("new", Role::Deploy, Some("ban")).await;
    let response = server
        .send_as(&new, Method::PUT, "/api/v1/apps/ban/definitions/x", "{}")
        .await;
    assert!(refused(response, 404, "unknown_app").await.nearest.is_empty());
    let response = server
        .send_as(&new, Method::PUT, "/api/v1/apps/ban", r#"{"image": "ban:1"}"#)
        .await;
    assert_eq!(response.status(), 201);
}

#[tokio::test]
async fn an_enqueuer_gets_the_job_it_made_and_sees_nothing_else() {
    let (server, root) = two_apps().await;
    let token = server.token("web", Role::Enqueue, Some("shop")).await;
    let body = json!({"app": "shop", "job": "mail", "idempotency_key": "k"}).to_string();
    let first = server.send_as(&token, Method::POST, "/api/v1/jobs", &body).await;
    assert_eq!(first.status(), 201);
    let first: Value = first.json().await.unwrap();
    let again = server.send_as(&token, Method::POST, "/api/v1/jobs", &body).await;
    assert_eq!(again.status(), 200);
    assert_eq!(again.json::<Value>().await.unwrap()["id"], first["id"]);
    let path = format!("/api/v1/jobs/{}", first["id"].as_str().unwrap());
    for path in [
        &path,
        &format!("{path}/logs"),
        "/api/v1/jobs",
        "/api/v1/apps",
        "/api/v1/queues",
        "/api/v1/audit",
    ] {
        let problem = refused(server.get_as(&token, path).await, 403, "forbidden").await;
        assert!(
            problem.detail.contains("role read") && problem.detail.contains("web has enqueue"),
            "{problem:?}"
        );
    }
    assert_eq!(server.get_as(&root, &path).await.status(), 200);
    // The same key of the other app is another key.
    let bank = server.token("bank", Role::Enqueue, Some("bank")).await;
    let body = json!({"app": "bank", "job": "pay", "idempotency_key": "k"}).to_string();
    assert_eq!(
        server
            .send_as(&bank, Method::POST, "/api/v1/jobs", &body)
            .await
            .status(),
        201
    );
}

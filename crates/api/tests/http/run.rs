//! One-offs.

use robata_client::RunRequest;
use serde_json::{Value, json};

use crate::server::{Worker, refused, shop, start};

#[tokio::test]
async fn a_one_off_takes_its_apps_settings_and_another_command() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let request = RunRequest {
        command: vec!["echo".into(), "hi".into()],
        env: [("A".to_owned(), "b".to_owned())].into(),
        timeout: Some("5m".into()),
        ..RunRequest::default()
    };
    let job = server.client.run(&"shop".parse().unwrap(), &request).await.unwrap();
    assert_eq!(
        (job.job.as_str(), job.queue.as_str(), job.max_attempts),
        ("run", "shop", 1)
    );
    let held = worker.start(job.id).await;
    let definition = &held.request.definition;
    assert_eq!(definition.image.as_deref(), Some("shop:1"));
    assert_eq!(definition.command.as_deref().unwrap(), ["echo", "hi"]);
    assert_eq!(definition.env["A"], "b");
    assert_eq!(definition.timeout.unwrap().as_secs(), 300);
    assert_eq!(held.request.definition_version, None);
}

#[tokio::test]
async fn a_one_off_of_a_definition_takes_its_settings() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let body = r#"{"job": "resize", "command": ["sh"], "image": "other:2"}"#;
    let response = server.post("/api/v1/apps/shop/run", body).await;
    assert_eq!(response.status(), 201);
    let job: Value = response.json().await.unwrap();
    assert_eq!(
        (&job["job"], &job["queue"], &job["max_attempts"]),
        (&json!("resize"), &json!("images"), &json!(1))
    );
    let held = worker.start(crate::server::id(&job)).await;
    assert_eq!(held.request.definition.image.as_deref(), Some("other:2"));
    assert_eq!(held.request.definition.env_allow, ["LOCALE"]);
}

#[tokio::test]
async fn a_bad_one_off_is_refused() {
    let server = shop().await;
    for (path, body, status, code) in [
        ("none", r#"{"command": ["x"]}"#, 404, "unknown_app"),
        (
            "shop",
            r#"{"command": ["x"], "job": "none"}"#,
            404,
            "unknown_definition",
        ),
        ("shop", "{}", 422, "invalid_request"),
        ("shop", r#"{"command": "x"}"#, 422, "invalid_request"),
        ("shop", r#"{"command": ["x"], "shell": true}"#, 422, "invalid_request"),
        (
            "shop",
            r#"{"command": ["x"], "timeout": "soon"}"#,
            422,
            "invalid_definitions",
        ),
        (
            "shop",
            r#"{"command": ["x"], "env": {"ROBATA_JOB_ID": "1"}}"#,
            422,
            "invalid_definitions",
        ),
        (
            "shop",
            r#"{"command": ["x"], "queue": "others"}"#,
            422,
            "queue_not_allowed",
        ),
    ] {
        let response = server.post(&format!("/api/v1/apps/{path}/run"), body).await;
        refused(response, status, code).await;
    }
}

#[tokio::test]
async fn an_executor_that_there_is_not_is_refused() {
    let server = crate::server::start_with(|config| {
        config.executors = vec!["docker".parse().unwrap(), "process".parse().unwrap()];
    })
    .await;
    server.apply(crate::server::document()).await;
    let body = r#"{"command": ["x"], "executor": "dokcer"}"#;
    let response = server.post("/api/v1/apps/shop/run", body).await;
    assert_eq!(refused(response, 422, "unknown_executor").await.nearest, ["docker"]);
}

#[tokio::test]
async fn an_app_without_definitions_can_run_one_offs() {
    let server = start().await;
    server.apply(json!({"apps": {"tools": {"image": "tools:1"}}})).await;
    for body in [r#"{"command": ["x"]}"#, r#"{"command": ["x"], "queue": "tools"}"#] {
        let response = server.post("/api/v1/apps/tools/run", body).await;
        assert_eq!(response.status(), 201);
    }
}

//! One job: what is taken, what comes back, what is refused.

use robata_core::{
    definition::{CatalogWrite, Definition},
    store::CatalogStore,
};
use serde_json::{Value, json};

use crate::server::{LONG, id, refused, shop, until};

#[tokio::test]
async fn a_job_is_stored_before_it_is_answered() {
    let server = shop().await;
    let body = r#"{"app": "shop", "job": "resize", "payload": {"a": 1}, "priority": -5, "labels": {"k": "v"},
                   "env": {"LOCALE": "de"}, "idempotency_key": "one", "expires_in": "1h30m"}"#;
    let response = server.post("/api/v1/jobs", body).await;
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["content-type"], "application/json");
    let job: Value = response.json().await.unwrap();
    let keys: Vec<&str> = job.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "app",
            "attempt",
            "cancel_requested_at",
            "created_at",
            "executor",
            "expires_at",
            "finished_at",
            "id",
            "idempotency_key",
            "job",
            "labels",
            "max_attempts",
            "message",
            "priority",
            "queue",
            "reason",
            "run_at",
            "started_at",
            "state",
            "waiting",
        ]
    );
    assert_eq!(job["state"], "queued");
    assert_eq!(job["queue"], "images");
    assert_eq!(job["executor"], "docker");
    assert_eq!(job["priority"], -5);
    assert_eq!(job["max_attempts"], 3);
    assert_eq!(job["labels"], json!({"k": "v"}));
    assert_eq!(job["reason"], Value::Null);
    let singly: Value = server
        .get(&format!("/api/v1/jobs/{}", job["id"].as_str().unwrap()))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(singly["payload"], json!({"a": 1}));
    assert_eq!(singly["attempts"], json!([]));
    assert_eq!(singly["id"], job["id"]);
}

#[tokio::test]
async fn payload_bytes_come_through_unchanged() {
    let server = shop().await;
    let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
    let large = format!("\"{}\"", "x".repeat((1 << 20) - 2));
    for payload in [
        r#"{"b":1,"a":2}"#,
        r#"{"a":1,"a":2}"#,
        r#"{ "a" : [ 1 ,2 ] }"#,
        r#""\u0000""#,
        r#""\ud83d\ude00 \u00e4 \/""#,
        "9007199254740993",
        "123456789012345678901234567890.000",
        "-0",
        "1E+400",
        "\"ä😀\"",
        "null",
        &deep,
        &large,
    ] {
        let body = format!(r#"{{"app": "shop", "job": "mail", "payload": {payload} }}"#);
        let job = server.enqueue(&body).await;
        let singly = server.client.job(id(&job)).await.unwrap();
        let came = singly.payload.as_ref().map_or("null", |payload| payload.get());
        assert!(came == payload, "{:.80} became {came:.80}", payload);
    }
    let without = server.enqueue(r#"{"app": "shop", "job": "mail"}"#).await;
    let singly = server.get(&format!("/api/v1/jobs/{}", id(&without))).await;
    let singly: Value = singly.json().await.unwrap();
    assert!(singly.as_object().unwrap().contains_key("payload"));
    assert_eq!(singly["payload"], Value::Null);
}

#[tokio::test]
async fn a_payload_that_cannot_be_kept_is_refused_with_the_reason() {
    let server = shop().await;
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    for (payload, status, code, words) in [
        (r#""\ud800""#, 422, "invalid_payload", "lone surrogate"),
        (r#"["\udc00x"]"#, 422, "invalid_payload", "lone surrogate"),
        (&*deep, 422, "invalid_payload", "deeper than 128"),
        (&*large, 413, "payload_too_large", "1048576"),
        ("{,}", 400, "invalid_json", "line 1, column 44"),
        ("", 400, "invalid_json", "expected value"),
    ] {
        let body = format!(r#"{{"app": "shop", "job": "mail", "payload": {payload}}}"#);
        let problem = refused(server.post("/api/v1/jobs", &body).await, status, code).await;
        assert!(problem.detail.contains(words), "{problem:?}");
    }
    assert!(server.client.jobs(&Default::default()).await.unwrap().jobs.is_empty());
}

#[tokio::test]
async fn a_known_key_answers_with_its_first_job() {
    let server = shop().await;
    let first = server
        .enqueue(
            r#"{"app": "shop", "job": "mail", "payload": {"a": [1, 2]}, "idempotency_key": "k",
                "labels": {"x": "1", "y": "2"}, "priority": 0}"#,
        )
        .await;
    let same = r#"{"labels":{"y":"2","x":"1"},"idempotency_key":"k","payload":{"a":[1,2]},"job":"mail","app":"shop"}"#;
    let again = server.post("/api/v1/jobs", same).await;
    assert_eq!(again.status(), 200);
    assert_eq!(again.json::<Value>().await.unwrap()["id"], first["id"]);
    for other in [
        r#""payload": {"a": [1, 3]}, "labels": {"x": "1", "y": "2"}"#,
        r#""payload": {"a": [1, 2]}, "labels": {"x": "1"}"#,
        r#""payload": {"a": [1, 2]}, "labels": {"x": "1", "y": "2"}, "priority": 1"#,
        r#""payload": {"a": [1, 2]}, "labels": {"x": "1", "y": "2"}, "delay_seconds": 1"#,
    ] {
        let body = format!(r#"{{"app": "shop", "job": "mail", "idempotency_key": "k", {other}}}"#);
        refused(server.post("/api/v1/jobs", &body).await, 409, "key_reused").await;
    }
    let all = server.client.jobs(&Default::default()).await.unwrap().jobs;
    assert_eq!(all.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_concurrent_enqueues_with_one_key_make_one_job() {
    let server = shop().await;
    let body = r#"{"app": "shop", "job": "mail", "payload": 1, "idempotency_key": "k"}"#;
    let answers = futures::future::join_all((0..1000).map(|_| async {
        let response = server.post("/api/v1/jobs", body).await;
        let status = response.status().as_u16();
        let job: Value = response.json().await.unwrap();
        (status, id(&job))
    }))
    .await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|(status, _)| *status == 200).count(), 999);
    assert!(answers.iter().all(|(_, id)| *id == answers[0].1));
    assert_eq!(server.client.jobs(&Default::default()).await.unwrap().jobs.len(), 1);
}

#[tokio::test]
async fn an_enqueuer_sets_only_what_the_definition_lets_him() {
    let server = shop().await;
    server
        .apply(json!({"apps": {"other": {"image": "x", "jobs": {"a": {"queue": "secret"}}}}}))
        .await;
    for (more, code) in [
        (r#""env": {"PATH": "/evil"}"#, "env_not_allowed"),
        (r#""env": {"LOCALE": "de", "LD_PRELOAD": "x"}"#, "env_not_allowed"),
        (r#""env": {"ROBATA_JOB_ID": "x"}"#, "env_not_allowed"),
        (r#""queue": "secret""#, "queue_not_allowed"),
        (r#""queue": "other""#, "queue_not_allowed"),
        (r#""image": "evil""#, "invalid_request"),
        (r#""command": ["evil"]"#, "invalid_request"),
        (r#""executor": "process""#, "invalid_request"),
        (r#""definition": {}"#, "invalid_request"),
    ] {
        let body = format!(r#"{{"app": "shop", "job": "resize", {more}}}"#);
        refused(server.post("/api/v1/jobs", &body).await, 422, code).await;
    }
    // A queue that a definition of its app names may be chosen, by another definition's jobs, too.
    let job = server
        .enqueue(r#"{"app": "shop", "job": "mail", "queue": "images"}"#)
        .await;
    assert_eq!(job["queue"], "images");
    assert_eq!(server.client.jobs(&Default::default()).await.unwrap().jobs.len(), 1);
}

#[tokio::test]
async fn bad_options_are_refused_in_words() {
    let server = shop().await;
    let labels: Vec<String> = (0..65).map(|n| format!("\"l{n}\": \"\"")).collect();
    let labels = format!("\"labels\": {{{}}}", labels.join(", "));
    let key = format!("\"idempotency_key\": \"{}\"", "k".repeat(257));
    for (more, code, words) in [
        (r#""priority": 101"#, "invalid", "-100 to 100"),
        (r#""priority": 3000"#, "invalid", "-100 to 100"),
        (r#""delay_seconds": -1"#, "invalid", "delay_seconds"),
        (r#""delay_seconds": 1e12"#, "invalid", "ten years"),
        (
            r#""delay_seconds": 1, "run_at": "2030-01-01T00:00:00Z""#,
            "invalid",
            "exclude",
        ),
        (
            r#""run_at": "tomorrow""#,
            "invalid_request",
            "run_at: \"tomorrow\" is no RFC 3339 time",
        ),
        (r#""expires_in": "soon""#, "invalid_request", "is no duration"),
        (r#""expires_in": 0"#, "invalid", "expires_in"),
        (r#""idempotency_key": """#, "invalid", "1 to 256"),
        (&key, "invalid", "1 to 256"),
        (&labels, "too_many_labels", "65 labels; at most 64"),
        (r#""labels": {"a=b": "c"}"#, "invalid_label", "no '='"),
        (
            r#""labels": {"a": 1}"#,
            "invalid_request",
            "labels.a: invalid type: integer",
        ),
        (
            r#""labels": {"a": "\u001b[2J"}"#,
            "invalid_label",
            "no control characters",
        ),
        (
            r#""labels": {"a": "\u009b2J"}"#,
            "invalid_label",
            "no control characters",
        ),
        (
            r#""labels": {"a": "two\nlines"}"#,
            "invalid_label",
            "no control characters",
        ),
        (r#""priorty": 1"#, "invalid_request", "did you mean priority?"),
    ] {
        let body = format!(r#"{{"app": "shop", "job": "mail", {more}}}"#);
        let problem = refused(server.post("/api/v1/jobs", &body).await, 422, code).await;
        assert!(problem.detail.contains(words), "{problem:?}");
    }
}

#[tokio::test]
async fn an_unknown_name_tells_the_nearest() {
    let server = shop().await;
    let response = server.post("/api/v1/jobs", r#"{"app": "shpo", "job": "mail"}"#).await;
    let problem = refused(response, 404, "unknown_app").await;
    assert_eq!(problem.nearest, ["shop"]);
    assert!(problem.detail.contains("did you mean shop?"), "{problem:?}");
    let response = server.post("/api/v1/jobs", r#"{"app": "shop", "job": "rezise"}"#).await;
    assert_eq!(refused(response, 404, "unknown_definition").await.nearest, ["resize"]);
    let response = server.post("/api/v1/jobs", r#"{"app": "a b", "job": "x"}"#).await;
    let problem = refused(response, 422, "invalid_request").await;
    assert!(problem.detail.contains("app: \"a b\" is no app name"), "{problem:?}");
}

#[tokio::test]
async fn a_delayed_job_is_scheduled() {
    let server = shop().await;
    let job = server
        .enqueue(r#"{"app": "shop", "job": "mail", "delay_seconds": 3600}"#)
        .await;
    assert_eq!(job["state"], "scheduled");
    let job = server
        .enqueue(r#"{"app": "shop", "job": "mail", "run_at": "2099-01-01T00:00:00Z", "expires_in": 60}"#)
        .await;
    assert_eq!(job["state"], "scheduled");
    assert_eq!(job["run_at"], "2099-01-01T00:00:00.000Z");
    assert_eq!(job["expires_at"], "2099-01-01T00:01:00.000Z");
}

#[tokio::test]
async fn a_definition_that_came_by_another_door_is_found() {
    let server = shop().await;
    // The API has its catalog in memory now.
    server.enqueue(r#"{"app": "shop", "job": "mail"}"#).await;
    let definition = Definition {
        image: Some("x".into()),
        ..Definition::default()
    };
    let options = serde_json::Map::from_iter([("image".to_owned(), "x".into())]);
    let revision = server.store.catalog().await.unwrap().revision;
    let write = CatalogWrite::Job(
        "shop".parse().unwrap(),
        "new".parse().unwrap(),
        options,
        definition.into(),
    );
    server
        .store
        .change_catalog(revision, vec![write], "test")
        .await
        .unwrap();
    until("the new definition is known", || async {
        let response = server.post("/api/v1/jobs", r#"{"app": "shop", "job": "new"}"#).await;
        response.status() == 201
    })
    .await;
}

#[tokio::test]
async fn a_known_key_answers_with_its_first_job_whatever_became_of_the_definition() {
    let server = shop().await;
    let requests = [
        r#"{"app": "shop", "job": "resize", "idempotency_key": "gone", "payload": 1}"#,
        r#"{"app": "shop", "job": "mail", "idempotency_key": "queue", "queue": "images"}"#,
        r#"{"app": "shop", "job": "mail", "idempotency_key": "env", "env": {"LOCALE": "de"}}"#,
    ];
    server
        .apply(json!({"apps": {"shop": {"image": "shop:1", "jobs": {"mail": {"env_allow": ["LOCALE"]}}}}}))
        .await;
    let mut first = Vec::new();
    for request in requests {
        first.push(id(&server.enqueue(request).await));
    }
    server
        .apply(json!({"apps": {"shop": {"image": "shop:1", "jobs": {"mail": {"env_allow": []}}}}}))
        .await;
    let shop = "shop".parse().unwrap();
    server
        .client
        .delete_definition(&shop, &"resize".parse().unwrap())
        .await
        .unwrap();
    let again = |requests: Vec<String>, atomic| {
        let server = &server;
        async move {
            let body = format!(r#"{{"jobs": [{}], "atomic": {atomic}}}"#, requests.join(","));
            let response = server.post("/api/v1/jobs/batch", &body).await;
            assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
            let answer: robata_client::BatchAnswer = response.json().await.unwrap();
            answer.results
        }
    };
    for (request, first) in requests.iter().zip(&first) {
        let response = server.post("/api/v1/jobs", request).await;
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        assert_eq!(id(&response.json().await.unwrap()), *first);
    }
    for atomic in [false, true] {
        let mut batch: Vec<String> = requests.map(str::to_owned).to_vec();
        batch.insert(1, r#"{"app": "shop", "job": "mail"}"#.to_owned());
        let results = again(batch, atomic).await;
        let told: Vec<_> = results
            .iter()
            .map(|item| (item.status, item.job.as_ref().unwrap().id))
            .collect();
        assert_eq!(told[0], (200, first[0]));
        assert_eq!(told[1].0, 201);
        assert_eq!((told[2], told[3]), ((200, first[1]), (200, first[2])));
    }
    // Another request under a known key, and a key that is not known, are refused as before.
    let clash = r#"{"app": "shop", "job": "resize", "idempotency_key": "gone", "payload": 2}"#;
    let unknown = r#"{"app": "shop", "job": "resize", "idempotency_key": "new"}"#;
    refused(server.post("/api/v1/jobs", clash).await, 409, "key_reused").await;
    refused(server.post("/api/v1/jobs", unknown).await, 404, "unknown_definition").await;
    let results = again(vec![clash.to_owned(), unknown.to_owned()], false).await;
    assert_eq!(results.iter().map(|item| item.status).collect::<Vec<_>>(), [409, 404]);
}

#[tokio::test]
async fn single_and_batch_take_a_newer_catalog_alike() {
    for how in ["single", "batch"] {
        let server = shop().await;
        // The API has its catalog in memory now, and another process changes the store's: nobody hints at it.
        server.enqueue(r#"{"app": "shop", "job": "mail"}"#).await;
        let (mut catalog, other) = (
            server.store.catalog().await.unwrap(),
            json!({"apps": {"shop": {"image": "shop:1", "jobs": {
            "mail": {"env_allow": ["LOCALE"]}, "more": {"queue": "night"}}}}}),
        );
        let plan = catalog
            .plan(&robata_core::definition::Document::read(&other).unwrap(), false, &[])
            .unwrap();
        catalog = server
            .store
            .change_catalog(catalog.revision, plan.writes, "test")
            .await
            .unwrap();
        assert!(catalog.revision > 1);
        for request in [
            r#"{"app": "shop", "job": "more"}"#,
            r#"{"app": "shop", "job": "mail", "queue": "night"}"#,
            r#"{"app": "shop", "job": "mail", "env": {"LOCALE": "de"}}"#,
        ] {
            let response = match how {
                "single" => server.post("/api/v1/jobs", request).await,
                _ => {
                    let body = format!(r#"{{"jobs": [{request}], "atomic": true}}"#);
                    server.post("/api/v1/jobs/batch", &body).await
                }
            };
            assert!(
                response.status().is_success(),
                "{how}: {}",
                response.text().await.unwrap()
            );
        }
    }
}

#[tokio::test]
async fn without_its_store_the_api_says_when_to_try_again() {
    let server = shop().await;
    server.enqueue(r#"{"app": "shop", "job": "mail"}"#).await;
    tokio::time::timeout(LONG, server.store.close()).await.unwrap();
    let response = server.post("/api/v1/jobs", r#"{"app": "shop", "job": "mail"}"#).await;
    assert!(response.headers().contains_key("retry-after"));
    refused(response, 503, "unavailable").await;
}

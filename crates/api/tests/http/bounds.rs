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

/// Announces a large batch, whose body is never sent: it holds the room that it was given.
async fn hold_room(address: std::net::SocketAddr) -> tokio::net::TcpStream {
    use tokio::io::AsyncWriteExt;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /api/v1/jobs/batch HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        address,
        1 << 20
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_small_body_of_unknown_length_needs_no_room_and_who_waits_for_room_is_told_so() {
    let server = start_with(|config| {
        config.max_bodies_bytes = 1 << 20;
        config.body_timeout = Duration::from_secs(2);
    })
    .await;
    server.apply(document()).await;
    let address = server.address;
    let large = format!(r#"{{"jobs": [{}]}}"#, " ".repeat(100 << 10));
    // The first one holds the room until it is given up, then the second one does, which came before the large body:
    // that waits for longer than it may.
    let mut held = Vec::new();
    let mut tries = 0;
    loop {
        let first = hold_room(address).await;
        crate::server::until("the room is taken", || async {
            let asked = server.post("/api/v1/jobs/batch", &large);
            tokio::time::timeout(Duration::from_millis(300), asked).await.is_err()
        })
        .await;
        let second = hold_room(address).await;
        let response = server.post("/api/v1/jobs/batch", &large).await;
        held.extend([first, second]);
        if response.status() == 503 {
            assert!(response.headers().contains_key("retry-after"));
            break;
        }
        // It came before the second one after all.
        tries += 1;
        assert!(tries < 5, "{response:?}");
    }
    let chunked = |text: String| {
        let pieces = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(text))]);
        server
            .http
            .post(server.url("/api/v1/jobs"))
            .header("content-type", "application/json")
            .body(Body::wrap_stream(pieces))
            .send()
    };
    let small = chunked(r#"{"app": "shop", "job": "mail"}"#.to_owned()).await.unwrap();
    assert_eq!(small.status(), 201);
    drop(held);
}

#[tokio::test]
async fn each_kind_of_body_has_its_own_bound() {
    let server = start_with(|config| {
        config.max_payload_bytes = 1000;
        config.max_document_bytes = 10_000;
    })
    .await;
    server.apply(document()).await;
    let room = " ".repeat(1 << 20);
    let job = |payload: &str| format!(r#"{{"app": "shop", "job": "mail", "payload": "{payload}"{room}}}"#);
    refused(
        server.post("/api/v1/jobs", &job(&"p".repeat(1000))).await,
        413,
        "body_too_large",
    )
    .await;
    // In a batch it is that one job's fault.
    let body = format!(
        r#"{{"jobs": [{}, {{"app": "shop", "job": "mail"}}]}}"#,
        job(&"p".repeat(1000))
    );
    let answer: robata_client::BatchAnswer = server.post("/api/v1/jobs/batch", &body).await.json().await.unwrap();
    assert_eq!((answer.results[0].status, answer.results[1].status), (413, 201));
    let spaces = " ".repeat(10_000);
    for (method, path, body) in [
        (reqwest::Method::POST, "/api/v1/apply", "{\"document\": {}}"),
        (reqwest::Method::PUT, "/api/v1/apps/shop", "{}"),
        (reqwest::Method::PUT, "/api/v1/apps/shop/definitions/mail", "{}"),
        (reqwest::Method::POST, "/api/v1/apps/shop/run", "{\"command\": []}"),
    ] {
        let large = server.send(method, path, &format!("{body}{spaces}")).await;
        refused(large, 413, "body_too_large").await;
    }
    server.apply(document()).await;
}

#[tokio::test]
async fn labels_are_counted_in_a_large_request_too() {
    let server = shop().await;
    let labels: Vec<String> = (0..20_000).map(|n| format!("\"l{n}\": \"\"")).collect();
    let body = format!(
        r#"{{"app": "shop", "job": "mail", "labels": {{{}}}}}"#,
        labels.join(",")
    );
    let problem = refused(server.post("/api/v1/jobs", &body).await, 422, "too_many_labels").await;
    assert!(problem.detail.contains("20000 labels; at most 64"), "{problem:?}");
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
async fn a_query_parameter_that_a_route_does_not_know_is_refused_on_every_route() {
    let server = shop().await;
    let job = server.mail().await;
    let document: serde_json::Value = server.get("/api/v1/openapi.json").await.json().await.unwrap();
    let mut routes = vec![("get".to_owned(), "/api/v1/openapi.json".to_owned())];
    for (path, methods) in document["paths"].as_object().unwrap() {
        routes.extend(
            methods
                .as_object()
                .unwrap()
                .keys()
                .map(|method| (method.clone(), path.clone())),
        );
    }
    assert!(routes.len() > 20, "{routes:?}");
    for (method, path) in routes {
        let path = path
            .replace("{id}", &job.to_string())
            .replace("{app}", "shop")
            .replace("{job}", "mail")
            .replace("{queue}", "shop");
        let method = method.to_uppercase().parse().unwrap();
        let response = server.send(method, &format!("{path}?no_such_parameter=1"), "").await;
        let problem = refused(response, 400, "invalid_query").await;
        assert!(problem.detail.contains("no_such_parameter"), "{path}: {problem:?}");
    }
    let problem = refused(server.get("/api/v1/jobs?stat=queued").await, 400, "invalid_query").await;
    assert!(problem.detail.contains("did you mean \"state\"?"), "{problem:?}");
    assert_eq!(server.get("/api/v1/jobs?state=queued&state=failed").await.status(), 200);
    // Nothing was done by any of these.
    assert_eq!(
        server.client.job(job).await.unwrap().state.known(),
        Some(robata_core::JobState::Queued)
    );
    assert_eq!(server.client.apps().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_that_stands_twice_in_settings_is_refused() {
    let server = shop().await;
    let twice = r#"{"image": "a", "image": "b"}"#;
    for (method, path, body) in [
        (reqwest::Method::PUT, "/api/v1/apps/shop", twice.to_owned()),
        (
            reqwest::Method::PUT,
            "/api/v1/apps/shop/definitions/mail",
            r#"{"resources": {"cpu": 1, "cpu": 2}}"#.to_owned(),
        ),
        (
            reqwest::Method::POST,
            "/api/v1/apply",
            format!(r#"{{"document": {{"apps": {{"shop": {twice}}}}}}}"#),
        ),
    ] {
        let problem = refused(server.send(method, path, &body).await, 422, "invalid_request").await;
        assert!(problem.detail.contains("stands twice"), "{problem:?}");
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

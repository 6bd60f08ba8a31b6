//! Web pages of other origins, rebound host names, and forms.

use crate::server::{refused, shop};

const JOB: &str = r#"{"app": "shop", "job": "mail"}"#;

#[tokio::test]
async fn a_rebound_host_name_gets_nothing() {
    let server = shop().await;
    for (path, is_post) in [
        ("/api/v1/jobs", true),
        ("/api/v1/apply", true),
        ("/api/v1/jobs", false),
        ("/healthz", false),
        ("/metrics", false),
        ("/nothing", false),
    ] {
        let url = server.url(path);
        let request = if is_post {
            server
                .http
                .post(url)
                .header("content-type", "application/json")
                .body(JOB)
        } else {
            server.http.get(url)
        };
        let response = request.header("host", "evil.example:7070").send().await.unwrap();
        refused(response, 403, "host_not_allowed").await;
    }
    for host in ["localhost:1", "[::1]:80", "127.0.0.9"] {
        let response = server
            .http
            .get(server.url("/healthz"))
            .header("host", host)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{host}");
    }
    assert!(server.client.jobs(&Default::default()).await.unwrap().jobs.is_empty());
}

#[tokio::test]
async fn a_request_names_exactly_one_host() {
    let server = shop().await;
    for head in [
        "GET /healthz HTTP/1.1\r\n",
        "GET /healthz HTTP/1.0\r\n",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n",
        "GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n",
    ] {
        let answer = server.raw(&format!("{head}Connection: close\r\n\r\n")).await;
        assert!(answer.contains(" 400 "), "{head}: {answer}");
        assert!(!answer.contains("alive"), "{head}: {answer}");
    }
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing() {
    let server = shop().await;
    let (own, other_port) = (format!("http://{}", server.address), "http://127.0.0.1:1".to_owned());
    let evil = "http://evil.example".to_owned();
    let null = "null".to_owned();
    let lookalike = format!("http://{}.evil.example", server.address);
    for path in [
        "/api/v1/jobs",
        "/api/v1/jobs/batch",
        "/api/v1/apply",
        "/api/v1/apps/shop/run",
    ] {
        for origin in [&evil, &null, &other_port, &lookalike] {
            let request = server.http.post(server.url(path)).header("origin", origin);
            let request = request.header("content-type", "application/json").body(JOB);
            refused(request.send().await.unwrap(), 403, "foreign_origin").await;
        }
        let request = server
            .http
            .post(server.url(path))
            .header("sec-fetch-site", "cross-site");
        let request = request.header("content-type", "application/json").body(JOB);
        refused(request.send().await.unwrap(), 403, "foreign_origin").await;
    }
    let request = server
        .http
        .delete(server.url("/api/v1/apps/shop"))
        .header("origin", &evil);
    refused(request.send().await.unwrap(), 403, "foreign_origin").await;
    assert!(server.client.jobs(&Default::default()).await.unwrap().jobs.is_empty());
    assert_eq!(server.client.apps().await.unwrap().len(), 1);

    // A page that this server itself serves may.
    let request = server.http.post(server.url("/api/v1/jobs")).header("origin", own);
    let request = request.header("sec-fetch-site", "same-origin");
    let request = request.header("content-type", "application/json").body(JOB);
    assert_eq!(request.send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_form_is_not_taken_for_json() {
    let server = shop().await;
    for media_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "text/plain; application/json",
        "",
    ] {
        let request = server
            .http
            .post(server.url("/api/v1/jobs"))
            .header("content-type", media_type);
        refused(request.body(JOB).send().await.unwrap(), 415, "unsupported_media_type").await;
    }
    let request = server.http.post(server.url("/api/v1/jobs")).body(JOB);
    refused(request.send().await.unwrap(), 415, "unsupported_media_type").await;
    for media_type in ["application/json", "Application/JSON; charset=utf-8"] {
        let request = server
            .http
            .post(server.url("/api/v1/jobs"))
            .header("content-type", media_type);
        assert_eq!(request.body(JOB).send().await.unwrap().status(), 201);
    }
}

#[tokio::test]
async fn no_header_opens_the_api_to_other_origins() {
    let server = shop().await;
    let preflight = server
        .http
        .request(reqwest::Method::OPTIONS, server.url("/api/v1/jobs"))
        .header("origin", "http://evil.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-private-network", "true");
    let plain = server
        .http
        .get(server.url("/api/v1/jobs"))
        .header("origin", "http://evil.example");
    for request in [preflight, plain] {
        let response = request.send().await.unwrap();
        let cors = response
            .headers()
            .keys()
            .find(|name| name.as_str().starts_with("access-control"));
        assert_eq!(cors, None);
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    }
}

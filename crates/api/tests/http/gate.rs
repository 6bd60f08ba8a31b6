//! What others were taken by (paths that look exempt, tokens in wrong places, bodies before authentication): nothing of it
//! gets past the gate.

use std::time::Duration;

use reqwest::Method;
use robata_core::Role;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    server::{LONG, Server, refused, shop, start_with},
    tokens::admin,
};

/// A connection that is kept, over which raw requests are asked one after the other; bodies are read by their length.
struct Raw<'s> {
    server: &'s Server,
    stream: Option<TcpStream>,
}

impl<'s> Raw<'s> {
    fn new(server: &'s Server) -> Self {
        Self { server, stream: None }
    }

    /// The status of the answer, and its body.
    async fn ask(&mut self, method: &str, target: &str, headers: &str) -> (u16, String) {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => TcpStream::connect(self.server.address).await.unwrap(),
        };
        let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let asked = async {
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                answer.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(answer).unwrap().to_lowercase();
            let status = head[9..12].parse().unwrap();
            let field = |name: &str| {
                head.lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(|value| value.trim().to_owned())
            };
            let length = field("content-length:").map_or(0, |length| length.parse().unwrap());
            let mut body = vec![0; if method == "HEAD" { 0 } else { length }];
            stream.read_exact(&mut body).await.unwrap();
            let closes = field("connection:").as_deref() == Some("close");
            (status, String::from_utf8_lossy(&body).into_owned(), closes)
        };
        let (status, body, closes) = tokio::time::timeout(LONG, asked).await.unwrap();
        self.stream = (!closes).then_some(stream);
        (status, body)
    }
}

async fn paths(server: &Server, token: &str) -> Vec<String> {
    let document: Value = server.get_as(token, "/api/v1/openapi.json").await.json().await.unwrap();
    let open = ["/healthz", "/readyz"];
    let paths = document["paths"].as_object().unwrap().keys();
    let paths = paths.filter(|path| !open.contains(&path.as_str())).cloned();
    let mut paths: Vec<_> = paths.chain(["/api/v1/openapi.json".to_owned()]).collect();
    paths.push("/".to_owned());
    assert!(paths.len() > 20, "{paths:?}");
    let fill = |path: &String| {
        let path = path
            .replace("{app}", "shop")
            .replace("{job}", "mail")
            .replace("{queue}", "shop");
        path.replace("{id}", "018f4a3e-0000-7000-8000-000000000000")
            .replace("{name}", "root")
    };
    paths.iter().map(fill).collect()
}

/// Ways in which a path was made to look like another one.
fn disguises(path: &str) -> Vec<String> {
    let slashes = path.replace('/', "//");
    let encoded = format!("/{}", path[1..].replace('/', "%2f"));
    let upper = path.to_uppercase();
    let mut all = vec![path.to_owned(), slashes, encoded.clone(), encoded.to_uppercase(), upper];
    for suffix in [
        "/",
        "//",
        ".",
        "/.",
        "/..",
        "/../",
        "%2f",
        "%2e",
        "%00",
        ";",
        ";x",
        ";/healthz",
        "/healthz",
        "/readyz",
        "/configs",
        "%2fhealthz",
        "/..%2fhealthz",
        "/%2e%2e/healthz",
        "?/healthz",
        "?x=/healthz",
        "#/healthz",
        ".json",
        "%20",
        "%0d%0a",
        "\\",
        "/\\..\\healthz",
        "%5c",
        "*",
    ] {
        if !suffix.starts_with('#') {
            all.push(format!("{path}{suffix}"));
        }
    }
    for prefix in [
        "/",
        "/.",
        "/./",
        "/healthz",
        "/healthz/..",
        "/healthz/%2e%2e",
        "/healthz%2f..",
        "/healthz;",
        "/readyz/../",
        "/x/..",
        "/%2e",
        "/static",
        "/api/v1/openapi.json/..",
        "/api/v2/..",
    ] {
        all.push(format!("{prefix}{path}"));
    }
    all.push(format!("http://localhost{path}"));
    all
}

#[tokio::test]
async fn without_a_token_no_disguise_of_any_path_gets_in() {
    let server = shop().await;
    let token = admin(&server).await;
    let mut raw = Raw::new(&server);
    let mut asked = 0;
    for path in paths(&server, &token).await {
        for disguise in disguises(&path) {
            for method in ["GET", "POST"] {
                let (status, body) = raw.ask(method, &disguise, "").await;
                assert_eq!(status, 401, "{method} {disguise}: {body}");
                asked += 1;
            }
        }
        for method in [
            "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get", "X",
        ] {
            let (status, body) = raw.ask(method, &path, "").await;
            assert_eq!(status, 401, "{method} {path}: {body}");
        }
    }
    assert!(asked > 1000, "{asked}");
    // The two that are open are open as they are written, and nothing beside them.
    for path in ["/healthz", "/readyz"] {
        assert_eq!(raw.ask("GET", path, "").await.0, 200);
        for disguise in disguises(path).into_iter().filter(|disguise| disguise != path) {
            let (status, body) = raw.ask("GET", &disguise, "").await;
            let same = disguise == format!("http://localhost{path}");
            let expected: &[u16] = match disguise.split_once('?') {
                _ if same => &[200],
                Some((open, _)) if open == path => &[400],
                _ => &[401],
            };
            assert!(expected.contains(&status), "{disguise}: {status} {body}");
        }
    }
}

#[tokio::test]
async fn a_disguise_gets_nobody_more_than_their_role() {
    let server = shop().await;
    let root = admin(&server).await;
    let token = server.token("web", Role::Enqueue, Some("shop")).await;
    let mut raw = Raw::new(&server);
    let header = format!("Authorization: Bearer {token}\r\n");
    for path in paths(&server, &root).await {
        if path == "/api/v1/openapi.json" {
            continue;
        }
        for disguise in disguises(&path) {
            let (status, body) = raw.ask("GET", &disguise, &header).await;
            assert!([400, 403, 404, 405].contains(&status), "{disguise}: {status} {body}");
        }
    }
}

#[tokio::test]
async fn headers_of_proxies_change_nothing() {
    let server = shop().await;
    let token = admin(&server).await;
    let mut raw = Raw::new(&server);
    for header in [
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Host: localhost",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Uri: /healthz",
        "X-Forwarded-User: root",
        "X-Forwarded-Prefix: /healthz",
        "X-Original-URL: /healthz",
        "X-Rewrite-URL: /healthz",
        "X-Real-IP: 127.0.0.1",
        "X-HTTP-Method-Override: GET",
        "X-Remote-User: root",
        "Remote-User: root",
        "Forwarded: for=127.0.0.1;host=localhost",
        "Via: 1.1 localhost",
        "X-Robata-Local: 1",
        "Proxy-Authorization: Bearer x",
    ] {
        assert_eq!(
            raw.ask("GET", "/api/v1/apps", &format!("{header}\r\n")).await.0,
            401,
            "{header}"
        );
        let hijack = header.replace("/healthz", "/api/v1/apps");
        let (status, body) = raw.ask("GET", "/healthz", &format!("{hijack}\r\n")).await;
        assert!(status == 200 && body.contains("alive"), "{hijack}: {body}");
        // Nor do they turn a foreign host into an own one.
        let host = server
            .http
            .get(server.url("/api/v1/apps"))
            .bearer_auth(&token)
            .header("host", "evil.example");
        let (name, value) = header.split_once(": ").unwrap();
        refused(host.header(name, value).send().await.unwrap(), 403, "host_not_allowed").await;
    }
}

#[tokio::test]
async fn bounds_come_before_the_token_and_the_body_after_it() {
    let server = start_with(|config| config.max_body_bytes = 1000).await;
    let token = admin(&server).await;
    let json = "Content-Type: application/json\r\n";
    // None of these bodies is ever sent: the answer does not wait for it.
    for (headers, expected) in [
        (format!("{json}Content-Length: 1001\r\n"), 413),
        (format!("{json}Content-Length: 1000\r\n"), 401),
        (
            format!("{json}Content-Length: 1000\r\nAuthorization: Bearer x\r\n"),
            401,
        ),
        (format!("{json}Transfer-Encoding: chunked\r\n"), 401),
        ("Content-Type: text/plain\r\nContent-Length: 10\r\n".to_owned(), 415),
        (format!("{json}Content-Encoding: gzip\r\nContent-Length: 10\r\n"), 415),
        (
            format!("{json}Content-Encoding: gzip\r\nContent-Length: 10\r\nAuthorization: Bearer {token}\r\n"),
            415,
        ),
        (
            format!("{json}Content-Encoding: identity, br\r\nContent-Length: 10\r\n"),
            415,
        ),
        (
            format!("{json}Origin: http://evil.example\r\nContent-Length: 10\r\n"),
            403,
        ),
    ] {
        for path in ["/api/v1/jobs", "/api/v1/jobs/batch", "/api/v1/apply", "/api/v1/nothing"] {
            let (status, body) = Raw::new(&server).ask("POST", path, &headers).await;
            assert_eq!(status, expected, "{path} {headers}: {body}");
        }
    }
}

#[tokio::test]
async fn a_bomb_is_not_unpacked_and_a_slow_or_deep_body_ends() {
    let server = start_with(|config| config.body_timeout = Duration::from_millis(300)).await;
    let token = admin(&server).await;
    // What it would become does not matter: the header says what it is, and it is refused by that.
    let mut bomb = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    bomb.resize(64 << 10, 0);
    for encoding in ["gzip", "GZIP", "deflate", "br", "zstd", "x-gzip", "gzip, identity"] {
        let request = server.http.post(server.url("/api/v1/jobs/batch")).bearer_auth(&token);
        let request = request
            .header("content-type", "application/json")
            .header("content-encoding", encoding);
        let response = request.body(bomb.clone()).send().await.unwrap();
        refused(response, 415, "unsupported_content_encoding").await;
    }
    // Without the header it is only no JSON.
    let request = server.http.post(server.url("/api/v1/jobs/batch")).bearer_auth(&token);
    let response = request
        .header("content-type", "application/json")
        .body(bomb)
        .send()
        .await
        .unwrap();
    refused(response, 400, "invalid_json").await;
    let headers = format!("Content-Type: application/json\r\nAuthorization: Bearer {token}\r\nContent-Length: 100\r\n");
    let (status, body) = Raw::new(&server).ask("POST", "/api/v1/jobs", &headers).await;
    assert_eq!(status, 408, "{body}");
    for deep in ["[".repeat(100_000), "{\"a\":".repeat(100_000)] {
        for path in ["/api/v1/jobs", "/api/v1/jobs/batch", "/api/v1/apply", "/api/v1/tokens"] {
            let body = format!("{{\"document\": {deep}");
            let status = server
                .send_as(&token, Method::POST, path, &body)
                .await
                .status()
                .as_u16();
            assert!([400, 422].contains(&status), "{path}: {status}");
        }
    }
}

#[tokio::test]
async fn names_and_ids_in_paths_are_what_they_are_and_no_paths() {
    let server = shop().await;
    let token = admin(&server).await;
    server.send_as(&token, Method::PUT, "/api/v1/apps/bank", "{}").await;
    for name in [
        "..%2fbank",
        "%2e%2e%2fbank",
        "shop%2f..%2fbank",
        "shop%00",
        "shop%0d%0aX-Evil:%201",
        "shop%22",
        "%3Cscript%3E",
        "sh%C3%B6p",
        "shop%20",
        "..",
        "%252e%252e%252fbank",
    ] {
        for path in [
            format!("/api/v1/apps/{name}"),
            format!("/api/v1/apps/{name}/definitions"),
            format!("/api/v1/jobs/{name}"),
            format!("/api/v1/jobs/{name}/logs?follow=true"),
            format!("/api/v1/apps/shop/definitions/{name}"),
        ] {
            let headers = format!("Authorization: Bearer {token}\r\n");
            let (status, body) = Raw::new(&server).ask("GET", &path, &headers).await;
            assert_eq!(status, 404, "{path}: {body}");
            assert!(!body.contains('\r'), "{path}");
        }
    }
    // What names a thing may be, and no more; the answer to a bad one is JSON and nothing that a browser would run.
    let long = "a".repeat(64);
    for name in ["", "a b", "-a", "a/b", "a.b", "a\u{0}", "ä", "a\nb", &long] {
        let body = json!({"name": name, "role": "read"}).to_string();
        let response = server.send_as(&token, Method::POST, "/api/v1/tokens", &body).await;
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        refused(response, 422, "invalid_request").await;
    }
}

//! The HTTP API, through its router and over a real store. An input reads as an HTTP request does: `METHOD TARGET`, headers
//! a line each, an empty line, the body. `Host`, JSON's content type and a token are added where they are left out.
#![no_main]

use std::{cell::RefCell, collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use http_body_util::BodyExt;
use libfuzzer_sys::fuzz_target;
use robata_api::{Api, ApiConfig, router};
use robata_core::access::TokenHash;
use robata_logs::{Logs, LogsConfig};
use robata_store_sqlite::{SqliteConfig, SqliteStore};
use serde_json::{Value, value::RawValue};
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};
use tower::ServiceExt;

/// A store is used for so many requests, then replaced: it grows.
const REQUESTS: u32 = 20_000;
/// What is asked to wait does so longer than this.
const PATIENCE: Duration = Duration::from_secs(1);
/// So that the first token that is made does not end everything else.
const TOKEN: &str = "the-token-of-the-settings";
const BEARER: &str = "Bearer the-token-of-the-settings";
/// What is there from the beginning.
const DEFINITIONS: &str = r#"POST /api/v1/apply

{"document": {"apps": {"shop": {"image": "shop:1", "jobs": {
    "resize": {"queue": "images", "env_allow": ["LOCALE"], "retry": {"max_attempts": 3}}, "mail": {}}}}}}"#;

thread_local!(static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) });

struct Server {
    router: Router,
    runtime: Runtime,
    requests: u32,
    _folder: TempDir,
}

impl Server {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let store = runtime
            .block_on(SqliteStore::open(SqliteConfig::new(folder.path().join("store"))))
            .expect("a store");
        let logs = Logs::folder(folder.path().join("logs"), LogsConfig::default()).expect("a folder of logs");
        let mut config = ApiConfig::default();
        config.admin_token = Some(TokenHash::of(TOKEN));
        let server = Self {
            router: router(Api::new(Arc::new(store), Arc::new(logs), config)),
            runtime,
            requests: 0,
            _folder: folder,
        };
        let (status, _, body) = server.answer(request(DEFINITIONS.as_bytes()).expect("a request"));
        assert_eq!(status, StatusCode::OK, "{body:?}");
        server
    }

    fn answer(&self, request: Request) -> (StatusCode, HeaderMap, Bytes) {
        self.answer_soon(request).expect("an answer")
    }

    /// `None` where it waits, as it was asked to.
    fn answer_soon(&self, request: Request) -> Option<(StatusCode, HeaderMap, Bytes)> {
        self.runtime.block_on(async {
            timeout(PATIENCE, async {
                let response: Response = match self.router.clone().oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                let (parts, body) = response.into_parts();
                let body = body.collect().await.expect("a whole answer").to_bytes();
                (parts.status, parts.headers, body)
            })
            .await
            .ok()
        })
    }
}

fuzz_target!(|input: &[u8]| {
    let Some(request) = request(input) else { return };
    let (method, uri) = (request.method().clone(), request.uri().clone());
    // Waiting is another test's; here it would only take the time.
    if uri
        .query()
        .is_some_and(|query| query.contains("wait") || query.contains("follow"))
    {
        return;
    }
    let sent = request
        .headers()
        .contains_key(header::CONTENT_TYPE)
        .then(|| body_of(input).to_vec());
    SERVER.with_borrow_mut(|server| {
        if server.as_ref().is_some_and(|server| server.requests >= REQUESTS) {
            *server = None;
        }
        let server = server.get_or_insert_with(Server::new);
        server.requests += 1;
        let Some((status, headers, body)) = server.answer_soon(request) else {
            return;
        };
        if method != "HEAD" {
            check(status, &headers, &body);
        }
        if method == "POST" && uri.path() == "/api/v1/jobs" && status == StatusCode::CREATED {
            kept(server, &sent.unwrap_or_default(), &body);
        }
    });
});

fn body_of(input: &[u8]) -> &[u8] {
    let end = input.windows(2).position(|pair| pair == b"\n\n");
    end.map_or(&[], |end| &input[end + 2..])
}

fn request(input: &[u8]) -> Option<Request> {
    let body = body_of(input);
    let head = input.len() - body.len();
    let mut lines = input[..head]
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let mut words = lines.next()?.splitn(2, |byte| *byte == b' ');
    let mut request = Request::builder().method(words.next()?).uri(words.next()?);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..colon], line[colon + 1..].trim_ascii());
    }
    let headers = request.headers_mut()?;
    headers
        .entry(header::HOST)
        .or_insert(header::HeaderValue::from_static("127.0.0.1:7070"));
    headers
        .entry(header::AUTHORIZATION)
        .or_insert(header::HeaderValue::from_static(BEARER));
    if !body.is_empty() {
        headers
            .entry(header::CONTENT_TYPE)
            .or_insert(header::HeaderValue::from_static("application/json"));
    }
    request.body(Body::from(body.to_vec())).ok()
}

/// No fault of the server's, and every refusal says what is wrong.
fn check(status: StatusCode, headers: &HeaderMap, body: &Bytes) {
    let text = String::from_utf8_lossy(body);
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|media_type| media_type.to_str().ok());
    assert!(
        !status.is_server_error() || (status == StatusCode::SERVICE_UNAVAILABLE && headers.contains_key("retry-after")),
        "{status}: {text}"
    );
    if status.is_client_error() {
        assert_eq!(media_type, Some("application/problem+json"), "{status}: {text}");
        let problem: Value = serde_json::from_slice(body).unwrap_or_else(|error| panic!("{error}: {text}"));
        for key in ["code", "title", "detail"] {
            assert!(
                problem[key].as_str().is_some_and(|said| !said.is_empty()),
                "no {key}: {text}"
            );
        }
        assert_eq!(problem["status"], status.as_u16(), "{text}");
    } else if media_type == Some("application/json") {
        serde_json::from_slice::<Value>(body).unwrap_or_else(|error| panic!("{error}: {text}"));
    }
}

/// A job that was accepted is there, with its payload as it came.
fn kept(server: &Server, sent: &[u8], answered: &[u8]) {
    let job: Value = serde_json::from_slice(answered).expect("a job");
    let id = job["id"].as_str().expect("an id");
    let show = format!("GET /api/v1/jobs/{id}\n\n");
    let (status, _, body) = server.answer(request(show.as_bytes()).expect("a request"));
    assert_eq!(status, StatusCode::OK);
    let payload = |json: &[u8]| -> String {
        let fields: HashMap<String, Box<RawValue>> = serde_json::from_slice(json).expect("an object");
        fields.get("payload").map_or("null", |payload| payload.get()).to_owned()
    };
    assert_eq!(payload(&body), payload(sent), "a payload came through changed");
}

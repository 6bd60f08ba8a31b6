//! Tokens: made, shown once, told apart from all else, expired, revoked; and the masters' memory of them.

use std::{sync::Arc, time::Duration};

use reqwest::{Method, Response};
use robata_api::{Api, ApiConfig};
use robata_client::{Client, ClientError, LogsRequest, NewTokenRequest, Span};
use robata_core::{
    ErrorKind, Role,
    access::{NewToken, TokenHash},
    executor::Stream,
    store::AccessStore,
};
use robata_testkit::{
    engine::{Fault, Faults, Moment},
    faulty_store::FaultyStore,
};
use serde_json::{Value, json};

use crate::server::{LONG, Server, Worker, document, refused, serve, shop, start, start_over, start_with, until};

/// A revocation is in force everywhere within this time.
const IN_FORCE: Duration = Duration::from_secs(10);

pub(crate) fn request(name: &str, role: Role) -> NewTokenRequest {
    NewTokenRequest {
        name: name.parse().unwrap(),
        role,
        app: None,
        expires_in: None,
    }
}

/// Makes the first token of a server without one.
pub(crate) async fn admin(server: &Server) -> String {
    let made = server.client.create_token(&request("root", Role::Admin)).await.unwrap();
    made.token
}

async fn unauthenticated(response: Response) -> String {
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    let problem = refused(response, 401, "unauthenticated").await;
    problem.detail
}

#[tokio::test]
async fn from_the_first_token_on_every_request_needs_one() {
    let server = shop().await;
    server.mail().await;
    let token = admin(&server).await;
    assert!(token.starts_with("rbt_") && token.len() == 47, "{token}");
    for path in [
        "/api/v1/jobs",
        "/metrics",
        "/api/v1/openapi.json",
        "/",
        "/api/v1/nothing",
    ] {
        unauthenticated(server.get(path).await).await;
    }
    unauthenticated(server.post("/api/v1/jobs", "{}").await).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.get(path).await.status(), 200);
    }
    for path in ["/api/v1/jobs", "/metrics", "/api/v1/openapi.json"] {
        assert_eq!(server.get_as(&token, path).await.status(), 200, "{path}");
    }
    refused(server.get_as(&token, "/api/v1/nothing").await, 404, "unknown_route").await;
    let error = server.client.workers().await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Unauthenticated { with_token: false, .. }),
        "{error:?}"
    );
    assert!(error.to_string().ends_with("needs a token"), "{error}");
    let error = server.client_as("rbt_wrong").workers().await.unwrap_err();
    assert!(
        error.to_string().contains("unknown, was revoked, or has expired"),
        "{error}"
    );
    assert!(!format!("{:?}", server.client_as(&token)).contains(&token));
}

#[tokio::test]
async fn whatever_is_no_valid_token_is_refused_in_the_same_words() {
    let server = shop().await;
    let token = admin(&server).await;
    let client = server.client_as(&token);
    let revoked = client.create_token(&request("gone", Role::Read)).await.unwrap().token;
    client.revoke_token(&"gone".parse().unwrap()).await.unwrap();
    let expired = "rbt_expired";
    let new = NewToken {
        name: "old".parse().unwrap(),
        role: Role::Admin,
        app: None,
        hash: TokenHash::of(expired),
        lasts: Some(Duration::ZERO),
    };
    server.store.create_token(new, "test").await.unwrap();
    let mut told = Vec::new();
    let hash = format!("{:x?}", TokenHash::of(&token).0);
    for value in [
        None,
        Some(String::new()),
        Some("Bearer".to_owned()),
        Some(format!("Bearer {revoked}")),
        Some(format!("Bearer {expired}")),
        Some("Bearer rbt_unknown".to_owned()),
        Some("Bearer nothing".to_owned()),
        Some(format!("Bearer {}", &token[..46])),
        Some(format!("Bearer {token}x")),
        Some(format!("Bearer {}", token.to_uppercase())),
        Some(format!("Basic {token}")),
        Some(token.clone()),
        Some(format!("Bearer {token} {token}")),
        Some(format!("Bearer {}", hash.replace(['[', ']', ',', ' '], ""))),
    ] {
        let mut request = server.http.get(server.url("/api/v1/jobs"));
        if let Some(value) = &value {
            request = request.header("authorization", value);
        }
        told.push(unauthenticated(request.send().await.unwrap()).await);
    }
    let doubled = server
        .http
        .get(server.url("/api/v1/jobs"))
        .bearer_auth(&token)
        .bearer_auth(&token);
    told.push(unauthenticated(doubled.send().await.unwrap()).await);
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
    // Neither in the query nor in a cookie.
    for name in ["token", "access_token", "authorization"] {
        unauthenticated(server.get(&format!("/api/v1/jobs?{name}={token}")).await).await;
        let cookie = server
            .http
            .get(server.url("/api/v1/jobs"))
            .header("cookie", format!("{name}={token}"));
        unauthenticated(cookie.send().await.unwrap()).await;
    }
}

#[tokio::test]
async fn a_secret_is_told_once_and_kept_nowhere() {
    let server = shop().await;
    let token = admin(&server).await;
    let body = r#"{"name": "ci", "role": "deploy", "app": "shop", "expires_in": "30d"}"#;
    let response = server.send_as(&token, Method::POST, "/api/v1/tokens", body).await;
    assert_eq!(response.status(), 201);
    let made: Value = response.json().await.unwrap();
    let secret = made["token"].as_str().unwrap();
    assert_eq!(
        (
            &made["name"],
            &made["role"],
            &made["app"],
            &made["created_by"],
            &made["expired"]
        ),
        (
            &json!("ci"),
            &json!("deploy"),
            &json!("shop"),
            &json!("root"),
            &json!(false)
        )
    );
    let text = server.get_as(&token, "/api/v1/tokens").await.text().await.unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let names: Vec<_> = list["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| &token["name"])
        .collect();
    assert_eq!(names, ["ci", "root"]);
    assert!(!text.contains(&secret[4..]) && !text.contains("hash"), "{text}");
    let audit = server.get_as(&token, "/api/v1/audit").await.text().await.unwrap();
    assert!(
        audit.contains("create_token") && !audit.contains(&secret[4..]),
        "{audit}"
    );
    let ends = list["tokens"][0]["expires_at"]
        .as_str()
        .unwrap()
        .parse::<robata_core::Timestamp>()
        .unwrap();
    let made_at = list["tokens"][0]["created_at"]
        .as_str()
        .unwrap()
        .parse::<robata_core::Timestamp>()
        .unwrap();
    assert_eq!(ends.since(made_at), Duration::from_secs(30 * 24 * 3600));
    // Not in the store's own files either.
    tokio::time::timeout(LONG, server.store.close()).await.unwrap();
    for file in std::fs::read_dir(server.folder.path().join("store")).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let bytes = std::fs::read(path).unwrap();
        for secret in [secret, &token] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "a secret is in the store");
        }
    }
}

#[tokio::test]
async fn the_first_token_is_a_lasting_admins_and_the_last_one_stays() {
    let server = start().await;
    let mut wrong = vec![
        request("a", Role::Deploy),
        request("b", Role::Admin),
        request("c", Role::Admin),
    ];
    wrong[1].app = Some("shop".parse().unwrap());
    wrong[2].expires_in = Some(Span(Duration::from_secs(60)));
    for request in &wrong {
        let error = server.client.create_token(request).await.unwrap_err();
        assert_eq!(error.problem().unwrap().code, "first_token_must_be_admin", "{error}");
    }
    // Nothing was changed.
    assert!(server.client.tokens().await.unwrap().is_empty());
    let root = server.client_as(&admin(&server).await);
    for request in &wrong {
        root.create_token(request).await.unwrap();
    }
    let last = root.revoke_token(&"root".parse().unwrap()).await.unwrap_err();
    assert_eq!(last.problem().unwrap().code, "last_admin_token", "{last}");
    root.create_token(&request("second", Role::Admin)).await.unwrap();
    root.revoke_token(&"root".parse().unwrap()).await.unwrap();
    // It revoked itself.
    assert!(matches!(root.tokens().await, Err(ClientError::Unauthenticated { .. })));
}

#[tokio::test]
async fn a_name_is_given_once_at_a_time_and_some_never() {
    let server = start().await;
    let root = server.client_as(&admin(&server).await);
    let code = |error: ClientError| (error.problem().unwrap().status, error.problem().unwrap().code.clone());
    let ci = request("ci", Role::Read);
    let first = root.create_token(&ci).await.unwrap().token;
    assert_eq!(
        code(root.create_token(&ci).await.unwrap_err()),
        (409, "conflict".to_owned())
    );
    root.revoke_token(&ci.name).await.unwrap();
    let gone = root.revoke_token(&ci.name).await.unwrap_err();
    assert_eq!(code(gone), (404, "unknown_token".to_owned()));
    let second = root.create_token(&ci).await.unwrap().token;
    assert_ne!(first, second);
    assert!(server.client_as(&first).apps().await.is_err());
    server.client_as(&second).apps().await.unwrap();
    for name in ["admin", "local", "Admin", "LOCAL"] {
        let error = root.create_token(&request(name, Role::Read)).await.unwrap_err();
        assert_eq!(code(error), (422, "reserved_name".to_owned()));
    }
    let near = root.revoke_token(&"rot".parse().unwrap()).await.unwrap_err();
    assert_eq!(near.problem().unwrap().nearest, ["root"]);
    let token = server.token("raw", Role::Admin, None).await;
    for body in [
        r#"{"name": "a b", "role": "read"}"#,
        r#"{"name": "", "role": "read"}"#,
        r#"{"name": "a/../b", "role": "read"}"#,
        r#"{"name": "x", "role": "root"}"#,
        r#"{"name": "x"}"#,
        r#"{"name": "x", "role": "read", "app": "a b"}"#,
        r#"{"name": "x", "role": "read", "expires_in": "0s"}"#,
        r#"{"name": "x", "role": "read", "expires_in": "4000d"}"#,
        r#"{"name": "x", "role": "read", "token": "mine"}"#,
    ] {
        let response = server.send_as(&token, Method::POST, "/api/v1/tokens", body).await;
        assert_eq!(response.status(), 422, "{body}");
    }
    for name in ["a%20b", "%252e%252e", "a%2fb"] {
        let response = server
            .send_as(&token, Method::DELETE, &format!("/api/v1/tokens/{name}"), "")
            .await;
        refused(response, 404, "unknown_token").await;
    }
}

#[tokio::test]
async fn the_settings_token_is_valid_without_the_store_and_without_any_other() {
    let secret = "a-secret-of-the-operator's-own-choice";
    let faults = Arc::new(Faults::default());
    let server = start_over(
        |config| config.admin_token = Some(TokenHash::of(secret)),
        |store| faulty(store, &faults, false),
    )
    .await;
    faults.fail("store.tokens", Fault::Refuse(ErrorKind::Unavailable), usize::MAX);
    let boss = server.client_as(secret);
    boss.apps().await.unwrap();
    // Nobody else is let in while nobody knows whom.
    for response in [
        server.get("/api/v1/apps").await,
        server.get_as("rbt_other", "/api/v1/apps").await,
    ] {
        let problem = refused(response, 503, "unavailable").await;
        assert!(problem.detail.contains("tokens cannot be read"), "{problem:?}");
    }
    assert_eq!(server.get("/healthz").await.status(), 200);
    faults.heal("store.tokens");
    until("the tokens are read", || async {
        server.get("/api/v1/apps").await.status() == 401
    })
    .await;
    // It may make any token as the first one, and revoke the last admin's.
    let read = boss.create_token(&request("viewer", Role::Read)).await.unwrap();
    assert_eq!(read.of.created_by, "admin");
    boss.create_token(&request("root", Role::Admin)).await.unwrap();
    boss.revoke_token(&"root".parse().unwrap()).await.unwrap();
}

fn faulty(
    store: impl robata_core::store::Store,
    faults: &Arc<Faults>,
    deaf: bool,
) -> Arc<dyn robata_core::store::Store> {
    Arc::new(FaultyStore {
        store: Arc::new(store),
        faults: Arc::clone(faults),
        deaf,
    })
}

#[tokio::test]
async fn without_the_store_what_was_known_stays_in_force() {
    let faults = Arc::new(Faults::default());
    let server = start_over(|_| (), |store| faulty(store, &faults, false)).await;
    faults.fail("store.tokens", Fault::Refuse(ErrorKind::Unavailable), usize::MAX);
    // Never read: nobody is let in, not even as `local`.
    refused(server.get("/api/v1/apps").await, 503, "unavailable").await;
    faults.heal("store.tokens");
    until("the tokens are read", || async {
        server.get("/api/v1/apps").await.status() == 200
    })
    .await;
    let token = admin(&server).await;
    faults.fail("store.tokens", Fault::Refuse(ErrorKind::Unavailable), usize::MAX);
    let before = faults.calls("store.tokens");
    until("the store was asked in vain", || async {
        faults.calls("store.tokens") > before
    })
    .await;
    assert_eq!(server.get_as(&token, "/api/v1/apps").await.status(), 200);
    unauthenticated(server.get("/api/v1/apps").await).await;
    // It may have been made since, at another master: its bearer is to try again, not to give up.
    let other = refused(server.get_as("rbt_other", "/api/v1/apps").await, 503, "unavailable").await;
    assert!(
        other.detail.contains("not among those that are remembered"),
        "{other:?}"
    );
}

#[tokio::test]
async fn whoever_tries_tokens_makes_no_load_at_the_store_and_holds_up_nobody() {
    let faults = Arc::new(Faults::default());
    let server = start_over(|_| (), |store| faulty(store, &faults, true)).await;
    let token = admin(&server).await;
    let held = faults.hold("store.tokens", Moment::Begin);
    let before = faults.calls("store.tokens");
    let tries = futures::future::join_all((0..50).map(|n| {
        let wrong = format!("rbt_{n}");
        let server = &server;
        async move { server.get_as(&wrong, "/api/v1/apps").await.status() }
    }));
    // The store hangs meanwhile: it is given up by itself.
    let good = async {
        held.holds(1).await;
        server.get_as(&token, "/api/v1/apps").await.status()
    };
    let (tried, good) = tokio::time::timeout(LONG, futures::future::join(tries, good))
        .await
        .unwrap();
    assert_eq!(good, 200);
    assert!(tried.iter().all(|status| *status == 503), "{tried:?}");
    // Each takes at least half a second after the last, and a hanging one three seconds: a handful at most.
    let asked = faults.calls("store.tokens") - before;
    assert!(asked <= 20, "{asked}");
}

#[tokio::test]
async fn a_master_that_hears_no_hint_knows_a_new_token_at_once_and_a_revoked_one_in_time() {
    let server = shop().await;
    let deaf = faulty(server.store.clone(), &Arc::default(), true);
    let (address, other) = serve(Api::new(deaf, Arc::new(server.logs.clone()), ApiConfig::default())).await;
    let at_other = |token: Option<&str>| Client::new(&address.to_string(), token).unwrap();
    at_other(None).apps().await.unwrap();
    let root = server.client_as(&admin(&server).await);
    let made = root.create_token(&request("ci", Role::Read)).await.unwrap();
    let ci = at_other(Some(&made.token));
    ci.apps().await.unwrap();
    // The old memory, in which no token was needed, goes at the next look.
    until("a token is needed there, too", || async {
        matches!(at_other(None).apps().await, Err(ClientError::Unauthenticated { .. }))
    })
    .await;
    // One made after that is found at the store, however lately that was asked.
    let late = root.create_token(&request("late", Role::Read)).await.unwrap();
    at_other(Some("rbt_unknown")).apps().await.unwrap_err();
    at_other(Some(&late.token)).apps().await.unwrap();
    let revoked = tokio::time::Instant::now();
    root.revoke_token(&made.of.name).await.unwrap();
    until("the revocation is in force", || async { ci.apps().await.is_err() }).await;
    assert!(revoked.elapsed() < IN_FORCE, "{:?}", revoked.elapsed());
    other.abort();
}

#[tokio::test]
async fn a_token_ends_when_it_expires_by_the_stores_clock() {
    let server = shop().await;
    let root = server.client_as(&admin(&server).await);
    let mut short = request("short", Role::Read);
    short.expires_in = Some(Span(Duration::from_secs(2)));
    let made = root.create_token(&short).await.unwrap();
    let bearer = server.client_as(&made.token);
    bearer.apps().await.unwrap();
    until("it expires", || async { bearer.apps().await.is_err() }).await;
    let listed = root.tokens().await.unwrap();
    let of = |name: &str| listed.iter().find(|token| token.name.as_str() == name).unwrap().expired;
    assert!(of("short") && !of("root"));
    // Its name is taken until it is revoked.
    assert_eq!(
        root.create_token(&short).await.unwrap_err().problem().unwrap().status,
        409
    );
    root.revoke_token(&short.name).await.unwrap();
    root.create_token(&short).await.unwrap();
}

#[tokio::test]
async fn what_goes_on_for_long_ends_with_its_token() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let job = server.mail().await;
    let held = worker.start(job).await;
    worker.print(&held, Stream::Stdout, 0, b"begun\n").await;
    let waiting = server.mail().await;
    let root = server.client_as(&admin(&server).await);
    let made = root.create_token(&request("viewer", Role::Read)).await.unwrap();
    let follow = |token: String, accept: &'static str, path: String| {
        let request = server
            .http
            .get(server.url(&path))
            .bearer_auth(token)
            .header("accept", accept);
        async move {
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.text().await)
        }
    };
    let path = |job| format!("/api/v1/jobs/{job}/logs?follow=true");
    let streams = futures::future::join5(
        follow(made.token.clone(), "application/x-ndjson", path(job)),
        follow(made.token.clone(), "text/plain", path(job)),
        follow(made.token.clone(), "application/x-ndjson", path(waiting)),
        follow(made.token.clone(), "*/*", format!("/api/v1/jobs/{job}?wait=60")),
        async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let begun = tokio::time::Instant::now();
            root.revoke_token(&made.of.name).await.unwrap();
            begun
        },
    );
    let (lines, printed, waited, polled, begun) = tokio::time::timeout(LONG, streams).await.unwrap();
    assert!(begun.elapsed() < IN_FORCE, "{:?}", begun.elapsed());
    let text = lines.1.unwrap();
    assert!(
        text.contains("begun") && text.contains("the token is not valid any more"),
        "{text}"
    );
    // The bytes alone cannot say it: the transfer breaks off.
    assert!(printed.0 == 200 && printed.1.is_err(), "{printed:?}");
    let text = waited.1.unwrap();
    assert!(text.contains("\"complete\":false") && text.contains("token"), "{text}");
    assert_eq!(polled.0, 401);
    // What others follow goes on.
    let entries = root
        .log_entries(
            job,
            &LogsRequest {
                follow: true,
                ..Default::default()
            },
        )
        .await
        .unwrap();
    let mut entries = Box::pin(entries);
    futures::StreamExt::next(&mut entries).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_body_that_was_under_way_when_its_token_was_revoked_does_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = shop().await;
    let root = server.client_as(&admin(&server).await);
    let made = root.create_token(&request("slow", Role::Enqueue)).await.unwrap();
    let body = r#"{"app": "shop", "job": "mail"}"#;
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Authorization: Bearer {}\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        made.token,
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server asks for the body once it has let the request pass.
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).await.unwrap();
    assert!(
        asked.starts_with(b"HTTP/1.1 100"),
        "{}",
        String::from_utf8_lossy(&asked)
    );
    root.revoke_token(&made.of.name).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(root.jobs(&Default::default()).await.unwrap().jobs.is_empty());
}

#[tokio::test]
async fn this_process_itself_needs_no_token_and_no_header_says_that_it_is_this_process() {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;
    let server = start_with(|config| config.admin_token = Some(TokenHash::of("x"))).await;
    let mut config = ApiConfig::default();
    config.admin_token = Some(TokenHash::of("x"));
    let router = robata_api::router(Api::new(
        Arc::new(server.store.clone()),
        Arc::new(server.logs.clone()),
        config,
    ));
    let asked = |local: bool| {
        let mut request = Request::post("/api/v1/apply")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Body::from(json!({"document": document()}).to_string()))
            .unwrap();
        if local {
            robata_api::as_local(request.extensions_mut());
        }
        router.clone().oneshot(request)
    };
    assert_eq!(asked(false).await.unwrap().status(), 401);
    assert_eq!(asked(true).await.unwrap().status(), 200);
    let audit = server.client_as("x").audit(&Default::default()).await.unwrap();
    assert!(!audit.records.is_empty() && audit.records.iter().all(|record| record.by == "local"));
    for header in [
        "x-local",
        "local",
        "in-process",
        "x-forwarded-user",
        "x-remote-user",
        "extensions",
    ] {
        let request = server.http.get(server.url("/api/v1/apps")).header(header, "local");
        unauthenticated(request.send().await.unwrap()).await;
    }
}

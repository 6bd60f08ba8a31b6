//! `ETag` and `If-Match`: nobody undoes what others did since they looked.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::server::{Server, document, refused, shop};

const APP: &str = "/api/v1/apps/shop";
const MAIL: &str = "/api/v1/apps/shop/definitions/mail";

async fn send(server: &Server, method: Method, path: &str, if_match: &str, body: &Value) -> Response {
    let request = server
        .http
        .request(method, server.url(path))
        .header("if-match", if_match);
    request.json(body).send().await.unwrap()
}

fn tag(response: &Response) -> String {
    assert!(response.status().is_success(), "{response:?}");
    response.headers()["etag"].to_str().unwrap().to_owned()
}

async fn read(server: &Server, path: &str) -> String {
    tag(&server.get(path).await)
}

/// What an app and a definition are put with, and with what else.
fn puts(path: &str) -> [Value; 2] {
    match path {
        APP => [json!({"image": "shop:2"}), json!({"image": "shop:3"})],
        _ => [json!({"command": ["mail"]}), json!({"command": ["mail", "-v"]})],
    }
}

#[tokio::test]
async fn what_was_read_is_changed_and_what_was_changed_meanwhile_is_not() {
    for path in [APP, MAIL] {
        let server = shop().await;
        let [mine, theirs] = puts(path);
        let first = read(&server, path).await;
        assert_eq!(read(&server, path).await, first, "it stays as long as nothing changes");
        assert!(
            first.starts_with('"') && first.ends_with('"') && first.len() > 10,
            "{first}"
        );
        let done = send(&server, Method::PUT, path, &first, &mine).await;
        let second = tag(&done);
        assert_ne!(first, second);
        assert_eq!(
            read(&server, path).await,
            second,
            "what a change answers is what the next reader gets"
        );

        for method in [Method::PUT, Method::DELETE, Method::GET] {
            let late = send(&server, method.clone(), path, &first, &theirs).await;
            let problem = refused(late, 412, "precondition_failed").await;
            assert!(problem.detail.contains(&second), "{method}: {problem:?}");
        }
        assert_eq!(read(&server, path).await, second, "a refused one changed something");

        let one_of = format!("\"other\", {second}");
        tag(&send(&server, Method::GET, path, &one_of, &Value::Null).await);
        let weak = format!("W/{second}");
        refused(
            send(&server, Method::PUT, path, &weak, &theirs).await,
            412,
            "precondition_failed",
        )
        .await;
        let third = tag(&send(&server, Method::PUT, path, &one_of, &theirs).await);
        let gone = send(&server, Method::DELETE, path, &third, &Value::Null).await;
        assert_eq!(gone.status(), 204);
    }
}

#[tokio::test]
async fn a_star_asks_only_that_there_is_something() {
    let server = shop().await;
    for path in [MAIL, APP] {
        let [mine, theirs] = puts(path);
        tag(&send(&server, Method::PUT, path, "*", &mine).await);
        assert_eq!(
            send(&server, Method::DELETE, path, "*", &Value::Null).await.status(),
            204
        );
        let put = send(&server, Method::PUT, path, "*", &theirs).await;
        refused(put, 412, "precondition_failed").await;
        assert_eq!(server.get(path).await.status(), 404, "it was made");
        // What would be 404 anyhow is 404 (RFC 9110, section 13.2.1).
        let gone = send(&server, Method::DELETE, path, "*", &Value::Null).await;
        assert_eq!(gone.status(), 404);
    }
    let unconditional = server.send(Method::PUT, APP, r#"{"image": "shop:1"}"#).await;
    assert_eq!(unconditional.status(), 201);
}

#[tokio::test]
async fn what_is_made_anew_is_not_what_was_read() {
    let server = shop().await;
    let first = read(&server, MAIL).await;
    assert_eq!(server.send(Method::DELETE, MAIL, "").await.status(), 204);
    let mut other = document();
    other["apps"]["shop"]["jobs"]["mail"] = json!({"timeout": "3m"});
    server.apply(other).await;
    let again: Value = server.get(MAIL).await.json().await.unwrap();
    assert_eq!(again["version"], 1, "{again}");
    refused(
        send(&server, Method::DELETE, MAIL, &first, &Value::Null).await,
        412,
        "precondition_failed",
    )
    .await;
}

#[tokio::test]
async fn what_the_defaults_change_is_changed() {
    let server = shop().await;
    let first = read(&server, MAIL).await;
    server.apply(json!({"defaults": {"timeout": "7m"}})).await;
    assert_ne!(read(&server, MAIL).await, first);
}

#[tokio::test]
async fn of_many_who_read_the_same_one_changes_it() {
    for path in [APP, MAIL] {
        let server = shop().await;
        let read = read(&server, path).await;
        let puts = (0..12).map(|n| {
            let (server, read) = (&server, &read);
            async move { send(server, Method::PUT, path, read, &json!({"command": [n.to_string()]})).await }
        });
        let mut done = Vec::new();
        for response in futures::future::join_all(puts).await {
            if response.status() == 412 {
                refused(response, 412, "precondition_failed").await;
            } else {
                done.push(tag(&response));
            }
        }
        assert_eq!(done.len(), 1, "{path}: {done:?}");
        assert_eq!(crate::condition::read(&server, path).await, done[0]);
    }
}

#[tokio::test]
async fn what_is_no_list_of_tags_is_refused() {
    let server = shop().await;
    for wrong in ["1", "\"a", "a, *", "", "\u{e4}"] {
        let request = server
            .http
            .delete(server.url(MAIL))
            .header("if-match", wrong.as_bytes());
        refused(request.send().await.unwrap(), 400, "invalid_header").await;
    }
    assert_eq!(server.get(MAIL).await.status(), 200);
}

#[tokio::test]
async fn a_client_changes_only_what_is_still_as_it_read_it() {
    let server = shop().await;
    let (shop, mail) = ("shop".parse().unwrap(), "mail".parse().unwrap());
    let settings = |timeout: &str| serde_json::from_value(json!({"image": "shop:1", "timeout": timeout})).unwrap();
    let refused = |error: robata_client::ClientError| {
        let problem = error.problem().unwrap();
        assert_eq!((problem.status, &*problem.code), (412, "precondition_failed"));
    };
    let read = server.client.definition_tagged(&shop, &mail).await.unwrap();
    assert_eq!(read.value, server.client.definition(&shop, &mail).await.unwrap());
    let first = server.client.if_match(&read.tag);
    first.put_definition(&shop, &mail, &settings("5m")).await.unwrap();
    refused(first.put_definition(&shop, &mail, &settings("6m")).await.unwrap_err());
    refused(first.delete_definition(&shop, &mail).await.unwrap_err());
    // Reading asks for nothing.
    first.definition(&shop, &mail).await.unwrap();
    let read = server.client.app_tagged(&shop).await.unwrap();
    let first = server.client.if_match(&read.tag);
    first.put_app(&shop, &settings("7m")).await.unwrap();
    refused(first.put_app(&shop, &settings("8m")).await.unwrap_err());
    refused(first.delete_app(&shop).await.unwrap_err());
    let something = server.client.if_match("*");
    refused(
        something
            .put_app(&"nope".parse().unwrap(), &settings("8m"))
            .await
            .unwrap_err(),
    );
    something.delete_app(&shop).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_the_request_itself_is_told_before_the_condition() {
    let server = shop().await;
    let (stale, wrong) = ("\"of-long-ago\"", json!({"timeout": 3, "imag": "x"}));
    for path in [APP, MAIL] {
        refused(
            send(&server, Method::PUT, path, stale, &wrong).await,
            422,
            "invalid_definitions",
        )
        .await;
        let torn = server.http.put(server.url(path)).header("if-match", stale);
        let torn = torn.header("content-type", "application/json").body("{");
        refused(torn.send().await.unwrap(), 400, "invalid_json").await;
        let fine = puts(path)[0].clone();
        refused(
            send(&server, Method::PUT, path, stale, &fine).await,
            412,
            "precondition_failed",
        )
        .await;
    }
}

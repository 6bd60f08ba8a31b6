//! The walk: every route of the served document × every role × a token of no app, of the app, of another app. What must
//! come of it follows from what the route declares alone, so that a new route is walked without a word here.

use std::{collections::BTreeMap, time::Duration};

use reqwest::{Method, Response};
use robata_core::{
    JobId, Role,
    executor::Stream,
    store::{AttemptStore, SetAside},
};
use serde_json::{Value, json};

use crate::server::{Server, Worker, start};

/// Whose every route is asked for.
const OWN: &str = "shop";
const OTHER: &str = "bank";
/// Stands in everything of the app that has text, and in no request.
const MARK: &str = "mark-7f3a";

/// A route of the document.
#[derive(Clone, Debug)]
struct Route {
    method: Method,
    path: String,
    /// `None`: any role will do.
    role: Option<Role>,
    installation: bool,
    /// Its path names a thing of an app.
    nested: bool,
}

async fn routes(server: &Server, token: &str) -> Vec<Route> {
    let document: Value = server.get_as(token, "/api/v1/openapi.json").await.json().await.unwrap();
    let mut routes = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if ["/healthz", "/readyz"].contains(&path.as_str()) {
                continue;
            }
            let words = operation["security"][0]["token"].as_array().unwrap();
            let words: Vec<&str> = words.iter().map(|word| word.as_str().unwrap()).collect();
            let roles: Vec<Role> = words.iter().filter_map(|word| Role::of(word)).collect();
            assert!(roles.len() == 1 || words.contains(&"any"), "{method} {path}: {words:?}");
            let installation = words.contains(&"installation");
            routes.push(Route {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                role: roles.first().copied(),
                installation,
                nested: path.contains('{') && !installation,
            });
        }
    }
    assert!(routes.len() >= 28, "only {} routes", routes.len());
    routes
}

/// What a route's path names, all of it of `OWN`.
struct Things {
    job: JobId,
    worker: String,
}

impl Things {
    async fn make(server: &Server, worker: &Worker<'_>, root: &str) -> Self {
        let definitions = json!({"apps": {
            OWN: {"image": format!("{MARK}:1"), "jobs": {
                "mail": {"queue": "letters", "command": [MARK], "env": {"NAME": MARK}, "env_allow": [MARK.replace('-', "_")]},
            }},
            OTHER: {"image": "bank:1", "jobs": {"pay": {}}},
        }});
        let apply = json!({"document": definitions}).to_string();
        expect(server.send_as(root, Method::POST, "/api/v1/apply", &apply).await, 200).await;
        let pause = json!({"reason": MARK}).to_string();
        let path = "/api/v1/queues/letters/pause";
        expect(server.send_as(root, Method::POST, path, &pause).await, 200).await;
        let path = "/api/v1/queues/letters/resume";
        expect(server.send_as(root, Method::POST, path, "").await, 200).await;
        let body = json!({
            "app": OWN, "job": "mail", "payload": MARK, "labels": {"label": MARK}, "idempotency_key": MARK,
            "run_at": "2020-01-01T00:00:00Z",
        });
        let answer = server
            .send_as(root, Method::POST, "/api/v1/jobs", &body.to_string())
            .await;
        assert!([200, 201].contains(&answer.status().as_u16()), "{answer:?}");
        let job: Value = answer.json().await.unwrap();
        let job = crate::server::id(&job);
        let _ = worker;
        let workers = server.store.workers().await.unwrap();
        Self {
            job,
            worker: workers[0].incarnation.to_string(),
        }
    }

    fn path(&self, route: &Route) -> String {
        let id = if route.path.contains("/jobs/") {
            self.job.to_string()
        } else {
            self.worker.clone()
        };
        let path = route.path.replace("{id}", &id).replace("{app}", OWN);
        let path = path.replace("{job}", "mail").replace("{queue}", "letters");
        // Of a route that is not here yet, too.
        let mut filled = path.replace("{name}", "victim");
        while let (Some(begin), Some(end)) = (filled.find('{'), filled.find('}')) {
            filled.replace_range(begin..=end, "mail");
        }
        filled
    }
}

/// A body that says something of `OWN`; a route that is not here gets one that says nothing.
fn body(route: &Route) -> String {
    match (route.method.as_str(), route.path.as_str()) {
        ("GET" | "DELETE", _) => String::new(),
        ("POST", "/api/v1/jobs") => json!({"app": OWN, "job": "mail"}).to_string(),
        ("POST", "/api/v1/jobs/batch") => json!({"jobs": [{"app": OWN, "job": "mail"}]}).to_string(),
        ("POST", "/api/v1/apply") => json!({"document": {"apps": {OWN: {"jobs": {}}}}}).to_string(),
        ("POST", path) if path.ends_with("/run") => json!({"command": ["true"]}).to_string(),
        ("POST", "/api/v1/realms/lost") => json!({"realm": "nowhere"}).to_string(),
        ("POST", "/api/v1/tokens") => json!({"name": "victim", "role": "read"}).to_string(),
        _ => "{}".to_owned(),
    }
}

async fn expect(response: Response, status: u16) -> String {
    let got = response.status().as_u16();
    let text = response.text().await.unwrap();
    assert_eq!(got, status, "{text}");
    text
}

fn code(text: &str) -> String {
    let problem: Value = serde_json::from_str(text).unwrap_or_default();
    problem["code"].as_str().unwrap_or_default().to_owned()
}

struct Site {
    server: Server,
    root: String,
    tokens: BTreeMap<(Role, Option<&'static str>), String>,
}

async fn site() -> Site {
    let server = start().await;
    let root = server.token("root", Role::Admin, None).await;
    let mut tokens = BTreeMap::new();
    for role in Role::ALL {
        for app in [None, Some(OWN), Some(OTHER)] {
            let name = format!("{role}-{}", app.unwrap_or("all"));
            tokens.insert((role, app), server.token(&name, role, app).await);
        }
    }
    Site { server, root, tokens }
}

#[tokio::test]
async fn every_route_lets_in_whom_it_says_and_nobody_else() {
    let Site { server, root, tokens } = site().await;
    let worker = Worker::new(&server).await;
    let set_aside = SetAside {
        source: "letters/docker".into(),
        reason: MARK.into(),
        body: MARK.into(),
        attributes: BTreeMap::new(),
    };
    server.store.set_aside(vec![set_aside]).await.unwrap();
    let mut things = Things::make(&server, &worker, &root).await;
    let mut let_in = 0;
    for route in routes(&server, &root).await {
        for ((role, app), token) in &tokens {
            let what = format!("{} {} by {role} of {app:?}", route.method, route.path);
            let response = server
                .send_as(token, route.method.clone(), &things.path(&route), &body(&route))
                .await;
            let status = response.status().as_u16();
            let text = response.text().await.unwrap();
            if route.installation && app.is_some() {
                assert_eq!((status, &*code(&text)), (404, "unknown_route"), "{what}: {text}");
            } else if route.role.is_some_and(|needed| !role.may(needed)) {
                assert_eq!((status, &*code(&text)), (403, "forbidden"), "{what}: {text}");
            } else if *app == Some(OTHER) {
                // What is nested in the app is not there; what says it in its body finds nothing to do it to.
                if route.nested {
                    assert_eq!(status, 404, "{what}: {text}");
                    assert!(code(&text).starts_with("unknown_"), "{what}: {text}");
                }
                assert!(status < 500, "{what}: {text}");
            } else {
                assert!(
                    ![401, 403, 404].contains(&status) || text.contains("nowhere") || text.contains("victim"),
                    "{what}: {status} {text}"
                );
                assert!(status < 500, "{what}: {text}");
                let_in += usize::from(status < 300);
                if route.method != Method::GET {
                    things = Things::make(&server, &worker, &root).await;
                }
            }
            if *app == Some(OTHER) && route.path != "/api/v1/openapi.json" {
                assert!(!text.contains(MARK), "{what} sees what is not theirs: {text}");
                assert!(
                    !text.contains(&things.job.to_string()) || route.nested,
                    "{what}: {text}"
                );
            }
        }
        // Nobody without a token, whatever the route.
        let response = server
            .send(route.method.clone(), &things.path(&route), &body(&route))
            .await;
        assert_eq!(code(&expect(response, 401).await), "unauthenticated");
    }
    assert!(let_in > 100, "only {let_in} were let in: the walk asks wrongly");
    // Nothing of all that was done to the app by those of the other one.
    let filter = robata_client::AuditFilter {
        app: Some(OWN.into()),
        limit: Some(500),
        ..Default::default()
    };
    for record in server.client_as(&root).audit(&filter).await.unwrap().records {
        assert!(!record.by.ends_with(OTHER), "{record:?}");
    }
}

#[tokio::test]
async fn what_is_anothers_is_told_in_the_words_of_what_is_not_there() {
    let Site { server, root, tokens } = site().await;
    let worker = Worker::new(&server).await;
    let things = Things::make(&server, &worker, &root).await;
    let unknown = Things {
        job: JobId::new(),
        worker: "018f4a3e-0000-7000-8000-000000000000".into(),
    };
    let token = &tokens[&(Role::Admin, Some(OTHER))];
    for route in routes(&server, &root).await {
        if !route.path.contains('{') {
            continue;
        }
        let theirs = things.path(&route);
        let nothing = unknown.path(&route).replace(OWN, "nope").replace("letters", "nothing");
        let mut told = Vec::new();
        for path in [&theirs, &nothing] {
            let response = server.send_as(token, route.method.clone(), path, &body(&route)).await;
            let headers: Vec<_> = response.headers().keys().map(ToString::to_string).collect();
            let text = expect(response, 404).await;
            let mut text = text.replace(path, "PATH");
            for (name, stands_for) in [(things.job, "ID"), (unknown.job, "ID")] {
                text = text.replace(&name.to_string(), stands_for);
            }
            for (name, stands_for) in [
                (OWN, "APP"),
                ("nope", "APP"),
                ("letters", "QUEUE"),
                ("nothing", "QUEUE"),
            ] {
                text = text.replace(&format!(" {name}\""), &format!(" {stands_for}\""));
                text = text.replace(&format!("\\\"{name}\\\""), stands_for);
            }
            told.push((headers, text));
        }
        assert_eq!(told[0], told[1], "{theirs} {nothing}");
    }
}

#[tokio::test]
async fn what_lasts_is_no_other_way_in() {
    let Site { server, root, tokens } = site().await;
    let worker = Worker::new(&server).await;
    let things = Things::make(&server, &worker, &root).await;
    let held = worker.start(things.job).await;
    worker.print(&held, Stream::Stdout, 0, MARK.as_bytes()).await;
    let job = format!("/api/v1/jobs/{}", things.job);
    let lasting = [
        format!("{job}?wait=60"),
        format!("{job}/logs?follow=true"),
        format!("{job}/logs?follow=true&attempt=1&stream=stdout&offset=1"),
    ];
    let ask = async |token: Option<&String>, path: &str, accept: &str| {
        let mut request = server.http.get(server.url(path)).header("accept", accept);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        // It is answered at once, not when there is something to tell.
        let answer = async {
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        };
        tokio::time::timeout(Duration::from_secs(10), answer).await.unwrap()
    };
    for path in &lasting {
        for accept in ["text/plain", "application/x-ndjson", "text/event-stream"] {
            assert_eq!(ask(None, path, accept).await.0, 401, "{path}");
            for (token, code) in [
                ((Role::Admin, Some(OTHER)), "unknown_job"),
                ((Role::Read, Some(OTHER)), "unknown_job"),
                ((Role::Enqueue, Some(OWN)), "forbidden"),
                ((Role::Enqueue, None), "forbidden"),
            ] {
                let (_, text) = ask(Some(&tokens[&token]), path, accept).await;
                assert_eq!(self::code(&text), code, "{path} by {token:?}: {text}");
                assert!(!text.contains(MARK), "{text}");
            }
        }
    }
    // For whom it is it lasts.
    let request = server
        .http
        .get(server.url(&lasting[1]))
        .bearer_auth(&tokens[&(Role::Read, Some(OWN))]);
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.chunk().await.unwrap().unwrap(), MARK.as_bytes());
}

#[tokio::test]
async fn bodies_that_name_another_app_do_nothing() {
    let Site { server, root, tokens } = site().await;
    let worker = Worker::new(&server).await;
    let things = Things::make(&server, &worker, &root).await;
    let bank = &tokens[&(Role::Deploy, Some(OTHER))];
    let jobs = || async {
        server
            .client_as(&root)
            .jobs(&Default::default())
            .await
            .unwrap()
            .jobs
            .len()
    };
    let before = jobs().await;
    let post = |path: &'static str, body: Value| {
        let server = &server;
        async move {
            let response = server.send_as(bank, Method::POST, path, &body.to_string()).await;
            (response.status().as_u16(), response.json::<Value>().await.unwrap())
        }
    };
    // As an app that is not there, also with the key of a job that is.
    let mut told = Vec::new();
    for app in [OWN, "nope"] {
        let (status, problem) = post("/api/v1/jobs", json!({"app": app, "job": "mail"})).await;
        assert_eq!((status, &problem["code"]), (404, &json!("unknown_app")));
        told.push(problem.to_string().replace(app, "APP"));
    }
    assert_eq!(told[0], told[1]);
    let same = json!({
        "app": OWN, "job": "mail", "payload": MARK, "labels": {"label": MARK}, "idempotency_key": MARK,
        "run_at": "2020-01-01T00:00:00Z",
    });
    let root_again = server
        .send_as(&root, Method::POST, "/api/v1/jobs", &same.to_string())
        .await;
    assert_eq!(root_again.status(), 200, "the key answers its first job");
    let (status, problem) = post("/api/v1/jobs", same.clone()).await;
    assert_eq!((status, &problem["code"]), (404, &json!("unknown_app")), "{problem}");
    let own = json!({"app": OTHER, "job": "pay"});
    let (status, answer) = post(
        "/api/v1/jobs/batch",
        json!({"jobs": [own, same, {"app": OWN, "job": "nope"}]}),
    )
    .await;
    assert_eq!(status, 200);
    let results: Vec<_> = answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| &result["status"])
        .collect();
    assert_eq!(results, [201, 404, 404]);
    assert!(
        !answer.to_string().contains(MARK) && !answer.to_string().contains(&things.job.to_string()),
        "{answer}"
    );
    let (status, answer) = post("/api/v1/jobs/batch", json!({"atomic": true, "jobs": [own, same]})).await;
    assert_eq!((status, &answer["problems"][0]["path"]), (422, &json!(["jobs", "1"])));
    assert_eq!(jobs().await, before + 1, "only what is the bank's own was enqueued");

    let catalog = || async {
        let root = server.client_as(&root);
        (root.apps().await.unwrap(), root.queues().await.unwrap())
    };
    let before = catalog().await;
    for (document, path) in [
        (
            json!({"apps": {OWN: {"jobs": {"mail": {"command": ["evil"]}}}}}),
            json!(["apps", OWN]),
        ),
        (json!({"apps": {"nope": {}}}), json!(["apps", "nope"])),
        (
            json!({"apps": {OTHER: {"image": "evil:1"}, OWN: {}}}),
            json!(["apps", OWN]),
        ),
        (json!({"defaults": {"image": "evil:1"}}), json!(["defaults"])),
        (
            json!({"queues": {"letters": {"max_running": 1}}}),
            json!(["queues", "letters"]),
        ),
        (json!({"queues": {OTHER: {"max_running": 1}}}), json!(["queues", OTHER])),
    ] {
        for dry_run in ["/api/v1/apply", "/api/v1/apply?dry_run=true"] {
            let (status, answer) = post(dry_run, json!({"document": document})).await;
            assert_eq!(
                (status, &answer["code"]),
                (422, &json!("invalid_definitions")),
                "{answer}"
            );
            assert_eq!(
                (&answer["problems"][0]["path"], &answer["problems"][0]["code"]),
                (&path, &json!("not_allowed"))
            );
        }
    }
    assert_eq!(catalog().await, before);
    let (status, _) = post(
        "/api/v1/apply",
        json!({"document": {"apps": {OTHER: {"image": "bank:2"}}}}),
    )
    .await;
    assert_eq!(status, 200);
}

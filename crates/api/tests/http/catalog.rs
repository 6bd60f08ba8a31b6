//! Applying documents, and apps and definitions one by one.

use reqwest::Method;
use robata_client::{ApplyOptions, ApplyRequest, ClientError};
use robata_core::{AppName, store::CatalogStore};
use serde_json::{Map, Value, json};

use crate::server::{Server, document, refused, shop, start, start_with};

fn app() -> AppName {
    "shop".parse().unwrap()
}

fn settings(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

async fn plan(server: &Server, document: Value, dry_run: bool) -> Vec<(String, String, String)> {
    let request = ApplyRequest {
        document,
        ..ApplyRequest::default()
    };
    let how = ApplyOptions { dry_run, prune: false };
    let answer = server.client.apply(&request, how).await.unwrap();
    assert!(answer.problems.is_empty());
    let told = answer.plan.into_iter().map(|item| (item.kind, item.name, item.action));
    told.collect()
}

fn told(kind: &str, name: &str, action: &str) -> (String, String, String) {
    (kind.into(), name.into(), action.into())
}

#[tokio::test]
async fn an_apply_says_what_it_does_and_a_dry_run_does_nothing() {
    let server = start().await;
    let made = [
        told("app", "shop", "create"),
        told("definition", "mail", "create"),
        told("definition", "resize", "create"),
    ];
    assert_eq!(plan(&server, document(), true).await, made);
    assert!(server.client.apps().await.unwrap().is_empty());
    assert_eq!(plan(&server, document(), false).await, made);
    let revision = server.store.catalog().await.unwrap().revision;
    let again = plan(&server, document(), false).await;
    assert!(again.iter().all(|(_, _, action)| action == "unchanged"), "{again:?}");
    assert_eq!(server.store.catalog().await.unwrap().revision, revision);

    let mut changed = document();
    changed["apps"]["shop"]["jobs"] = json!({"resize": {"command": ["resize", "-v"]}});
    let plan = plan(&server, changed, false).await;
    assert!(plan.contains(&told("definition", "resize", "update")), "{plan:?}");
    assert!(plan.contains(&told("definition", "mail", "keep")), "{plan:?}");
    let definition = server
        .client
        .definition(&app(), &"resize".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(definition.version, 2);
    assert_eq!(definition.definition["image"], "shop:1");
    assert_eq!(Value::Object(definition.settings), json!({"command": ["resize", "-v"]}));
}

#[tokio::test]
async fn every_mistake_of_a_document_is_told_and_nothing_is_applied() {
    let server = shop().await;
    let bad = json!({"apps": {"shop": {"image": "shop:2", "jobs": {"a": {"tiemout": "1s"}, "b": {"timeout": 3}}}},
                     "queues": {"x": {"max_running": 0}}});
    let request = ApplyRequest {
        document: bad,
        ..ApplyRequest::default()
    };
    for dry_run in [true, false] {
        let how = ApplyOptions { dry_run, prune: false };
        let Err(ClientError::Problem(problem)) = server.client.apply(&request, how).await else {
            panic!("taken");
        };
        assert_eq!((problem.status, &*problem.code), (422, "invalid_definitions"));
        let paths: Vec<String> = problem.problems.iter().map(|place| place.path.join(".")).collect();
        assert_eq!(
            paths,
            [
                "apps.shop.jobs.a.tiemout",
                "apps.shop.jobs.b.timeout",
                "queues.x.max_running"
            ]
        );
    }
    let app = server.client.app(&app()).await.unwrap();
    assert_eq!(app.settings["image"], "shop:1");
}

#[tokio::test]
async fn pruning_removes_what_an_app_of_the_document_leaves_out_and_nothing_else() {
    let server = shop().await;
    server
        .apply(json!({"apps": {"bank": {"image": "bank:1", "jobs": {"pay": {}}}}}))
        .await;
    let mut less = document();
    less["apps"]["shop"]["jobs"] = json!({"resize": {}});
    let request = ApplyRequest {
        document: less,
        ..ApplyRequest::default()
    };
    for dry_run in [true, false] {
        let before = server.client.definitions(&app()).await.unwrap();
        assert_eq!(before.len(), 2, "a dry run changed something");
        let how = ApplyOptions { dry_run, prune: true };
        let plan = server.client.apply(&request, how).await.unwrap().plan;
        let deleted: Vec<_> = plan.iter().filter(|item| item.action == "delete").collect();
        assert_eq!(deleted.len(), 1, "{plan:?}");
        assert_eq!(
            (
                deleted[0].kind.as_str(),
                deleted[0].app.as_ref(),
                deleted[0].name.as_str()
            ),
            ("definition", Some(&app()), "mail")
        );
    }
    let left = server.client.definitions(&app()).await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(
        server.client.definitions(&"bank".parse().unwrap()).await.unwrap().len(),
        1
    );
    let job = server.post("/api/v1/jobs", r#"{"app": "shop", "job": "mail"}"#).await;
    refused(job, 404, "unknown_definition").await;
}

#[tokio::test]
async fn an_image_of_an_apply_stands_in_place_of_the_documents() {
    let server = shop().await;
    let request = |images: Value| ApplyRequest {
        document: document(),
        images: serde_json::from_value(images).unwrap(),
    };
    let new = request(json!({"shop": "shop:2"}));
    server.client.apply(&new, ApplyOptions::default()).await.unwrap();
    for definition in server.client.definitions(&app()).await.unwrap() {
        assert_eq!(
            (definition.definition["image"].as_str(), definition.version),
            (Some("shop:2"), 2)
        );
    }
    assert_eq!(server.client.app(&app()).await.unwrap().settings["image"], "shop:2");

    let wrong = request(json!({"shop": "", "shpo": "shop:3"}));
    for dry_run in [true, false] {
        let how = ApplyOptions { dry_run, prune: true };
        let Err(ClientError::Problem(problem)) = server.client.apply(&wrong, how).await else {
            panic!("taken");
        };
        assert_eq!((problem.status, &*problem.code), (422, "invalid_definitions"));
        let told: Vec<_> = problem
            .problems
            .iter()
            .map(|place| (place.path.join("."), place.code.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("images.shop".to_owned(), "invalid"),
                ("images.shpo".to_owned(), "unknown_app")
            ]
        );
    }
    assert_eq!(server.client.app(&app()).await.unwrap().settings["image"], "shop:2");
}

#[tokio::test]
async fn a_description_is_kept_and_shown() {
    let server = shop().await;
    let mut described = document();
    described["apps"]["shop"]["description"] = json!("Sells things.");
    described["apps"]["shop"]["jobs"]["mail"] = json!({"description": "Tells of an order."});
    server.apply(described).await;
    assert_eq!(
        server.client.app(&app()).await.unwrap().settings["description"],
        "Sells things."
    );
    let of = async |job: &str| {
        let definition = server.client.definition(&app(), &job.parse().unwrap()).await.unwrap();
        definition.definition.get("description").cloned()
    };
    assert_eq!(
        (of("mail").await, of("resize").await),
        (Some(json!("Tells of an order.")), None)
    );
    // A definition put alone leaves the app's as it is.
    let put = settings(json!({"command": ["mail"]}));
    server
        .client
        .put_definition(&app(), &"mail".parse().unwrap(), &put)
        .await
        .unwrap();
    assert_eq!(
        server.client.app(&app()).await.unwrap().settings["description"],
        "Sells things."
    );
    assert_eq!(of("mail").await, None);
    let long = json!({"description": "x".repeat(1_001)}).to_string();
    let response = server.send(Method::PUT, "/api/v1/apps/shop", &long).await;
    let problem = refused(response, 422, "invalid_definitions").await;
    assert_eq!(problem.problems[0].path, ["description"]);
}

#[tokio::test]
async fn a_parameter_of_apply_that_there_is_not_is_refused() {
    let server = shop().await;
    let body = json!({"document": document()}).to_string();
    let response = server.post("/api/v1/apply?dryrun=true", &body).await;
    refused(response, 400, "invalid_query").await;
}

#[tokio::test]
async fn an_executor_that_there_is_not_is_a_mistake_of_the_document() {
    let server = start_with(|config| config.executors = vec!["docker".parse().unwrap()]).await;
    let body = json!({"document": {"apps": {"a": {"image": "x", "jobs": {"j": {"executor": "k8s"}}}}}}).to_string();
    let problem = refused(server.post("/api/v1/apply", &body).await, 422, "invalid_definitions").await;
    assert_eq!(problem.problems[0].code, "unknown_executor");
}

#[tokio::test]
async fn an_app_is_put_shown_and_deleted_without_its_definitions_being_touched() {
    let server = shop().await;
    let put = |body: Value| {
        let body = body.to_string();
        let server = &server;
        async move { server.send(Method::PUT, "/api/v1/apps/shop", &body).await }
    };
    let response = put(json!({"image": "shop:9", "max_running": 3})).await;
    assert_eq!(response.status(), 200);
    let shown: Value = response.json().await.unwrap();
    assert_eq!(
        shown,
        json!({"app": "shop", "settings": {"image": "shop:9", "max_running": 3}, "jobs": ["mail", "resize"]})
    );
    let definition = server
        .client
        .definition(&app(), &"mail".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(definition.definition["image"], "shop:9");
    let other = "new".parse().unwrap();
    let made = server.send(Method::PUT, "/api/v1/apps/new", r#"{"image": "x"}"#).await;
    assert_eq!(made.status(), 201);
    assert_eq!(server.client.apps().await.unwrap().len(), 2);

    let problem = refused(
        put(json!({"imgae": "x", "max_running": 0})).await,
        422,
        "invalid_definitions",
    )
    .await;
    let paths: Vec<_> = problem.problems.iter().map(|place| place.path.clone()).collect();
    assert_eq!(paths, [["imgae"], ["max_running"]]);
    let problem = refused(put(json!({"jobs": {}})).await, 422, "invalid_definitions").await;
    assert!(problem.detail.contains("/definitions/"), "{problem:?}");
    refused(
        server.send(Method::PUT, "/api/v1/apps/a%20b", "{}").await,
        422,
        "invalid_name",
    )
    .await;
    refused(put(json!([])).await, 422, "invalid_request").await;

    server.client.delete_app(&other).await.unwrap();
    let error = server.client.delete_app(&other).await.unwrap_err();
    assert_eq!(error.problem().unwrap().code, "unknown_app");
    server.client.delete_app(&app()).await.unwrap();
    let response = server.post("/api/v1/jobs", r#"{"app": "shop", "job": "mail"}"#).await;
    refused(response, 404, "unknown_app").await;
}

#[tokio::test]
async fn a_definition_is_put_shown_and_deleted() {
    let server = shop().await;
    let name = "mail".parse().unwrap();
    let put = settings(json!({"command": ["mail"], "queue": "fast"}));
    let definition = server.client.put_definition(&app(), &name, &put).await.unwrap();
    assert_eq!((definition.version, &definition.settings), (2, &put));
    let job = server.enqueue(r#"{"app": "shop", "job": "mail"}"#).await;
    assert_eq!(job["queue"], "fast");
    let made = server
        .send(Method::PUT, "/api/v1/apps/shop/definitions/Billing::InvoiceJob", "{}")
        .await;
    assert_eq!(made.status(), 201);
    let all = server.client.definitions(&app()).await.unwrap();
    let names: Vec<&str> = all.iter().map(|definition| definition.job.as_str()).collect();
    assert_eq!(names, ["Billing::InvoiceJob", "mail", "resize"]);

    let path = "/api/v1/apps/shop/definitions/mail";
    let response = server
        .send(Method::PUT, path, r#"{"retry": {"max_attempts": 0}, "tiemout": 1}"#)
        .await;
    let problem = refused(response, 422, "invalid_definitions").await;
    let paths: Vec<String> = problem.problems.iter().map(|place| place.path.join(".")).collect();
    assert_eq!(paths, ["retry.max_attempts", "tiemout"]);
    let response = server.send(Method::PUT, "/api/v1/apps/nope/definitions/x", "{}").await;
    refused(response, 404, "unknown_app").await;

    server.client.delete_definition(&app(), &name).await.unwrap();
    refused(server.get(path).await, 404, "unknown_definition").await;
    let response = server.send(Method::DELETE, path, "").await;
    refused(response, 404, "unknown_definition").await;
    let response = server.post("/api/v1/jobs", r#"{"app": "shop", "job": "mail"}"#).await;
    refused(response, 404, "unknown_definition").await;
}

#[tokio::test]
async fn a_definition_with_nothing_to_run_is_refused_below_its_path() {
    let server = start().await;
    server.apply(json!({"apps": {"a": {}}})).await;
    let response = server.send(Method::PUT, "/api/v1/apps/a/definitions/x", "{}").await;
    let problem = refused(response, 422, "invalid_definitions").await;
    assert_eq!(problem.problems[0].code, "nothing_to_run");
    assert!(problem.problems[0].path.is_empty());
}

#[tokio::test]
async fn concurrent_changes_all_take_place() {
    let server = shop().await;
    let puts = (0..6).map(|number| {
        let server = &server;
        async move {
            let name = format!("job{number}").parse().unwrap();
            let put = settings(json!({"command": ["x"]}));
            server.client.put_definition(&app(), &name, &put).await
        }
    });
    for done in futures::future::join_all(puts).await {
        done.unwrap();
    }
    assert_eq!(server.client.definitions(&app()).await.unwrap().len(), 8);
}

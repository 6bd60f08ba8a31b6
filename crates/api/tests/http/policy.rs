//! The operator's policy: refused at an apply, a put and a one-off, with the path of the key and the setting.

use std::{collections::BTreeMap, sync::Arc};

use reqwest::Method;
use robata_client::Problem;
use robata_core::{ExecutorName, Policy, definition::Memory};
use serde_json::{Value, json};

use crate::server::{Server, refused, serve, start_with};

fn name(name: &str) -> ExecutorName {
    name.parse().unwrap()
}

/// Two executors: `docker` for all of `registry.example.com`, and `small` for the app `mail` alone, with little memory.
async fn narrow() -> Server {
    start_with(|config| {
        let mut docker = Policy::of("executors.docker.docker");
        docker.containers.as_mut().unwrap().images = vec!["registry.example.com/*".to_owned()];
        let mut small = Policy::of("executors.small.docker");
        small.apps = vec!["mail".to_owned()];
        small.max.memory = Some(Memory { bytes: 64 << 20 });
        config.executors = vec![name("docker"), name("small")];
        config.policies = BTreeMap::from([(name("docker"), docker), (name("small"), small)]);
    })
    .await
}

fn told(problem: &Problem) -> Vec<String> {
    let line = |place: &robata_client::Place| format!("{} {} {}", place.path.join("."), place.code, place.message);
    problem.problems.iter().map(line).collect()
}

async fn apply(server: &Server, document: &Value, query: &str) -> reqwest::Response {
    let body = json!({"document": document}).to_string();
    server.post(&format!("/api/v1/apply{query}"), &body).await
}

#[tokio::test]
async fn an_apply_outside_of_the_policy_is_refused_with_every_key_and_changes_nothing() {
    let server = narrow().await;
    let document = json!({"apps": {"shop": {"image": "registry.example.com/shop:1", "jobs": {
        "fine": {},
        "evil": {"image": "registry.example.com.evil.org/shop:1"},
        "docked": {"docker": {"network": "host", "mounts": {"/host": "/"}, "cap_add": ["SYS_ADMIN"]}},
        "mounts": {"docker": {"mounts": {"/host": "/"}, "volumes": {"/v": "vol"}}},
        "root": {"security": "privileged"},
        "elsewhere": {"executor": "small", "resources": {"memory": "1Gi"}},
        "wrong": {"timeout": 3},
        "nowhere": {"executor": "smal"},
    }}}});
    // Mistakes of the document come first: what cannot be read cannot be judged.
    let problem = refused(apply(&server, &document, "").await, 422, "invalid_definitions").await;
    assert_eq!(told(&problem).len(), 1, "{problem:?}");
    let mut readable = document.clone();
    readable["apps"]["shop"]["jobs"]["wrong"] = json!({});
    for query in ["", "?dry_run=true"] {
        let problem = refused(apply(&server, &readable, query).await, 422, "invalid_definitions").await;
        let told = told(&problem);
        for part in [
            "apps.shop.jobs.evil.image policy the image registry.example.com.evil.org/shop:1 is not allowed (setting executors.docker.docker.images)",
            "apps.shop.jobs.docked.docker.network policy",
            "apps.shop.jobs.mounts.docker.mounts./host policy / is not allowed (setting executors.docker.docker.mounts)",
            "apps.shop.jobs.mounts.docker.volumes./v policy vol is not allowed (setting executors.docker.docker.volumes)",
            "apps.shop.jobs.root.security policy",
            "apps.shop.jobs.elsewhere.executor policy jobs of the app shop may not run there (setting executors.small.docker.apps)",
            "apps.shop.jobs.elsewhere.resources.memory policy 1Gi is more memory than the 64Mi allowed (setting executors.small.docker.max.memory)",
            "apps.shop.jobs.nowhere.executor unknown_executor",
        ] {
            assert!(
                told.iter().any(|line| line.starts_with(part)),
                "{part}\nis not in\n{told:#?}"
            );
        }
        assert_eq!(told.len(), 8, "{told:#?}");
        assert!(server.client.apps().await.unwrap().is_empty());
    }
    server
        .apply(json!({"apps": {"shop": {"image": "registry.example.com/shop:1", "jobs": {"fine": {}}}}}))
        .await;
}

#[tokio::test]
async fn an_apps_image_is_judged_in_all_of_its_definitions_also_those_that_are_not_named() {
    let server = narrow().await;
    let fine = json!({"image": "registry.example.com/shop:1", "jobs": {"a": {}, "b": {}}});
    server.apply(json!({"apps": {"shop": fine}})).await;
    let document = json!({"apps": {"shop": {"image": "evil.org/shop:1", "jobs": {"a": {}}}}});
    let problem = refused(apply(&server, &document, "").await, 422, "invalid_definitions").await;
    let places: Vec<_> = problem.problems.iter().map(|place| place.path.join(".")).collect();
    assert_eq!(places, ["apps.shop.jobs.a.image", "apps.shop.jobs.b.image"]);
    // And the defaults of all apps in those of apps that are not named.
    let document = json!({"defaults": {"docker": {"network": "shop"}}});
    let problem = refused(apply(&server, &document, "").await, 422, "invalid_definitions").await;
    assert_eq!(problem.problems.len(), 2, "{problem:?}");
}

#[tokio::test]
async fn an_app_a_definition_and_a_one_off_are_held_to_the_policy_too() {
    let server = narrow().await;
    server
        .apply(json!({"apps": {"shop": {"image": "registry.example.com/shop:1", "jobs": {"a": {}}}}}))
        .await;
    let app = server
        .send(Method::PUT, "/api/v1/apps/shop", r#"{"image": "evil.org/x"}"#)
        .await;
    let problem = refused(app, 422, "invalid_definitions").await;
    assert_eq!(problem.problems[0].path, ["jobs", "a", "image"]);

    let path = "/api/v1/apps/shop/definitions/a";
    let definition = server.send(Method::PUT, path, r#"{"docker": {"gpus": "all"}}"#).await;
    let problem = refused(definition, 422, "invalid_definitions").await;
    assert_eq!(problem.problems[0].path, ["docker", "gpus"]);
    assert!(
        problem.problems[0].message.contains("executors.docker.docker.gpus"),
        "{problem:?}"
    );

    for (body, path) in [
        (json!({"command": ["x"], "image": "evil.org/x"}), "image"),
        (json!({"command": ["x"], "image": "registry.example.com/../x"}), "image"),
        (json!({"command": ["x"], "job": "a", "executor": "small"}), "executor"),
    ] {
        let run = server.post("/api/v1/apps/shop/run", &body.to_string()).await;
        let problem = refused(run, 422, "invalid_definitions").await;
        let places: Vec<_> = problem.problems.iter().map(|place| place.path.join(".")).collect();
        assert_eq!(places, [path], "{body}");
    }
    let fine = json!({"command": ["x"], "image": "registry.example.com/other:2"}).to_string();
    assert_eq!(server.post("/api/v1/apps/shop/run", &fine).await.status(), 201);
}

#[tokio::test]
async fn what_an_earlier_policy_let_in_stands_until_somebody_names_it_again() {
    let server = start_with(|config| {
        let mut docker = Policy::of("executors.docker.docker");
        docker.containers.as_mut().unwrap().networks = vec!["shop".to_owned()];
        config.policies = BTreeMap::from([(name("docker"), docker)]);
    })
    .await;
    let jobs = json!({"a": {"docker": {"network": "shop"}}, "b": {}});
    server
        .apply(json!({"apps": {"shop": {"image": "shop:1", "jobs": jobs}}}))
        .await;
    // A master with the default policy, over the same store.
    let config = robata_api::ApiConfig::default();
    let api = robata_api::Api::new(Arc::new(server.store.clone()), Arc::new(server.logs.clone()), config);
    let (address, task) = serve(api).await;
    let apply = async |document: Value| {
        let request = server.http.post(format!("http://{address}/api/v1/apply"));
        request.json(&json!({"document": document})).send().await.unwrap()
    };
    // Named as it is: told, though it would change nothing.
    let document = json!({"apps": {"shop": {"image": "shop:1", "jobs": {"a": {"docker": {"network": "shop"}}}}}});
    let problem = refused(apply(document).await, 422, "invalid_definitions").await;
    assert_eq!(problem.problems[0].path.join("."), "apps.shop.jobs.a.docker.network");
    // Not named and not changed: it does not keep others from being applied.
    let document = json!({"apps": {"shop": {"image": "shop:1", "jobs": {"b": {"timeout": "5m"}}}}});
    assert_eq!(apply(document).await.status(), 200);
    task.abort();
}

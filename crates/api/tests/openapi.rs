//! The committed OpenAPI document is the one that the code says.

use std::{fs, path::Path};

#[test]
fn the_committed_document_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let generated = robata_api::openapi().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "crates/api/openapi.json is not what the code says; write it anew with\n    \
         UPDATE=1 cargo test -p robata-api --test openapi\nand look at the difference: it is the public contract"
    );
}

#[test]
fn every_route_of_the_contract_is_in_the_document() {
    let document = serde_json::to_value(robata_api::openapi()).unwrap();
    for (path, methods) in [
        ("/api/v1/jobs", &["get", "post"][..]),
        ("/api/v1/jobs/batch", &["post"]),
        ("/api/v1/jobs/{id}", &["get"]),
        ("/api/v1/jobs/{id}/logs", &["get"]),
        ("/api/v1/jobs/{id}/cancel", &["post"]),
        ("/api/v1/jobs/{id}/retry", &["post"]),
        ("/api/v1/apps", &["get"]),
        ("/api/v1/apps/{app}", &["get", "put", "delete"]),
        ("/api/v1/apps/{app}/definitions", &["get"]),
        ("/api/v1/apps/{app}/definitions/{job}", &["get", "put", "delete"]),
        ("/api/v1/apps/{app}/run", &["post"]),
        ("/api/v1/apply", &["post"]),
        ("/api/v1/queues", &["get"]),
        ("/api/v1/queues/{queue}/pause", &["post"]),
        ("/api/v1/queues/{queue}/resume", &["post"]),
        ("/api/v1/workers", &["get"]),
        ("/api/v1/workers/{id}/drain", &["post"]),
        ("/api/v1/realms/lost", &["post"]),
        ("/api/v1/set-aside", &["get"]),
        ("/healthz", &["get"]),
        ("/readyz", &["get"]),
        ("/metrics", &["get"]),
    ] {
        for method in methods {
            let operation = &document["paths"][path][method];
            assert!(operation["operationId"].is_string(), "{method} {path}");
        }
    }
}

#[test]
fn no_two_operations_have_one_id() {
    let document = serde_json::to_value(robata_api::openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let mut ids: Vec<&str> = paths
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values())
        .filter_map(|operation| operation["operationId"].as_str())
        .collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
}

#[test]
fn every_operation_but_the_probes_says_how_it_refuses() {
    let document = serde_json::to_value(robata_api::openapi()).unwrap();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let refused = &operation["responses"]["default"]["content"]["application/problem+json"];
            let probe = ["/healthz", "/readyz"].contains(&path.as_str());
            assert!(probe || refused.is_object(), "{method} {path}");
        }
    }
}

#[test]
fn the_document_has_the_bounds_that_are_kept() {
    let document = serde_json::to_value(robata_api::openapi()).unwrap();
    let mut limits = 0;
    for methods in document["paths"].as_object().unwrap().values() {
        for operation in methods.as_object().unwrap().values() {
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["name"] == "limit" {
                    limits += 1;
                    let schema = &parameter["schema"];
                    assert_eq!((&schema["minimum"], &schema["maximum"]), (&1.into(), &500.into()));
                }
            }
        }
    }
    assert_eq!(limits, 3);
}

#[test]
fn bodies_are_what_is_taken() {
    let document = serde_json::to_value(robata_api::openapi()).unwrap();
    let body = |path: &str, method: &str| &document["paths"][path][method]["requestBody"];
    let pause = body("/api/v1/queues/{queue}/pause", "post");
    assert_ne!(pause["required"], true, "a pause needs no reason");
    for path in ["/api/v1/apps/{app}", "/api/v1/apps/{app}/definitions/{job}"] {
        let schema = &body(path, "put")["content"]["application/json"]["schema"];
        assert_eq!(schema["type"], "object", "{path}");
    }
    let document = &document["components"]["schemas"]["ApplyRequest"]["properties"]["document"];
    assert_eq!(document["type"], "object");
}

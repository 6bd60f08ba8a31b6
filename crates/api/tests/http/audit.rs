//! Who did what.

use reqwest::Method;
use robata_client::{AuditFilter, Client, EnqueueRequest};
use robata_core::{
    JobId, Role,
    finish::End,
    store::{AccessStore as _, AttemptStore as _},
};
use serde_json::{Value, json};

use crate::{
    server::{Server, Worker, refused, shop},
    tokens::{admin, request},
};

#[tokio::test]
async fn whoever_does_something_is_recorded_by_their_tokens_name() {
    let server = shop().await;
    let root = server.client_as(&admin(&server).await);
    let deploy = root.create_token(&request("ci", Role::Deploy)).await.unwrap().token;
    let ops = root.create_token(&request("ops", Role::Operate)).await.unwrap().token;
    let (ci, ops) = (server.client_as(&deploy), server.client_as(&ops));
    let settings = serde_json::from_value(json!({"timeout": "9m"})).unwrap();
    let (shop, mail) = ("shop".parse().unwrap(), "mail".parse().unwrap());
    ci.put_definition(&shop, &mail, &settings).await.unwrap();
    let enqueue = robata_client::EnqueueRequest::new("shop", "mail").unwrap();
    let job = ops.enqueue(&enqueue).await.unwrap().job.id;
    ops.pause_queue(&"shop".parse().unwrap(), "why").await.unwrap();
    assert!(ops.cancel(job).await.unwrap().changed);
    assert!(!ops.cancel(job).await.unwrap().changed);
    let pause = ops.queues().await.unwrap();
    assert!(
        pause
            .iter()
            .any(|queue| queue.paused.as_ref().is_some_and(|pause| pause.by == "ops"))
    );

    let whole = root.audit(&Default::default()).await.unwrap();
    let told: Vec<_> = whole
        .records
        .iter()
        .map(|record| (&*record.by, &*record.action, record.name.as_deref()))
        .collect();
    assert_eq!(
        told[..6],
        [
            ("ops", "cancel", Some("mail")),
            ("ops", "pause_queue", Some("shop")),
            ("ci", "set_definition", Some("mail")),
            ("root", "create_token", Some("ops")),
            ("root", "create_token", Some("ci")),
            ("local", "create_token", Some("root")),
        ]
    );
    assert!(told[6..].iter().all(|(by, ..)| *by == "local"), "{told:?}");
    let of = |filter: robata_client::AuditFilter| {
        let root = root.clone();
        async move { root.audit(&filter).await.unwrap().records.len() }
    };
    let filter = robata_client::AuditFilter::default;
    assert_eq!(
        of(robata_client::AuditFilter {
            by: Some("ops".into()),
            ..filter()
        })
        .await,
        2
    );
    assert_eq!(
        of(robata_client::AuditFilter {
            job: Some(job.to_string()),
            ..filter()
        })
        .await,
        1
    );
    assert_eq!(
        of(robata_client::AuditFilter {
            app: Some("none".into()),
            ..filter()
        })
        .await,
        0
    );
    // Page by page it is the same.
    let (mut pages, mut before) = (Vec::new(), None);
    loop {
        let page = robata_client::AuditFilter {
            before,
            limit: Some(2),
            ..filter()
        };
        let page = root.audit(&page).await.unwrap();
        assert!(page.records.len() <= 2);
        pages.extend(page.records);
        before = page.next_before;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(pages, whole.records);
    let token = server.token("raw", Role::Read, None).await;
    for bad in [
        "limit=0",
        "limit=501",
        "before=x",
        "before=9223372036854775808",
        "job=x",
        "app=a%20b",
    ] {
        let response = server.get_as(&token, &format!("/api/v1/audit?{bad}")).await;
        refused(response, 400, "invalid_query").await;
    }
}

/// What changes something and is not in the audit: a job's own record tells of its enqueue.
const ENQUEUES: [&str; 2] = ["post /api/v1/jobs", "post /api/v1/jobs/batch"];

/// Ends the leases of all workers, so that their realm is nobody's.
async fn no_workers(server: &Server) {
    for worker in server.store.workers().await.unwrap() {
        let _ = server.store.release(worker.incarnation).await;
    }
}

/// Makes ready what a route is to change; its path, its body, and the action that is recorded.
async fn changes(server: &Server, root: &Client, route: &str) -> (String, Value, &'static str) {
    let (shop, gone) = ("shop".parse().unwrap(), "gone".parse().unwrap());
    let none = serde_json::Map::new();
    let enqueue = || async {
        let request = EnqueueRequest::new("shop", "mail").unwrap();
        root.enqueue(&request).await.unwrap().job.id
    };
    let of_job = |id: JobId, verb: &str| format!("/api/v1/jobs/{id}/{verb}");
    let (method, path) = route.split_once(' ').unwrap();
    match (method, path) {
        ("post", "/api/v1/jobs/{id}/cancel") => (of_job(enqueue().await, "cancel"), json!({}), "cancel"),
        ("post", "/api/v1/jobs/{id}/retry") => {
            let (worker, job) = (Worker::new(server).await, enqueue().await);
            let held = worker.start(job).await;
            worker.end(&held, End::Exited(1)).await;
            (of_job(job, "retry"), json!({}), "retry")
        }
        ("put", "/api/v1/apps/{app}") => {
            // Of no matter to its definitions, which would be recorded, too.
            let settings = json!({"image": "shop:1", "description": "mails"});
            ("/api/v1/apps/shop".into(), settings, "set_app")
        }
        ("delete", "/api/v1/apps/{app}") => {
            root.put_app(&gone, &none).await.unwrap();
            ("/api/v1/apps/gone".into(), json!({}), "delete_app")
        }
        ("put", "/api/v1/apps/{app}/definitions/{job}") => {
            let path = "/api/v1/apps/shop/definitions/new";
            (path.into(), json!({"timeout": "9m"}), "set_definition")
        }
        ("delete", "/api/v1/apps/{app}/definitions/{job}") => {
            root.put_definition(&shop, &"gone".parse().unwrap(), &none)
                .await
                .unwrap();
            (
                "/api/v1/apps/shop/definitions/gone".into(),
                json!({}),
                "delete_definition",
            )
        }
        ("post", "/api/v1/apps/{app}/run") => ("/api/v1/apps/shop/run".into(), json!({"command": ["true"]}), "run"),
        ("post", "/api/v1/apply") => {
            let document = json!({"queues": {"images": {"max_running": 3}}});
            (path.into(), json!({"document": document}), "set_queue")
        }
        ("post", "/api/v1/queues/{queue}/pause") => (
            "/api/v1/queues/images/pause".into(),
            json!({"reason": "why"}),
            "pause_queue",
        ),
        ("post", "/api/v1/queues/{queue}/resume") => {
            root.pause_queue(&"shop".parse().unwrap(), "why").await.unwrap();
            ("/api/v1/queues/shop/resume".into(), json!({}), "resume_queue")
        }
        ("post", "/api/v1/workers/{id}/drain") => {
            no_workers(server).await;
            let _worker = Worker::new(server).await;
            let live = server.store.workers().await.unwrap().remove(0).incarnation;
            (format!("/api/v1/workers/{live}/drain"), json!({}), "drain_worker")
        }
        ("post", "/api/v1/realms/lost") => {
            let (worker, job) = (Worker::new(server).await, enqueue().await);
            worker.start(job).await;
            no_workers(server).await;
            (path.into(), json!({"realm": "realm"}), "lose_realm")
        }
        ("post", "/api/v1/tokens") => (path.into(), json!({"name": "made", "role": "read"}), "create_token"),
        ("delete", "/api/v1/tokens/{name}") => {
            root.create_token(&request("gone", Role::Read)).await.unwrap();
            ("/api/v1/tokens/gone".into(), json!({}), "revoke_token")
        }
        _ => panic!("{route} is new: say here how it is asked, and what is recorded of it"),
    }
}

#[tokio::test]
async fn every_route_that_changes_something_is_recorded_with_the_name_of_who_asked() {
    let server = shop().await;
    let secret = admin(&server).await;
    let root = server.client_as(&secret);
    let document: Value = server
        .get_as(&secret, "/api/v1/openapi.json")
        .await
        .json()
        .await
        .unwrap();
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let route = format!("{method} {path}");
            if method == "get" || ENQUEUES.contains(&&*route) {
                continue;
            }
            asked += 1;
            let name = format!("asker-{asked}");
            let token = server.token(&name, Role::Admin, None).await;
            let (path, body, action) = changes(&server, &root, &route).await;
            let method: Method = method.to_uppercase().parse().unwrap();
            let response = server.send_as(&token, method, &path, &body.to_string()).await;
            let status = response.status().as_u16();
            assert!(status < 300, "{route}: {status} {}", response.text().await.unwrap());
            let by = AuditFilter {
                by: Some(name),
                ..AuditFilter::default()
            };
            let told: Vec<_> = root.audit(&by).await.unwrap().records;
            let told: Vec<_> = told.iter().map(|record| &*record.action).collect();
            assert_eq!(told, [action], "{route}");
        }
    }
    assert!(asked >= 14, "only {asked} routes change something");
}

#[tokio::test]
async fn a_one_off_is_recorded_for_its_app_and_its_job() {
    let server = shop().await;
    let root = server.client_as(&admin(&server).await);
    let body = json!({"command": ["evil", "--token", "hunter2"]}).to_string();
    let ci = server.token("ci", Role::Deploy, Some("shop")).await;
    let response = server.send_as(&ci, Method::POST, "/api/v1/apps/shop/run", &body).await;
    let job: Value = response.json().await.unwrap();
    let list = {
        let mut list = robata_core::access::ListAudit::default();
        (list.job, list.limit) = (Some(crate::server::id(&job)), 10);
        list
    };
    let told = server.store.audit(list).await.unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].by.as_str(), told[0].action.as_str()), ("ci", "run"));
    assert_eq!(told[0].app.as_ref().map(|app| app.as_str()), Some("shop"));
    // What was run stands with the job, not here.
    let page = root.audit(&AuditFilter::default()).await.unwrap();
    assert!(!format!("{page:?}").contains("hunter2"));
}

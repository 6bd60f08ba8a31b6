//! Who did what.

use robata_core::Role;
use serde_json::json;

use crate::{
    server::{refused, shop},
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
    for bad in ["limit=0", "limit=501", "before=x", "job=x", "app=a%20b"] {
        let response = server.get_as(&token, &format!("/api/v1/audit?{bad}")).await;
        refused(response, 400, "invalid_query").await;
    }
}

//! The output of jobs in a bucket: written by a worker, read and followed at any master, here over a real S3 API.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use std::fs;

use serde_json::json;
use support::{Site, eventually, service};

const BUCKET: &str = "robata-daemons-test";

/// Daemons of this site keep logs in a part of the bucket that is theirs alone.
async fn in_a_bucket(site: &Site) {
    let endpoint = service("ROBATA_TEST_S3_URL");
    let client = robata_testkit::http().build().unwrap();
    let made = client.put(format!("{endpoint}/{BUCKET}")).send().await.unwrap();
    assert!(made.status().is_success() || made.status() == 409, "{made:?}");
    let mut settings = fs::read_to_string(site.config()).unwrap();
    settings.push_str(&format!(
        "[logs.s3]\nbucket = \"{BUCKET}\"\nprefix = \"{}\"\nregion = \"us-east-1\"\nendpoint = \"{endpoint}\"\naccess_key_id = \"test\"\nsecret_access_key = \"test\"\n",
        uuid::Uuid::now_v7()
    ));
    fs::write(site.config(), settings).unwrap();
}

#[tokio::test]
async fn output_is_followed_at_any_master_while_the_job_runs_and_is_whole_after_it() {
    let site = Site::new().await;
    in_a_bucket(&site).await;
    let (_one, first) = site.master().await;
    let (_two, second) = site.master().await;
    let _worker = site.worker(&[], &[]).await;
    let go = site.file("go");
    let text = format!(
        "echo begun; while [ ! -e {} ]; do sleep 0.05; done; seq 1 20000; echo over",
        go.display()
    );
    site.define(&first, "tells", &text, &json!({})).await;
    let id = site.enqueue(&first, "tells").await;
    let logs = |master: &str| format!("{master}/api/v1/jobs/{id}/logs");

    // While it runs, and without waiting for its end.
    let mut followed = robata_testkit::http()
        .build()
        .unwrap()
        .get(format!("{}?follow=true", logs(&second)))
        .send()
        .await
        .unwrap();
    let mut text = Vec::new();
    while !text.starts_with(b"begun\n") {
        text.extend_from_slice(&followed.chunk().await.unwrap().expect("it goes on"));
    }
    assert_eq!(site.job(&first, &id).await["state"], "running");
    fs::write(&go, "").unwrap();
    while let Some(more) = followed.chunk().await.unwrap() {
        text.extend_from_slice(&more);
    }

    site.until(&first, &id, "succeeded").await;
    let expected = {
        let numbers: String = (1..=20000).map(|number| format!("{number}\n")).collect();
        format!("begun\n{numbers}over\n")
    };
    assert_eq!(String::from_utf8(text).unwrap(), expected);
    for master in [&first, &second] {
        eventually("the log is whole", || async {
            (site.get(&logs(master)).await.1 == expected).then_some(())
        })
        .await;
    }
    // Nothing of it lies in the folder that would have been the default.
    assert!(!site.data().join("logs").exists());
}

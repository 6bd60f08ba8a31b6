//! Showing, waiting, listing, cancelling, retrying.

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use robata_client::JobFilter;
use robata_core::{JobId, JobState, finish::End};
use serde_json::Value;

use crate::server::{LONG, Worker, refused, shop};

#[tokio::test]
async fn a_job_shows_its_attempts() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let id = server.mail().await;
    let held = worker.start(id).await;
    worker.end(&held, End::Exited(3)).await;
    worker.finalise(&held).await;
    let job: Value = server.get(&format!("/api/v1/jobs/{id}")).await.json().await.unwrap();
    assert_eq!(job["state"], "failed");
    assert_eq!(job["reason"], "exit_code");
    let attempt = &job["attempts"][0];
    let keys: Vec<&str> = attempt.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "counted",
            "created_at",
            "definition_version",
            "detail",
            "executor",
            "exit_code",
            "finished_at",
            "handle",
            "image",
            "image_digest",
            "log",
            "message",
            "number",
            "realm",
            "reason",
            "signal",
            "started_at",
            "state",
            "worker",
        ]
    );
    assert_eq!(attempt["number"], 1);
    assert_eq!(attempt["exit_code"], 3);
    assert_eq!(attempt["counted"], true);
    assert_eq!(attempt["log"]["state"], "complete");
}

#[tokio::test]
async fn an_unknown_job_is_404() {
    let server = shop().await;
    let unknown = JobId::new();
    for id in [
        unknown.to_string(),
        unknown.to_string().to_uppercase(),
        "x".into(),
        "%ff".into(),
    ] {
        let response = server.get(&format!("/api/v1/jobs/{id}")).await;
        let status = response.status();
        assert!(status == 404 || (id == "%ff" && status == 400), "{id}: {status}");
    }
    refused(server.get(&format!("/api/v1/jobs/{unknown}")).await, 404, "unknown_job").await;
    refused(
        server.post(&format!("/api/v1/jobs/{unknown}/cancel"), "").await,
        404,
        "unknown_job",
    )
    .await;
    refused(
        server.post(&format!("/api/v1/jobs/{unknown}/retry"), "").await,
        404,
        "unknown_job",
    )
    .await;
    refused(
        server.get(&format!("/api/v1/jobs/{unknown}/logs")).await,
        404,
        "unknown_job",
    )
    .await;
}

#[tokio::test]
async fn whoever_waits_hears_of_the_end_at_once() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let id = server.mail().await;
    let held = worker.start(id).await;
    let waiting = tokio::spawn({
        let client = server.client.clone();
        async move {
            client
                .job_within(id, Duration::from_secs(60))
                .await
                .map(|job| (job, Instant::now()))
        }
    });
    server.waiters(1).await;
    worker.end(&held, End::Exited(0)).await;
    let ended = Instant::now();
    let (job, heard) = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(job.state.known(), Some(JobState::Succeeded));
    let late = heard.saturating_duration_since(ended);
    // Well below the look that is there in case a hint is lost.
    assert!(late < Duration::from_millis(1500), "{late:?}");
    let again = tokio::time::timeout(LONG, server.client.wait(id))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(again.state.known(), Some(JobState::Succeeded));
}

#[tokio::test]
async fn a_wait_ends_with_its_time_and_is_bounded() {
    let server = shop().await;
    let id = server.mail().await;
    let begun = Instant::now();
    let job = server.client.job_within(id, Duration::from_secs(1)).await.unwrap();
    assert_eq!(job.state.known(), Some(JobState::Queued));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    refused(
        server.get(&format!("/api/v1/jobs/{id}?wait=61")).await,
        400,
        "invalid_query",
    )
    .await;
    refused(
        server.get(&format!("/api/v1/jobs/{id}?wait=x")).await,
        400,
        "invalid_query",
    )
    .await;
}

#[tokio::test]
async fn a_shutdown_ends_long_polls() {
    let server = shop().await;
    let id = server.mail().await;
    let waiting = tokio::spawn({
        let client = server.client.clone();
        async move { client.job_within(id, Duration::from_secs(60)).await }
    });
    server.waiters(1).await;
    server.shutdown.cancel();
    let job = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(job.state.known(), Some(JobState::Queued));
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repeat() {
    let server = shop().await;
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.push(server.mail().await);
    }
    ids.reverse();
    let filter = JobFilter {
        limit: Some(3),
        ..JobFilter::default()
    };
    let first = server.client.jobs(&filter).await.unwrap();
    assert_eq!(first.jobs.len(), 3);
    assert!(first.next_cursor.is_some());
    assert!(first.jobs[0].payload.is_none() && first.jobs[0].attempts.is_none());
    let all: Vec<JobId> = server
        .client
        .all_jobs(filter)
        .map_ok(|job| job.id)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(all, ids);
    // A page that is exactly full and the last one says so.
    let filter = JobFilter {
        limit: Some(7),
        ..JobFilter::default()
    };
    assert_eq!(server.client.jobs(&filter).await.unwrap().next_cursor, None);
}

#[tokio::test]
async fn filters_hold_together() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let failed = server.mail().await;
    let held = worker.start(failed).await;
    worker.end(&held, End::Exited(1)).await;
    let labelled = server
        .enqueue(r#"{"app": "shop", "job": "resize", "labels": {"a": "1=2", "b": ""}}"#)
        .await;
    let plain = server.mail().await;
    let (labelled, list) = (crate::server::id(&labelled), async |query: &str| {
        let response = server.get(&format!("/api/v1/jobs?{query}")).await;
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        assert_eq!(status, 200, "{query}: {body}");
        let jobs = body["jobs"].as_array().unwrap().clone();
        jobs.iter().map(crate::server::id).collect::<Vec<_>>()
    });
    assert_eq!(list("").await, [plain, labelled, failed]);
    assert_eq!(list("state=failed").await, [failed]);
    assert_eq!(list("state=failed,queued").await, [plain, labelled, failed]);
    assert_eq!(list("state=failed&state=running").await, [failed]);
    assert_eq!(list("reason=exit_code").await, [failed]);
    assert_eq!(list("job=resize").await, [labelled]);
    assert_eq!(list("queue=images&app=shop").await, [labelled]);
    assert_eq!(list("app=other").await, []);
    assert_eq!(list("label=a%3D1%3D2").await, [labelled]);
    assert_eq!(list("label=a=1%3D2&label=b=").await, [labelled]);
    assert_eq!(list("label=a=1").await, []);
    assert_eq!(list("since=2099-01-01T00:00:00Z").await, []);
    assert_eq!(
        list("until=2099-01-01T00:00:00Z&since=2000-01-01T00:00:00Z&state=failed").await,
        [failed]
    );
    for bad in [
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=x",
        "state=done",
        "reason=x",
        "label=a",
        "label==b",
        "since=now",
        "cursor=x",
        "app=a%20b",
        "stat=failed",
        "app=a&app=b",
        "offset=3",
    ] {
        refused(server.get(&format!("/api/v1/jobs?{bad}")).await, 400, "invalid_query").await;
    }
    let problem = refused(server.get("/api/v1/jobs?stat=failed").await, 400, "invalid_query").await;
    assert!(problem.detail.contains("did you mean \"state\""), "{problem:?}");
}

#[tokio::test]
async fn cancel_says_whether_it_changed_anything() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let waiting = server.mail().await;
    let acted = server.client.cancel(waiting).await.unwrap();
    assert!(acted.changed);
    assert_eq!(acted.job.state.known(), Some(JobState::Cancelled));
    assert!(!server.client.cancel(waiting).await.unwrap().changed);

    let running = server.mail().await;
    let held = worker.start(running).await;
    let acted = server.client.cancel(running).await.unwrap();
    assert!(acted.changed);
    assert_eq!(acted.job.state.known(), Some(JobState::Running));
    assert!(acted.job.cancel_requested_at.is_some());
    assert!(!server.client.cancel(running).await.unwrap().changed);
    worker.end(&held, End::Exited(0)).await;

    let done = server.mail().await;
    let held = worker.start(done).await;
    worker.end(&held, End::Exited(0)).await;
    refused(
        server.post(&format!("/api/v1/jobs/{done}/cancel"), "").await,
        409,
        "conflict",
    )
    .await;
}

#[tokio::test]
async fn retry_is_for_failed_jobs_only() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let job = server.mail().await;
    assert!(!server.client.retry(job).await.unwrap().changed);
    let held = worker.start(job).await;
    worker.end(&held, End::Exited(1)).await;
    worker.finalise(&held).await;
    let acted = server.client.retry(job).await.unwrap();
    assert!(acted.changed);
    assert_eq!(acted.job.state.known(), Some(JobState::Queued));
    assert_eq!(acted.job.max_attempts, 2);
    let held = worker.start(job).await;
    worker.end(&held, End::Exited(0)).await;
    let error = server.client.retry(job).await.unwrap_err();
    assert_eq!(error.problem().unwrap().code, "conflict");
}

//! Masters and workers whose store is behind PgBouncer in transaction mode: what they do with jobs, with LISTEN past the
//! pooler and without it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use nix::sys::signal::Signal;
use serde_json::json;
use support::{Site, eventually};

/// Success, retry, time-out and cancel; a worker's death and its job's adoption.
async fn goes_through(site: Site) {
    let ((_one, first), (_two, second)) = tokio::join!(site.master(), site.master());
    let mut worker = site.worker(&[], &[]).await;
    let _other = site.worker(&["--queue", "nobody"], &[]).await;
    let retry = json!({"retry": {"max_attempts": 3, "base": "100ms", "backoff": "fixed"}});
    site.define(&first, "retries", "[ $ROBATA_ATTEMPT = 3 ]", &retry).await;
    let limit = json!({"timeout": "1s", "grace_period": "1s"});
    site.define(&second, "times-out", "sleep 600", &limit).await;
    site.define(&first, "is-cancelled", "sleep 600", &json!({"grace_period": "1s"}))
        .await;
    site.define(&second, "hello", "echo hello", &json!({})).await;
    // Each master hears of what the other was told.
    for master in [&first, &second] {
        for job in ["retries", "times-out", "is-cancelled", "hello"] {
            let url = format!("{master}/api/v1/jobs");
            let (url, body) = (
                &url,
                &json!({"app": "shop", "job": job, "payload": {}, "delay_seconds": 3600}),
            );
            eventually(format!("{master} knows {job}"), || async {
                (site.post(url, body).await.0 == 201).then_some(())
            })
            .await;
        }
    }

    // Statements prepared on one connection and run on another would fail here: there are more at once than the pooler has.
    let mut hellos = Vec::new();
    for number in 0..40 {
        let master = if number % 2 == 0 { &first } else { &second };
        hellos.push(site.enqueue(master, "hello").await);
    }
    let retries = site.enqueue(&first, "retries").await;
    let times_out = site.enqueue(&second, "times-out").await;
    let cancelled = site.enqueue(&first, "is-cancelled").await;
    site.until(&second, &cancelled, "running").await;
    let (status, answer) = site
        .post(&format!("{second}/api/v1/jobs/{cancelled}/cancel"), &json!({}))
        .await;
    assert_eq!(status, 202, "{answer}");
    for id in &hellos {
        let job = site.until(&first, id, "succeeded").await;
        assert_eq!(job["attempts"].as_array().unwrap().len(), 1, "{job:#}");
    }
    let job = site.until(&second, &retries, "succeeded").await;
    assert_eq!(job["attempts"].as_array().unwrap().len(), 3, "{job:#}");
    assert_eq!(site.until(&first, &times_out, "timed_out").await["state"], "failed");
    assert_eq!(site.until(&first, &cancelled, "cancelled").await["state"], "cancelled");

    site.define(
        &first,
        "is-adopted",
        "echo begun; sleep 3; echo over; exit 7",
        &json!({}),
    )
    .await;
    let id = site.enqueue(&first, "is-adopted").await;
    site.until(&first, &id, "running").await;
    worker.signal(Signal::SIGKILL);
    worker.ended().await;
    let _next = site.worker(&[], &[]).await;
    let job = site.until(&second, &id, "failed").await;
    let attempts = job["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), &attempts[0]["exit_code"]), (1, &json!(7)), "{job:#}");
}

#[tokio::test]
async fn all_goes_well_with_listening_past_the_pooler() {
    goes_through(Site::through_pgbouncer(str::to_owned).await).await;
}

#[tokio::test]
async fn all_goes_well_without_listening() {
    goes_through(Site::through_pgbouncer(|_| "off".to_owned()).await).await;
}

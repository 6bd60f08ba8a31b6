//! Masters and workers apart from each other, over a real PostgreSQL and Redis.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use std::{fs, net::SocketAddr};

use nix::sys::signal::Signal;
use robata_testkit::gate::Gate;
use serde_json::{Value, json};
use support::{Site, daemon::Daemon, eventually, proxy::Proxy, service};

/// A job that tells when it runs and ends once the test lets it.
async fn waits(site: &Site, master: &str) -> String {
    let text = format!(
        "echo begun; touch {0}; while [ ! -e {1} ]; do sleep 0.05; done; echo over",
        site.file("begun").display(),
        site.file("go").display()
    );
    site.define(master, "wait", &text, &json!({})).await;
    let id = site.enqueue(master, "wait").await;
    site.until(master, &id, "running").await;
    eventually("the job runs", || async { site.file("begun").exists().then_some(()) }).await;
    id
}

fn go(site: &Site) {
    fs::write(site.file("go"), "").unwrap();
}

async fn log(site: &Site, master: &str, id: &str) -> String {
    site.get(&format!("{master}/api/v1/jobs/{id}/logs")).await.1
}

async fn need(site: &Site, url: &str, name: &str) -> (u16, Value) {
    let (status, body) = site.get(&format!("{url}/readyz")).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    let needs = body["needs"].as_array().unwrap().iter();
    let need = needs.clone().find(|need| need["name"] == name);
    (status, need.unwrap_or_else(|| panic!("no {name} in {body}")).clone())
}

#[tokio::test]
async fn jobs_go_through_two_masters_and_two_workers_each_once() {
    let site = Site::new().await;
    let (_one, first) = site.master().await;
    let (_two, second) = site.master().await;
    let _workers = (site.worker(&[], &[]).await, site.worker(&[], &[]).await);
    let seen = site.file("seen");
    let text = format!("echo \"$ROBATA_JOB_ID\" >> {}; echo hello", seen.display());
    site.define(&first, "hello", &text, &json!({})).await;
    let mut ids = Vec::new();
    for number in 0..20 {
        let master = if number % 2 == 0 { &first } else { &second };
        ids.push(site.enqueue(master, "hello").await);
    }
    for id in &ids {
        let job = site.until(&second, id, "succeeded").await;
        assert_eq!(job["state"], "succeeded");
        assert_eq!(job["attempts"].as_array().unwrap().len(), 1, "{job:#}");
        assert_eq!(log(&site, &first, id).await, "hello\n");
    }
    let mut ran: Vec<_> = fs::read_to_string(&seen).unwrap().lines().map(str::to_owned).collect();
    ran.sort();
    ids.sort();
    assert_eq!(ran, ids);
}

#[tokio::test]
async fn a_worker_told_to_leave_leaves_its_job_to_the_next_one() {
    let site = Site::new().await;
    let (_master, master) = site.master().await;
    let mut worker = site.worker(&[], &[]).await;
    let id = waits(&site, &master).await;
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await.code(), Some(0));
    assert_eq!(worker.event("stopped").unwrap()["running"], 1);
    assert_eq!(site.job(&master, &id).await["state"], "running");
    let _next = site.worker(&[], &[]).await;
    go(&site);
    let job = site.until(&master, &id, "succeeded").await;
    assert_eq!(job["attempts"].as_array().unwrap().len(), 1, "{job:#}");
    let whole = eventually("its log is whole", || async {
        let text = log(&site, &master, &id).await;
        text.contains("over").then_some(text)
    });
    assert_eq!(whole.await, "begun\nover\n");
}

#[tokio::test]
async fn a_worker_told_to_drain_ends_after_its_job() {
    let site = Site::new().await;
    let (_master, master) = site.master().await;
    let mut worker = site.worker(&[], &[("ROBATA_WORKER__ON_SIGTERM", "drain")]).await;
    let id = waits(&site, &master).await;
    worker.signal(Signal::SIGTERM);
    worker.until("draining").await;
    let later = site.enqueue(&master, "wait").await;
    assert!(worker.runs());
    go(&site);
    assert_eq!(worker.ended().await.code(), Some(0));
    assert!(worker.event("drained").is_some(), "{}", worker.said());
    assert_eq!(site.job(&master, &id).await["state"], "succeeded");
    assert_eq!(site.job(&master, &later).await["state"], "queued");
}

#[tokio::test]
async fn a_second_signal_while_it_drains_makes_a_worker_leave() {
    let site = Site::new().await;
    let (_master, master) = site.master().await;
    let mut worker = site.worker(&[], &[("ROBATA_WORKER__ON_SIGTERM", "drain")]).await;
    let id = waits(&site, &master).await;
    worker.signal(Signal::SIGTERM);
    worker.until("draining").await;
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await.code(), Some(0));
    assert_eq!(worker.event("stopped").unwrap()["running"], 1);
    assert_eq!(site.job(&master, &id).await["state"], "running");
}

/// A worker with a start that waits for its engine: for that, leaving in good order takes its time.
async fn starting(site: &Site, settings: &[(&str, &str)]) -> (Daemon, Daemon, Gate) {
    let (master_daemon, master) = site.master().await;
    let gate = Gate::before(&service("ROBATA_TEST_DOCKER_HOST"), &site.file("engine.sock")).unwrap();
    let mut given = vec![("ROBATA_EXECUTORS__DOCKER__DOCKER__HOST", gate.host())];
    given.extend(settings);
    let worker = site.worker(&[], &given).await;
    let image = service("ROBATA_TEST_IMAGE");
    let more = json!({"executor": "docker", "image": image, "docker": {"network": "none"}});
    site.define(&master, "waits-for-its-engine", "exit 0", &more).await;
    gate.hold("POST", "/containers/create");
    site.enqueue(&master, "waits-for-its-engine").await;
    eventually("the start is held", || async { gate.held() }).await;
    (master_daemon, worker, gate)
}

#[tokio::test]
async fn docker_a_second_signal_while_it_leaves_ends_a_worker_at_once() {
    let site = Site::new().await;
    let (_master, mut worker, _gate) = starting(&site, &[]).await;
    worker.signal(Signal::SIGTERM);
    worker.until("stopping").await;
    worker.signal(Signal::SIGTERM);
    // What a signal ended; in good order it would be 0.
    assert_eq!(worker.ended().await.code(), Some(143));
    assert!(worker.event("stopped").is_none(), "{}", worker.said());
}

#[tokio::test]
async fn docker_a_third_signal_ends_a_worker_that_drained_and_then_leaves_at_once() {
    let site = Site::new().await;
    let (_master, mut worker, _gate) = starting(&site, &[("ROBATA_WORKER__ON_SIGTERM", "drain")]).await;
    worker.signal(Signal::SIGTERM);
    worker.until("draining").await;
    worker.signal(Signal::SIGTERM);
    worker.until("stopping").await;
    worker.signal(Signal::SIGINT);
    assert_eq!(worker.ended().await.code(), Some(130));
    assert!(worker.event("stopped").is_none(), "{}", worker.said());
}

#[tokio::test]
async fn draining_that_takes_too_long_becomes_leaving() {
    let site = Site::new().await;
    let (_master, master) = site.master().await;
    let settings = [
        ("ROBATA_WORKER__ON_SIGTERM", "drain"),
        ("ROBATA_WORKER__DRAIN_WITHIN", "300ms"),
    ];
    let mut worker = site.worker(&[], &settings).await;
    waits(&site, &master).await;
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await.code(), Some(0));
    assert_eq!(worker.event("stopped").unwrap()["running"], 1);
}

#[tokio::test]
async fn a_worker_asked_to_drain_through_the_store_ends_by_itself() {
    let site = Site::new().await;
    let (_master, master) = site.master().await;
    let mut worker = site.worker(&[], &[]).await;
    let workers = eventually("the worker is registered", || async {
        let list = site.json(&format!("{master}/api/v1/workers")).await;
        list["workers"].as_array().filter(|workers| workers.len() == 1).cloned()
    })
    .await;
    let url = format!("{master}/api/v1/workers/{}/drain", workers[0]["id"].as_str().unwrap());
    let (status, answer) = site.post(&url, &json!({})).await;
    assert!(status < 300, "{status} {answer}");
    assert_eq!(worker.ended().await.code(), Some(0));
    assert!(worker.event("drained").is_some(), "{}", worker.said());
}

#[tokio::test]
async fn a_worker_takes_only_from_the_queues_that_it_was_given() {
    let site = Site::new().await;
    let (_master, master) = site.master().await;
    let _worker = site.worker(&["--queue", "images=2", "--queue", "mail"], &[]).await;
    for queue in ["images", "mail", "other"] {
        site.define(&master, queue, "exit 0", &json!({"queue": queue})).await;
    }
    let other = site.enqueue(&master, "other").await;
    for queue in ["images", "mail"] {
        let id = site.enqueue(&master, queue).await;
        site.until(&master, &id, "succeeded").await;
    }
    assert_eq!(site.job(&master, &other).await["state"], "queued");
}

#[tokio::test]
async fn without_its_broker_a_worker_is_not_ready_and_a_master_is_only_degraded() {
    let redis = service("ROBATA_TEST_REDIS_URL");
    let (_, server) = redis.split_once("://").unwrap();
    let server: SocketAddr = server.split('/').next().unwrap().parse().unwrap();
    let mut proxy = Proxy::to(server).await;
    let site = Site::over(&format!("redis://{}", proxy.address)).await;
    let (_master, master) = site.master().await;
    let worker = site.worker(&["--listen", "127.0.0.1:0"], &[]).await;
    let url = worker.url().await;
    let ready = |status: u16| {
        let (site, url) = (&site, &url);
        eventually("the worker's readiness", move || async move {
            let (found, queue) = need(site, url, "queue").await;
            (found == status).then_some(queue)
        })
    };
    ready(200).await;
    proxy.cut().await;
    let queue = ready(503).await;
    assert_eq!((&queue["ok"], &queue["required"]), (&json!(false), &json!(true)));
    let (status, queue) = need(&site, &master, "queue").await;
    assert_eq!((status, &queue["ok"]), (200, &json!(false)));
    site.define(&master, "hello", "echo hello", &json!({})).await;
    let id = site.enqueue(&master, "hello").await;
    proxy.mend().await;
    site.until(&master, &id, "succeeded").await;
    ready(200).await;
    assert_eq!(site.get(&format!("{url}/healthz")).await.0, 200);
}

#[tokio::test]
async fn metrics_tell_what_a_worker_and_a_master_did() {
    let site = Site::new().await;
    let (_master, master) = site.master().await;
    let worker = site.worker(&["--listen", "127.0.0.1:0"], &[]).await;
    site.define(&master, "hello", "echo hello", &json!({})).await;
    let id = site.enqueue(&master, "hello").await;
    site.until(&master, &id, "succeeded").await;
    let url = worker.url().await;
    for (url, lines) in [
        (
            &url,
            &[
                "robata_claims_total{executor=\"process\",result=\"held\"} 1",
                "robata_attempts_started_total{executor=\"process\"} 1",
                "robata_attempts_ended_total{executor=\"process\",outcome=\"succeeded\"} 1",
                "robata_slots{executor=\"process\"} 4",
                "robata_claim_to_start_seconds_count{executor=\"process\"} 1",
                "robata_heartbeat_age_seconds",
            ][..],
        ),
        (
            &master,
            &[
                "robata_enqueued_total{result=\"created\"} 1",
                "robata_published_total{executor=\"process\",queue=\"shop\"} 1",
                "robata_http_request_seconds_count{method=\"POST\",route=\"/api/v1/jobs\",status=\"201\"} 1",
                "robata_workers 1",
            ][..],
        ),
    ] {
        eventually(format!("{url} counts"), || async {
            let (status, text) = site.get(&format!("{url}/metrics")).await;
            assert_eq!(status, 200);
            let missing = lines
                .iter()
                .find(|line| !text.lines().any(|found| found.starts_with(**line)));
            missing.is_none().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_second_master_starts_while_the_first_one_migrates() {
    let site = Site::new().await;
    let ((_one, first), (_two, second)) = tokio::join!(site.master(), site.master());
    for url in [first, second] {
        // A loaded machine may take longer for a check than readiness allows.
        eventually(format!("{url} is ready"), || async {
            let (status, _) = site.get(&format!("{url}/readyz")).await;
            (status == 200).then_some(())
        })
        .await;
    }
}

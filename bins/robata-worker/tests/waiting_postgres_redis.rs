//! Daemons that are started before what they need: they wait for what may come, and for nothing else.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use support::{Site, proxy::Proxy, service};

const DAEMONS: [&str; 2] = ["robata-master", "robata-worker"];

/// A way to a service, and its address by it, without a path.
async fn by(variable: &str) -> (Proxy, String) {
    let url = service(variable);
    let (scheme, rest) = url.split_once("://").unwrap();
    let authority = rest.split('/').next().unwrap();
    let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let proxy = Proxy::to(host.parse().unwrap()).await;
    let at = if login.is_empty() { "" } else { "@" };
    let url = format!("{scheme}://{login}{at}{}", proxy.address);
    (proxy, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_that_came_before_their_services_wait_for_them() {
    let (mut postgres, store) = by("ROBATA_TEST_POSTGRES_URL").await;
    let (mut redis, broker) = by("ROBATA_TEST_REDIS_URL").await;
    postgres.cut().await;
    redis.cut().await;
    let site = Site::behind(&broker, &store).await;
    let [mut master, mut worker] = DAEMONS.map(|name| site.begun(name, &[]));
    for daemon in [&master, &worker] {
        let line = daemon.until("waiting").await;
        assert!(line["why"].as_str().unwrap().contains("refused"), "{line}");
    }
    assert!(master.runs() && worker.runs());
    // Without its broker a master takes jobs all the same.
    postgres.mend().await;
    let url = master.url().await;
    worker.until("working").await;
    site.define(&url, "hello", "echo hello", &json!({})).await;
    let id = site.enqueue(&url, "hello").await;
    redis.mend().await;
    site.until(&url, &id, "succeeded").await;
    // It said so a few times, not at every try.
    let told = master.said().matches("\"waiting\"").count();
    assert!((1..=5).contains(&told), "{}", master.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_waits_ends_at_once_when_it_is_told_to() {
    let (mut postgres, store) = by("ROBATA_TEST_POSTGRES_URL").await;
    let site = Site::behind(&service("ROBATA_TEST_REDIS_URL"), &store).await;
    // One way that is refused, and one on which nobody answers.
    for answers in [false, true] {
        if answers {
            postgres.mend().await;
            postgres.freeze();
        } else {
            postgres.cut().await;
        }
        let daemons = DAEMONS.map(|name| site.begun(name, &[]));
        for (mut daemon, signal) in daemons.into_iter().zip([Signal::SIGTERM, Signal::SIGINT]) {
            daemon.until("waiting").await;
            daemon.signal(signal);
            let told = Instant::now();
            let status = daemon.ended().await;
            assert_eq!(status.code(), Some(0), "{}", daemon.said());
            assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waiting_does_not_cure_ends_a_daemon_with_what_is_wrong() {
    let site = Site::new().await;
    let url = site.database_url();
    let (login, rest) = url.rsplit_once('@').unwrap();
    let (name, _) = login.rsplit_once(':').unwrap();
    let url_is = |url: String| ("ROBATA_STORE__POSTGRES__URL", url);
    for (setting, words) in [
        (url_is(format!("{name}:wrong@{rest}")), "password authentication failed"),
        (url_is(format!("{url}_not")), "does not exist"),
        (url_is(format!("{url}?sslmode=require")), "does not support TLS"),
        (
            ("ROBATA_STORE__POSTGRES__MIGRATE", "check".to_owned()),
            "robata store migrate",
        ),
    ] {
        for daemon in DAEMONS {
            let mut daemon = site.begun(daemon, &[(setting.0, &setting.1)]);
            let status = daemon.ended().await;
            let said = daemon.said();
            assert_eq!(status.code(), Some(1), "{said}");
            assert!(said.contains(words) && !said.contains("\"waiting\""), "{words}: {said}");
        }
    }
}

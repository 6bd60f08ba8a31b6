//! Faults through the real binary with jobs in Docker: images, memory, cancel at every stage, what is left behind.

#[path = "support/engine_watch.rs"]
mod engine_watch;
mod support;

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use engine_watch::{EngineWatch, engine};
use serde_json::Value;
use support::{Options, Server, eventually};

fn server() -> Server {
    let server = Server::with(Options::docker());
    let (_, image) = engine();
    server.apply(&format!(
        r#"
[apps.t]
image = {image:?}
docker = {{ network = "none" }}
[apps.t.jobs.true]
command = ["true"]
[apps.t.jobs.hungry]
# containerd begins to watch a little after the start, and may lose a report where the cgroup goes at the same moment: so
# the main process waits first, and outlives the one that is killed.
command = ["sh", "-c", "sleep 1; dd if=/dev/zero of=/dev/null bs=256M count=1; code=$?; sleep 1; exit $code"]
resources = {{ memory = "32Mi" }}
[apps.t.jobs.killed]
command = ["sh", "-c", "kill -9 $$; sleep 1"]
[apps.t.jobs.stubborn]
command = ["sh", "-c", "trap '' TERM; echo begun; while :; do sleep 0.1; done"]
grace_period = "1s"
[apps.t.jobs.boots-badly]
command = ["sh", "-c", "exit 78"]
[apps.t.jobs.odd-output]
command = ["sh", "-c", "printf 'a\\000b\\033[1m\\377\\n'; head -c 1000000 /dev/zero | tr '\\000' x; printf '\\nlast'"]
"#
    ));
    server
}

#[test]
fn docker_registry_an_image_that_does_not_exist_fails_the_job_with_the_engines_own_words() {
    let server = server();
    let registry = std::env::var("ROBATA_TEST_REGISTRY").expect("ROBATA_TEST_REGISTRY is set by `tests/run`");
    server.apply(&format!(
        "[apps.bad]\nimage = \"{registry}/no/such:1\"\n[apps.bad.jobs.x]\n"
    ));
    let id = server.enqueue(&["bad/x"]);
    let job = server.until(&id, "failed");
    assert_eq!(
        (&job["reason"], &job["attempts"][0]["state"]),
        (&Value::from("image_pull"), &Value::from("error"))
    );
    let message = job["attempts"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("not found") || message.contains("manifest unknown"),
        "{message}"
    );
}

#[test]
fn docker_out_of_memory_is_told_apart_from_a_plain_kill() {
    let server = server();
    let (hungry, killed) = (server.enqueue(&["t/hungry"]), server.enqueue(&["t/killed"]));
    assert_eq!(server.until(&hungry, "failed")["reason"], "out_of_memory");
    let killed = server.until(&killed, "failed");
    assert_ne!(killed["reason"], "out_of_memory", "{killed:#}");
}

#[test]
fn docker_a_job_is_cancelled_once_at_every_stage_and_nothing_is_left() {
    let watch = EngineWatch::start();
    let server = server();
    let installation = server.installation();
    // A registry that takes connections and never answers: the pull goes on until it is aborted.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    server.apply(&format!(
        "[apps.slow]\nimage = \"{address}/slow:1\"\n[apps.slow.jobs.x]\n"
    ));

    let queued = server.enqueue(&["t/true", "--delay", "1h"]);
    server.run(&["jobs", "cancel", &queued]).ok();
    let pulling = server.enqueue(&["slow/x"]);
    eventually("it is pulling", || {
        (server.job(&pulling)["waiting"]["reason"] == "pulling").then_some(())
    });
    server.run(&["jobs", "cancel", &pulling]).ok();
    let starting = server.enqueue(&["t/stubborn"]);
    server.until(&starting, "running");
    server.run(&["jobs", "cancel", &starting]).ok();
    let running = server.enqueue(&["t/stubborn"]);
    server.until_attempt(&running, "running");
    server.run(&["jobs", "cancel", &running]).ok();
    // Stopping: asked again while the stop is under way.
    server.run(&["jobs", "cancel", &running]).ok();
    for id in [queued, pulling, starting, running] {
        let job = server.until(&id, "cancelled");
        let attempts = job["attempts"].as_array().unwrap();
        assert!(attempts.len() <= 1, "never a second attempt: {job:#}");
    }
    eventually("nothing is left in the engine", || {
        watch.left_of(&installation).is_empty().then_some(())
    });
}

#[test]
fn docker_a_crash_at_boot_is_told_within_seconds() {
    let server = server();
    let id = server.enqueue(&["t/boots-badly"]);
    let job = server.until(&id, "failed");
    assert_eq!(
        (&job["reason"], &job["attempts"][0]["exit_code"]),
        (&Value::from("exit_code"), &Value::from(78))
    );
}

#[test]
fn docker_odd_output_comes_through_whole() {
    let server = server();
    let id = server.enqueue(&["t/odd-output"]);
    server.until(&id, "succeeded");
    eventually("its log is sealed", || {
        (server.job(&id)["attempts"][0]["log"]["state"] != "open").then_some(())
    });
    let job = server.job(&id);
    let log = &job["attempts"][0]["log"];
    assert_eq!(
        (&log["state"], &log["bytes"]),
        (&Value::from("complete"), &Value::from(9 + 1_000_001 + 4))
    );
}

#[test]
fn docker_300_jobs_leave_nothing_behind() {
    let watch = EngineWatch::start();
    let server = server();
    let installation = server.installation();
    let jobs: Vec<String> = (0..300).map(|_| server.enqueue(&["t/true"])).collect();
    for id in &jobs {
        server.until(id, "succeeded");
    }
    let mut begun = std::collections::BTreeSet::new();
    for line in watch.lines() {
        if let robata_testkit::checker::Line::Begin(attempt, _) = line {
            assert!(begun.insert(attempt), "{attempt} was started twice");
        }
    }
    eventually("nothing is left in the engine", || {
        watch.left_of(&installation).is_empty().then_some(())
    });
}

#[test]
fn docker_an_end_is_recorded_and_a_running_job_adopted_within_twice_their_bounds() {
    let mut server = server();
    let time = |value: &Value| {
        value
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
            .as_millisecond()
    };
    for _ in 0..5 {
        let id = server.enqueue(&["t/true"]);
        let job = server.until(&id, "succeeded");
        let late = time(&job["finished_at"]) - time(&job["attempts"][0]["finished_at"]);
        assert!(
            late < 2_000,
            "the end was recorded {late} ms after the engine's: {job:#}"
        );
    }
    let id = server.enqueue(&["t/stubborn"]);
    let before = server.until_attempt(&id, "running")["attempts"][0]["worker"].clone();
    server.kill9();
    server.restart();
    let restarted = Instant::now();
    eventually("another worker holds it", || {
        (server.job(&id)["attempts"][0]["worker"] != before).then_some(())
    });
    assert!(
        restarted.elapsed() < Duration::from_secs(40),
        "adopted after {:?}",
        restarted.elapsed()
    );
    server.run(&["jobs", "cancel", &id]).ok();
    server.until(&id, "cancelled");
}

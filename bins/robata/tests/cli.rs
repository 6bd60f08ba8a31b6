//! The command line through the real program, with processes only.

mod support;

use std::{fs, net::TcpListener};

use nix::sys::signal::Signal;
use support::{Running, Server, eventually, robata};

/// One job for each way of ending.
const DEFINITIONS: &str = r#"
[apps.t]
executor = "process"

[apps.t.jobs.ok]
command = ["sh", "-c", "echo to stdout; echo to stderr >&2; printf 'no newline'"]
env_allow = ["WORD"]

[apps.t.jobs.word]
command = ["sh", "-c", "printf %s \"$WORD\""]
env_allow = ["WORD"]

[apps.t.jobs.payload]
command = ["sh", "-c", "cat \"$ROBATA_PAYLOAD_FILE\""]

[apps.t.jobs.three]
command = ["sh", "-c", "echo all is lost >&2; exit 3"]

[apps.t.jobs.slow]
command = ["sleep", "60"]
timeout = "300ms"
grace_period = "1s"

[apps.t.jobs.killed]
command = ["sh", "-c", "kill -TERM $$; sleep 60"]

[apps.t.jobs.long]
command = ["sh", "-c", "echo begun; exec sleep 60"]
grace_period = "1s"

[apps.t.jobs.flaky]
command = ["sh", "-c", "echo attempt $ROBATA_ATTEMPT; test $ROBATA_ATTEMPT -ge 3"]
retry = { max_attempts = 3, backoff = "fixed", base = "100ms", jitter = "none" }

[apps.t.jobs.missing]
command = ["/there/is/no/such/program"]
"#;

fn server() -> Server {
    let server = Server::start();
    server.apply(DEFINITIONS);
    server
}

#[test]
fn enqueue_with_wait_and_follow_prints_the_jobs_own_output_and_nothing_else() {
    let server = server();
    let ran = server.run(&["enqueue", "t/ok", "--wait", "--follow"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.stdout, "to stdout\nno newline");
    assert_eq!(ran.stderr, "to stderr\n");
}

#[test]
fn what_waits_exits_with_the_jobs_own_code() {
    let server = server();
    for (job, code) in [
        ("t/ok", 0),
        ("t/three", 3),
        ("t/slow", 124),
        ("t/killed", 143),
        ("t/missing", 125),
    ] {
        for args in [&["enqueue", job, "--wait"][..], &["enqueue", job, "--wait", "--follow"]] {
            let ran = server.run(args);
            assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        }
    }
}

#[test]
fn a_failed_job_says_its_reason_and_its_last_words() {
    let server = server();
    let ran = server.run(&["enqueue", "t/three", "--wait"]);
    ran.tells(&[
        "t/three",
        "failed",
        "exit code 3",
        "  | all is lost",
        "robata jobs show",
    ]);
    assert_eq!(ran.stdout.lines().count(), 1, "the id alone: {ran:?}");
}

#[test]
fn following_goes_on_over_all_attempts() {
    let server = server();
    let ran = server.run(&["enqueue", "t/flaky", "--follow"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.stdout, "attempt 1\nattempt 2\nattempt 3\n");
    ran.tells(&["attempt 1 failed (exit code 1)", "attempt 2 failed (exit code 1)"]);
}

#[test]
fn a_cancelled_job_ends_its_waiter_with_130() {
    let server = server();
    let waiter = server.spawn(&["enqueue", "t/long", "--key", "one", "--wait"]);
    let id = eventually("the job runs", || {
        let list = server.json(&["jobs", "list", "--state", "running"]);
        Some(list["jobs"].get(0)?["id"].as_str()?.to_owned())
    });
    server.until_attempt(&id, "running");
    server.run(&["jobs", "cancel", &id]).ok();
    assert_eq!(waiter.end().code, Some(130));
    assert_eq!(server.run(&["jobs", "wait", &id]).code, Some(130));
    let again = server.run(&["jobs", "cancel", &id]).ok();
    assert!(again.stdout.contains("nothing to change"), "{again:?}");
}

#[test]
fn run_prints_the_output_of_a_one_off_and_exits_with_its_code() {
    let server = server();
    let ran = server.run(&["run", "t", "--", "echo", "hi"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "hi\n"), "{ran:?}");
    let ran = server.run(&[
        "run",
        "t/ok",
        "--env",
        "A=b c",
        "--",
        "sh",
        "-c",
        "printf %s \"$A\"; exit 7",
    ]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(7), "b c"), "{ran:?}");
}

#[test]
fn an_interrupt_cancels_a_run_and_waits_for_its_end() {
    let server = server();
    let run = server.spawn(&["run", "t/long", "--", "sleep", "60"]);
    let id = eventually("the one-off runs", || {
        let list = server.json(&["jobs", "list", "--state", "running"]);
        Some(list["jobs"].get(0)?["id"].as_str()?.to_owned())
    });
    server.until_attempt(&id, "running");
    run.signal(Signal::SIGINT);
    let ran = run.end();
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert_eq!(server.job(&id)["state"], "cancelled");
}

#[test]
fn a_detached_run_answers_its_id_at_once() {
    let server = server();
    let ran = server.run(&["run", "t", "--detach", "--", "echo", "later"]).ok();
    let id = ran.stdout.trim();
    assert_eq!(server.run(&["jobs", "wait", id]).code, Some(0));
    assert_eq!(server.run(&["jobs", "logs", id]).ok().stdout, "later\n");
}

#[test]
fn a_payloads_bytes_come_to_the_job_as_they_were_given() {
    let server = server();
    let payload = "{\"b\": 1, \"a\": 12345678901234567890123, \"c\": \"\\u0000\"}";
    let ran = server
        .run(&["enqueue", "t/payload", "--payload", payload, "--follow"])
        .ok();
    assert_eq!(ran.stdout, payload);
    let file = server.data().join("payload.json");
    fs::write(&file, "[1, 2]").unwrap();
    let from = format!("@{}", file.display());
    let ran = server
        .run(&["enqueue", "t/payload", "--payload", &from, "--follow"])
        .ok();
    assert_eq!(ran.stdout, "[1, 2]");
}

#[test]
fn an_enqueuers_env_reaches_the_job_where_it_is_allowed() {
    let server = server();
    let ran = server
        .run(&["enqueue", "t/word", "--env", "WORD=hello", "--follow"])
        .ok();
    assert_eq!(ran.stdout, "hello");
    let ran = server.run(&["enqueue", "t/word", "--env", "OTHER=x"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&["OTHER", "env_allow"]);
}

#[test]
fn a_key_makes_one_job() {
    let server = server();
    let first = server.enqueue(&["t/ok", "--key", "k"]);
    let again = server.enqueue(&["t/ok", "--key", "k"]);
    assert_eq!(first, again);
    let other = server.run(&["enqueue", "t/ok", "--key", "k", "--priority", "5"]);
    assert_eq!(other.code, Some(1), "{other:?}");
}

#[test]
fn a_delayed_job_is_shown_as_such_and_can_be_cancelled() {
    let server = server();
    let id = server.enqueue(&["t/ok", "--delay", "1h", "--label", "who=me"]);
    let job = server.job(&id);
    assert_eq!(
        (job["state"].as_str(), job["waiting"]["reason"].as_str()),
        (Some("scheduled"), Some("delayed"))
    );
    let list = server.json(&["jobs", "list", "--label", "who=me"]);
    assert_eq!(list["jobs"].as_array().unwrap().len(), 1);
    let list = server.json(&["jobs", "list", "--label", "who=you"]);
    assert_eq!(list["jobs"].as_array().unwrap().len(), 0);
    server.run(&["jobs", "cancel", &id]).ok();
    assert_eq!(server.job(&id)["state"], "cancelled");
}

#[test]
fn a_failed_job_can_be_retried_by_hand() {
    let server = server();
    let id = server.enqueue(&["t/three"]);
    server.until(&id, "failed");
    server.run(&["jobs", "retry", &id]).ok();
    let ran = server.run(&["jobs", "wait", &id]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_eq!(server.job(&id)["attempts"].as_array().unwrap().len(), 2);
    let done = server.enqueue(&["t/ok"]);
    server.until(&done, "succeeded");
    assert_eq!(server.run(&["jobs", "retry", &done]).code, Some(1));
}

#[test]
fn json_parses_everywhere() {
    let server = server();
    let id = server.enqueue(&["t/ok"]);
    server.until(&id, "succeeded");
    for args in [
        &["jobs", "list"][..],
        &["jobs", "show", &id],
        &["jobs", "wait", &id],
        &["jobs", "cancel", &server.enqueue(&["t/ok", "--delay", "1h"])],
        &["apps", "list"],
        &["apps", "show", "t"],
        &["apps", "show", "t/ok"],
        &["queues", "list"],
        &["workers", "list"],
        &["config"],
        &["enqueue", "t/ok"],
        &["enqueue", "t/ok", "--wait"],
        &["run", "t", "--detach", "--", "true"],
    ] {
        server.json(args);
    }
    for args in [
        &["--output", "json", "jobs", "logs", &id][..],
        &["--output", "json", "enqueue", "t/ok", "--wait", "--follow"],
        &["--output", "json", "run", "t", "--", "echo", "hi"],
    ] {
        assert!(!server.run(args).ok().json_lines().is_empty(), "{args:?}");
    }
    let refused = server.run(&["--output", "json", "enqueue", "nope/x"]);
    let error: serde_json::Value = serde_json::from_str(&refused.stderr).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("nope"), "{error}");
}

#[test]
fn text_says_what_people_want_to_know() {
    let server = server();
    let id = server.enqueue(&["t/three"]);
    server.until(&id, "failed");
    let list = server.run(&["jobs", "list"]).ok().stdout;
    for part in ["STATE", &id, "t/three", "failed", "1/1", "ago", "exit_code"] {
        assert!(list.contains(part), "{part} is not in\n{list}");
    }
    let shown = server.run(&["jobs", "show", &id]).ok().stdout;
    for part in ["#1", "failed (exit code 3)", "on process", "log 12 bytes"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    let logs = server
        .run(&["jobs", "logs", &id, "--stream", "stderr", "--offset", "4"])
        .ok();
    assert_eq!(logs.stdout, "is lost\n".trim_start_matches("all "));
    let workers = server.run(&["workers", "list"]).ok().stdout;
    assert!(workers.contains("live") && workers.contains("process ("), "{workers}");
    let app = server.run(&["apps", "show", "t"]).ok().stdout;
    assert!(app.contains("flaky") && app.contains("sleep 60"), "{app}");
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_it_would() {
    let server = server();
    let file = server.data().join("more.toml");
    fs::write(
        &file,
        "[apps.t2.jobs.x]\ncommand = [\"true\"]\nexecutor = \"process\"\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let ran = server.run(&["apply", "-f", file, "--dry-run"]).ok();
    assert!(
        ran.stdout.contains("create") && ran.stdout.contains("nothing was changed"),
        "{ran:?}"
    );
    assert_eq!(server.run(&["apps", "show", "t2"]).code, Some(1));
    server.run(&["apply", "-f", file]).ok();
    let again = server.run(&["apply", "-f", file]).ok();
    assert!(again.stdout.contains("nothing changes"), "{again:?}");
}

#[test]
fn mistakes_in_definitions_are_told_with_their_lines() {
    let server = server();
    let file = server.data().join("bad.toml");
    let path = file.to_str().unwrap();
    fs::write(
        &file,
        "[apps.x]\nimage = \"i\"\n[apps.x.jobs.a]\ntiemout = \"1m\"\nretry = { base = \"soon\" }\n",
    )
    .unwrap();
    let ran = server.run(&["apply", "-f", path]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&[
        "bad.toml:4:",
        "tiemout",
        "did you mean \"timeout\"",
        "bad.toml:5:",
        "nothing was changed",
    ]);
    fs::write(&file, "[apps.x]\nimage = \n").unwrap();
    let ran = server.run(&["apply", "-f", path]);
    ran.tells(&["bad.toml:2:", "image =", "^"]);
    fs::write(&file, "[apps.x.jobs.a]\ncommand = [\"x\"]\nexecutor = \"proces\"\n").unwrap();
    server
        .run(&["apply", "-f", path])
        .tells(&["bad.toml:3:", "executor", "process"]);
    let ran = server.run(&["apply", "-f", "/there/is/no/jobs.toml"]);
    ran.tells(&["cannot read /there/is/no/jobs.toml", "No such file"]);
    let ran = server.run(&["apply", "-f", "jobs.txt"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    ran.tells(&[".toml, .yaml, .yml or .json"]);
}

#[test]
fn what_does_not_exist_is_told_with_what_does() {
    let server = server();
    let ran = server.run(&["enqueue", "tt/ok"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&["tt", "t"]);
    server.run(&["enqueue", "t/flakey"]).tells(&["flakey", "flaky"]);
    let ran = server.run(&["jobs", "show", "01930000-0000-7000-8000-000000000000"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let ran = server.run(&["jobs", "show", "17"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    ran.tells(&["\"17\" is no job id"]);
}

#[test]
fn wrong_payloads_are_told() {
    let server = server();
    let ran = server.run(&["enqueue", "t/ok", "--payload", "hello"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    ran.tells(&["is no JSON", "--payload '\"text\"'"]);
    server
        .run(&["enqueue", "t/ok", "--payload", "@/there/is/none"])
        .tells(&["cannot read", "/there/is/none"]);
    let file = server.data().join("huge.json");
    fs::write(&file, format!("\"{}\"", "x".repeat(2 << 20))).unwrap();
    let ran = server.run(&["enqueue", "t/ok", "--payload", &format!("@{}", file.display())]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&["1048576"]);
}

#[test]
fn without_a_server_the_client_says_what_to_start() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = robata();
    command.args(["jobs", "list", "--server", &format!("http://127.0.0.1:{port}")]);
    let ran = Running::start(command).end();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&[
        &format!("no Robata answers at http://127.0.0.1:{port}"),
        "robata up",
        "--server",
    ]);
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &["enqueue"][..],
        &["enqueue", "demo"],
        &["nonsense"],
        &["run", "demo"],
        &["jobs", "list", "--state", "x"],
    ] {
        let mut command = robata();
        command.args(args);
        let ran = Running::start(command).end();
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
    }
}

#[test]
fn a_paused_queue_is_shown_and_resumed() {
    let server = server();
    let paused = server
        .run(&["queues", "pause", "t", "--reason", "the disk is full"])
        .ok();
    assert!(paused.stdout.contains("paused"), "{paused:?}");
    let id = server.enqueue(&["t/ok"]);
    let job = eventually("it waits for the queue", || {
        let job = server.job(&id);
        (job["waiting"]["reason"] == "paused").then_some(job)
    });
    assert_eq!(job["waiting"]["message"], "the disk is full");
    let list = server.run(&["queues", "list"]).ok();
    assert!(list.stdout.contains("paused: the disk is full"), "{list:?}");
    server.run(&["queues", "resume", "t"]).ok();
    server.until(&id, "succeeded");
    let unknown = server.run(&["queues", "pause", "x-y-z"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    unknown.tells(&["x-y-z"]);
}

#[test]
fn a_realm_with_a_live_worker_is_not_lost_and_nothing_was_set_aside() {
    let server = server();
    let workers = server.json(&["workers", "list"]);
    let realm = workers["workers"][0]["executors"]["process"]["realm"].as_str().unwrap();
    let refused = server.run(&["workers", "lost", realm]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    refused.tells(&["a live worker reaches the realm"]);
    let unknown = server.run(&["workers", "lost", "there is no such realm"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    let aside = server.run(&["queues", "set-aside"]).ok();
    assert!(aside.stdout.contains("nothing was set aside"), "{aside:?}");
}

#[test]
fn a_job_that_prints_more_than_is_kept_ends_all_the_same_and_its_log_says_so() {
    let server = server();
    server.apply(
        r#"
[apps.t.jobs.chatty]
command = ["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo done >&2"]
executor = "process"
log_limit = "1Mi"
"#,
    );
    let id = server.enqueue(&["t/chatty", "--wait"]);
    let job = eventually("its log is sealed", || {
        let job = server.job(&id);
        (job["attempts"][0]["log"]["state"] != "open").then_some(job)
    });
    let log = &job["attempts"][0]["log"];
    assert_eq!(log["state"], "incomplete", "{job}");
    assert_eq!(log["reason"], "log_limit", "{job}");
    assert_eq!(log["bytes"], 1 << 20, "{job}");
    let printed = server.run(&["jobs", "logs", &id, "--stream", "stdout"]);
    assert!(
        printed.stdout.len() <= 1 << 20 && printed.stdout.starts_with("xxx"),
        "{}",
        printed.stdout.len()
    );
}

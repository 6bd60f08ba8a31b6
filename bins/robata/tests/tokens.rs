//! Tokens through the programs: made, used, refused, revoked; and `up` itself, which needs none.
mod support;

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use support::{Options, Ran, Running, Server};

const JOBS: &str = "[apps.shop.jobs.hello]\nexecutor = \"process\"\ncommand = [\"echo\", \"hi\"]\n\
                    [apps.shop.jobs.long]\nexecutor = \"process\"\ncommand = [\"sh\", \"-c\", \"echo begun; sleep 60\"]\ngrace_period = \"1s\"\n\
                    [apps.bank.jobs.pay]\nexecutor = \"process\"\ncommand = [\"echo\", \"paid\"]\n";
/// A revocation is in force everywhere within this time.
const IN_FORCE: Duration = Duration::from_secs(10);

fn spawn_as(server: &Server, token: &str, args: &[&str]) -> Running {
    let mut command = server.client(args);
    command.env("ROBATA_TOKEN", token);
    Running::start(command)
}

fn run_as(server: &Server, token: &str, args: &[&str]) -> Ran {
    spawn_as(server, token, args).end()
}

/// Makes the first token.
#[track_caller]
fn root(server: &Server) -> String {
    let made = server.run(&["tokens", "create", "root", "--role", "admin"]).ok();
    made.tells(&["root may admin", "shown this once", "ROBATA_TOKEN"]);
    let token = made.stdout.trim().to_owned();
    assert!(token.starts_with("rbt_") && token.len() == 47, "{token:?}");
    token
}

#[test]
fn a_token_is_made_used_refused_what_is_not_its_own_and_revoked() {
    let server = Server::start();
    server.apply(JOBS);
    let first = server.run(&["tokens", "create", "ci", "--role", "deploy"]);
    assert_eq!(first.code, Some(1), "{first:?}");
    first.tells(&["from the first token on", "role admin"]);
    server.run(&["tokens", "list"]).ok();
    let root = root(&server);
    let none = server.run(&["jobs", "list"]);
    assert_eq!(none.code, Some(1), "{none:?}");
    none.tells(&["needs a token", "ROBATA_TOKEN", "robata tokens create"]);
    let wrong = run_as(&server, "rbt_wrong", &["jobs", "list"]);
    wrong.tells(&["does not accept the token", "ROBATA_TOKEN has it"]);
    assert!(!wrong.stderr.contains("rbt_wrong"), "{wrong:?}");
    let malformed = run_as(&server, "two words", &["jobs", "list"]);
    assert_eq!(malformed.code, Some(2), "{malformed:?}");
    malformed.tells(&["ROBATA_TOKEN: the token is none"]);

    let made = run_as(
        &server,
        &root,
        &[
            "--output",
            "json",
            "tokens",
            "create",
            "web",
            "--role",
            "enqueue",
            "--app",
            "shop",
            "--expires-in",
            "30d",
        ],
    );
    let made = made.ok().json();
    assert_eq!((&made["app"], &made["created_by"]), (&"shop".into(), &"root".into()));
    let web = made["token"].as_str().unwrap();
    let job = run_as(&server, web, &["--output", "json", "enqueue", "shop/hello"])
        .ok()
        .json();
    let id = job["id"].as_str().unwrap();
    run_as(&server, &root, &["jobs", "wait", id]).ok();
    let refused = run_as(&server, web, &["jobs", "show", id]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    refused.tells(&["needs the role read", "web has enqueue"]);
    run_as(&server, web, &["enqueue", "bank/pay"]).tells(&["there is no app bank"]);
    let refused = run_as(&server, web, &["--output", "json", "queues", "list"]);
    assert!(refused.stderr.contains("\"code\":\"forbidden\""), "{refused:?}");

    let list = run_as(&server, &root, &["--output", "json", "tokens", "list"])
        .ok()
        .json();
    let names: Vec<_> = list["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| &token["name"])
        .collect();
    assert_eq!(names, ["root", "web"]);
    let text = run_as(&server, &root, &["tokens", "list"]).ok().stdout;
    assert!(text.contains("until it is revoked") && !text.contains("rbt_"), "{text}");

    let revoked = Instant::now();
    run_as(&server, &root, &["tokens", "revoke", "web"]).ok();
    support::eventually("the revocation is in force", || {
        let ran = run_as(&server, web, &["enqueue", "shop/hello"]);
        (ran.code == Some(1)).then_some(())
    });
    assert!(revoked.elapsed() < IN_FORCE, "{:?}", revoked.elapsed());
    run_as(&server, &root, &["tokens", "revoke", "root"]).tells(&["last admin token", "auth.admin_token"]);

    let audit = run_as(&server, &root, &["--output", "json", "audit", "--by", "root"])
        .ok()
        .json();
    let told: Vec<_> = audit["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| (&record["action"], &record["name"]))
        .collect();
    assert_eq!(
        told,
        [
            (&"revoke_token".into(), &"web".into()),
            (&"create_token".into(), &"web".into())
        ]
    );
    let text = run_as(&server, &root, &["audit", "--app", "shop", "--limit", "1"])
        .ok()
        .stdout;
    assert!(
        text.contains("local") && text.contains("shop") && text.contains("more: --before"),
        "{text}"
    );
}

#[test]
fn a_deployers_token_changes_its_own_app_alone() {
    let server = Server::start();
    server.apply(JOBS);
    let root = root(&server);
    let args = ["tokens", "create", "ci", "--role", "deploy", "--app", "shop"];
    let ci = run_as(&server, &root, &args).ok().stdout.trim().to_owned();
    let file = server.data().join("shop.toml");
    let apply = |text: &str| {
        fs::write(&file, text).unwrap();
        run_as(&server, &ci, &["apply", "-f", file.to_str().unwrap()])
    };
    apply("[apps.shop.jobs.new]\nexecutor = \"process\"\ncommand = [\"true\"]\n").ok();
    let refused = apply("[apps.shop.jobs.new]\ncommand = [\"false\"]\n[apps.bank.jobs.pay]\ncommand = [\"evil\"]\n");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    refused.tells(&["nothing was changed", "shop.toml:3", "for the app shop alone"]);
    let ran = run_as(&server, &ci, &["run", "shop/hello", "--", "echo", "by hand"]);
    assert_eq!(ran.ok().stdout, "by hand\n");
    run_as(&server, &ci, &["run", "bank/pay", "--", "echo", "x"]).tells(&["there is no app bank"]);
    run_as(&server, &ci, &["workers", "list"]).tells(&["there is nothing at"]);
}

#[test]
fn what_is_followed_ends_with_its_token_and_running_jobs_do_not() {
    let server = Server::start();
    server.apply(JOBS);
    let root = root(&server);
    let viewer = run_as(&server, &root, &["tokens", "create", "viewer", "--role", "read"])
        .ok()
        .stdout
        .trim()
        .to_owned();
    let job = run_as(&server, &root, &["--output", "json", "enqueue", "shop/long"])
        .ok()
        .json();
    let id = job["id"].as_str().unwrap();
    let show = || {
        run_as(&server, &root, &["--output", "json", "jobs", "show", id])
            .ok()
            .json()
    };
    support::eventually("it runs", || (show()["state"] == "running").then_some(()));
    let follower = spawn_as(&server, &viewer, &["jobs", "logs", id, "--follow"]);
    support::eventually("somebody follows", || {
        let log = run_as(&server, &viewer, &["jobs", "logs", id]);
        log.ok().stdout.contains("begun").then_some(())
    });
    let revoked = Instant::now();
    run_as(&server, &root, &["tokens", "revoke", "viewer"]).ok();
    let ran = follower.end();
    assert!(revoked.elapsed() < IN_FORCE, "{:?}", revoked.elapsed());
    assert_ne!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.stdout, "begun\n", "{ran:?}");
    assert_eq!(show()["state"], "running");
    run_as(&server, &root, &["jobs", "cancel", id]).ok();
}

#[test]
fn up_itself_applies_and_shows_its_demo_whatever_tokens_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut server = Server::with(Options {
        data: Some(data.clone()),
        ..Options::default()
    });
    let root = root(&server);
    assert!(server.stop().success());
    let file = folder.path().join("jobs.toml");
    fs::write(&file, JOBS).unwrap();
    let server = Server::with(Options {
        data: Some(data),
        args: vec!["--demo".into(), "--apply".into(), file.to_str().unwrap().into()],
        ..Options::default()
    });
    assert_eq!(server.event("applied").unwrap()["changed"], 5);
    support::eventually("the demo's first job has ended", || {
        let mut told = server.events().into_iter();
        told.find(|event| event["job"] == "hello" && event["state"] == "succeeded")
    });
    // Outside it is as it was.
    server.run(&["jobs", "list"]).tells(&["needs a token"]);
    let audit = run_as(&server, &root, &["--output", "json", "audit", "--by", "local"])
        .ok()
        .json();
    assert!(audit["records"].as_array().unwrap().len() > 5, "{audit}");
    let text = run_as(&server, &root, &["jobs", "list", "--app", "demo"]).ok().stdout;
    assert!(text.contains("hello"), "{text}");
    server.signal(Signal::SIGTERM);
}

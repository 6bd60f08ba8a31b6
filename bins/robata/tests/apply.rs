//! `robata apply` through the real program: pruning, images of the moment, descriptions.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use std::{fs, path::PathBuf};

use serde_json::Value;
use support::{Options, Ran, Server};

const TWO: &str = r#"
[apps.shop]
description = "Sells things.\nOn Sundays, too."
image = "shop:1"
executor = "docker"
[apps.shop.jobs.mail]
description = "Tells of an order."
[apps.shop.jobs.resize]
[apps.bank]
image = "bank:1"
executor = "docker"
[apps.bank.jobs.pay]
"#;

/// Without `mail`, and without the bank.
const LESS: &str = "[apps.shop]\nimage = \"shop:1\"\nexecutor = \"docker\"\n\n[apps.shop.jobs.resize]\n";

/// With a Docker executor whose engine is not there: nothing runs here.
fn start() -> Server {
    Server::with(Options {
        executors: vec!["docker".into()],
        env: vec![(
            "ROBATA_EXECUTORS__DOCKER__DOCKER__HOST".into(),
            "unix:///there/is/no.sock".into(),
        )],
        ..Options::default()
    })
}

#[track_caller]
fn says(ran: &Ran, parts: &[&str]) {
    for part in parts {
        assert!(ran.stdout.contains(part), "{part:?} is not in: {ran:?}");
    }
}

fn file(server: &Server, text: &str) -> PathBuf {
    let path = server.data().join("jobs.toml");
    fs::write(&path, text).unwrap();
    path
}

#[track_caller]
fn apply(server: &Server, text: &str, flags: &[&str]) -> Ran {
    let path = file(server, text);
    server.run(&[&["apply", "-f", path.to_str().unwrap()], flags].concat())
}

fn image(server: &Server, of: &str) -> Value {
    server.json(&["apps", "show", of])["definition"]["image"].clone()
}

fn jobs(server: &Server, app: &str) -> Vec<String> {
    let shown = server.json(&["apps", "show", app]);
    let definitions = shown["definitions"].as_array().unwrap().iter();
    definitions
        .map(|definition| definition["job"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn what_a_file_leaves_out_goes_only_where_it_is_told_to() {
    let server = start();
    apply(&server, TWO, &[]).ok();
    let kept = apply(&server, LESS, &[]).ok();
    says(&kept, &["keep", "mail", "still there"]);
    assert_eq!(jobs(&server, "shop"), ["mail", "resize"]);
    let told = apply(&server, LESS, &["--prune", "--dry-run"]).ok();
    says(&told, &["delete", "mail", "1 would change"]);
    assert_eq!(jobs(&server, "shop"), ["mail", "resize"]);
    let done = apply(&server, LESS, &["--prune"]).ok();
    says(&done, &["delete", "mail", "1 changed"]);
    assert_eq!(jobs(&server, "shop"), ["resize"]);
    assert_eq!(jobs(&server, "bank"), ["pay"], "an app that the file does not name");
}

#[test]
fn an_image_of_the_command_line_stands_in_place_of_the_files() {
    let server = start();
    let flags = [
        "--image",
        "shop=registry.example.com:5000/shop:2",
        "--image",
        "bank=bank:2",
    ];
    let applied = apply(&server, TWO, &flags).ok();
    says(&applied, &["create"]);
    assert_eq!(image(&server, "shop/mail"), "registry.example.com:5000/shop:2");
    assert_eq!(image(&server, "bank/pay"), "bank:2");
    // Of this apply alone.
    apply(&server, TWO, &[]).ok();
    assert_eq!(image(&server, "shop/mail"), "shop:1");
}

#[test]
fn a_mistake_in_an_image_is_told_as_the_flag_and_in_the_file_with_its_line() {
    let server = start();
    let text = LESS.replace("jobs.resize]\n", "jobs.resize]\ntiemout = \"1m\"\n");
    apply(&server, &text, &[]).tells(&["jobs.toml:6:1: apps.shop.jobs.resize.tiemout"]);
    let ran = apply(&server, LESS, &["--image", "shpo=x", "--image", "shop="]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&[
        "nothing was changed",
        "--image shpo: the document does not name the app shpo; it names shop",
        "--image shop: is no image reference",
    ]);
    assert!(server.json(&["apps", "list"])["apps"].as_array().unwrap().is_empty());
    for wrong in [
        &["--image", "shop"][..],
        &["--image", "a b=x"],
        &["--image", "shop=a", "--image", "shop=b"],
    ] {
        let ran = apply(&server, LESS, wrong);
        assert_eq!(ran.code, Some(2), "{wrong:?}: {ran:?}");
    }
}

#[test]
fn a_description_is_shown() {
    let server = start();
    apply(&server, TWO, &[]).ok();
    let shown = server.run(&["apps", "show", "shop"]).ok();
    assert!(
        shown.stdout.starts_with("Sells things.\nOn Sundays, too.\n\nJOB"),
        "{shown:?}"
    );
    let one = server.run(&["apps", "show", "shop/mail"]).ok();
    says(&one, &["description = \"Tells of an order.\""]);
    let shown = server.json(&["apps", "show", "shop"]);
    assert_eq!(
        shown["app"]["settings"]["description"],
        "Sells things.\nOn Sundays, too."
    );
    let evil = LESS.replace("image =", "description = \"\\u001b[2J\"\nimage =");
    apply(&server, &evil, &[]).tells(&["jobs.toml:2:", "control character"]);
}

/// Applies a job with these lines in its `docker` table, the first of which is line 6; all of them are wrong.
#[track_caller]
fn refused(server: &Server, lines: &[(&str, &str)], more: &str) {
    let table: String = lines.iter().map(|(line, _)| format!("{line}\n")).collect();
    let text = format!(
        "[apps.shop]\nimage = \"shop:1\"\nexecutor = \"docker\"\n[apps.shop.jobs.wrong]\n[apps.shop.jobs.wrong.docker]\n{table}{more}"
    );
    let ran = apply(server, &text, &[]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for ((line, words), number) in lines.iter().zip(6..) {
        let place = format!("jobs.toml:{number}:");
        let told = ran
            .stderr
            .lines()
            .any(|told| told.contains(&place) && told.contains(words));
        assert!(told, "{line}: {place} {words} is not in {}", ran.stderr);
    }
    assert_eq!(
        server.json(&["apps", "list"])["apps"],
        Value::Array(Vec::new()),
        "nothing has changed"
    );
}

#[test]
fn what_the_docker_table_says_wrongly_is_told_at_its_line_and_changes_nothing() {
    let server = start();
    let wrong = [
        (r#"platform = "arm64""#, "is no platform"),
        (r#"extra_hosts = { db = "db.internal" }"#, "is neither an IP address"),
        ("ulimits = { nofiles = 1 }", "did you mean \"nofile\""),
        (r#"volumes = { "/a" = "/srv" }"#, "is no name of a volume"),
        (r#"mounts = { "/b" = "/srv/../etc" }"#, "is no whole path"),
        (r#"cap_add = ["net-admin"]"#, "is no capability"),
        (r#"devices = ["kmsg"]"#, "is no device"),
        (r#"tmpfs = { "/run/robata/x" = "1Mi" }"#, "is the platform's own"),
    ];
    refused(&server, &wrong, "");
    for (line, words) in [
        ("gpus = 0", "a number from 1 on"),
        ("privilegd = true", "unknown"),
        (r#"shm_size = "much""#, "shm_size"),
        (r#"pull = "sometimes""#, "pull"),
        (r#"mounts = { "/b" = { sorce = "/srv" } }"#, "sorce"),
    ] {
        refused(&server, &[(line, words)], "");
    }
}

#[test]
fn what_the_operator_does_not_allow_is_told_at_its_line_with_the_setting() {
    let server = start();
    let beyond = [
        (r#"network = "shop""#, "executors.docker.docker.networks"),
        (r#"volumes = { "/a" = "cache" }"#, "executors.docker.docker.volumes"),
        (r#"mounts = { "/b" = "/srv/data" }"#, "executors.docker.docker.mounts"),
        (r#"cap_add = ["NET_ADMIN"]"#, "executors.docker.docker.cap_add"),
        (r#"devices = ["/dev/kmsg"]"#, "executors.docker.docker.devices"),
        (r#"gpus = "all""#, "executors.docker.docker.gpus"),
    ];
    refused(&server, &beyond, "");
    let more = [(r#"cap_add = ["NET_ADMIN"]"#, "adds no capability but NET_BIND_SERVICE")];
    refused(&server, &more, "[defaults]\nsecurity = \"restricted\"\n");
}

//! Settings under which a master does not start, and what it says about them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

use std::{
    fs,
    process::{Command, Output},
};

fn master(settings: &str, args: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("robata.toml");
    let data = folder.path().display();
    fs::write(&file, format!("[data]\nfolder = \"{data}\"\n{settings}")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_robata-master"))
        .env_clear()
        .arg("--config")
        .arg(file)
        .args(args)
        .output()
        .unwrap()
}

#[track_caller]
fn tells(output: &Output, code: i32, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

const SERVICES: &str =
    "[store.postgres]\nurl = \"postgres://x@127.0.0.1:1/x\"\n[queue.redis]\nurl = \"redis://127.0.0.1:1\"\n";

#[test]
fn an_address_that_others_reach_is_refused() {
    let output = master(SERVICES, &["--listen", "0.0.0.0:0"]);
    tells(
        &output,
        1,
        &["flag --listen: server.listen", "no tokens yet", "unix:/PATH"],
    );
}

#[test]
fn services_of_one_process_are_refused() {
    let output = master("", &[]);
    tells(&output, 1, &["[store.postgres]", "[queue.redis]", "robata up"]);
    let output = master("[store.postgres]\nurl = \"postgres://x@127.0.0.1:1/x\"\n", &[]);
    tells(&output, 1, &["a queue in memory ends at its process"]);
}

#[test]
fn an_address_that_is_none_is_told_with_its_key() {
    let output = master(
        "[store.postgres]\nurl = \"127.0.0.1\"\n[queue.redis]\nurl = \"redis://127.0.0.1:1\"\n",
        &[],
    );
    tells(&output, 1, &["robata.toml:4: store.postgres.url", "_FILE"]);
}

#[test]
fn a_store_that_does_not_answer_is_told() {
    let output = master(SERVICES, &[]);
    tells(&output, 1, &["error: "]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}

//! `robata doctor`: what it tries, what it says, and its exit code.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use std::{fs, net::TcpListener, path::Path};

use serde_json::Value;
use support::{Ran, Running, Server, robata};

fn doctor(data: &Path, args: &[&str], env: &[(&str, &str)]) -> Ran {
    let mut command = robata();
    command
        .args(["--output", "json", "doctor", "--data-dir"])
        .arg(data)
        .args(args);
    for (name, value) in env {
        command.env(name, value);
    }
    Running::start(command).end()
}

#[track_caller]
fn check(ran: &Ran, name: &str) -> Value {
    let report = ran.json();
    let found = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check {name}: {report:#}")).clone()
}

#[test]
fn where_all_is_well_it_says_so_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let ran = doctor(&data, &["--executor", "process", "--listen", "127.0.0.1:0"], &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.json()["ok"], true);
    assert!(!data.exists(), "doctor made a folder");
}

#[test]
fn it_names_an_engine_that_is_not_reachable() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}/none.sock", folder.path().display());
    let env = [("ROBATA_EXECUTORS__DOCKER__DOCKER__HOST", socket.as_str())];
    let ran = doctor(folder.path(), &["--listen", "127.0.0.1:0"], &env);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let check = check(&ran, "executor docker");
    assert_eq!(check["verdict"], "fail");
    assert!(check["message"].as_str().unwrap().contains(&socket), "{check}");
    assert!(check["todo"].as_str().unwrap().contains("start"), "{check}");
}

#[test]
fn it_tries_the_engine_that_docker_host_names_and_says_where_it_is_not_to_be_had_that_way() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}/none.sock", folder.path().display());
    for (host, words) in [(socket.as_str(), "not reachable"), ("ssh://me@far", "ssh -NL")] {
        let ran = doctor(folder.path(), &["--listen", "127.0.0.1:0"], &[("DOCKER_HOST", host)]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let check = check(&ran, "executor docker");
        let message = check["message"].as_str().unwrap();
        assert!(message.contains(host) && message.contains(words), "{check}");
        assert!(check["todo"].as_str().unwrap().contains("DOCKER_HOST"), "{check}");
    }
}

#[test]
fn it_names_a_data_folder_and_a_log_folder_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let ran = doctor(
        &file.join("data"),
        &["--executor", "process", "--listen", "127.0.0.1:0"],
        &[],
    );
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for name in ["data folder", "log folder"] {
        let check = check(&ran, name);
        assert_eq!(check["verdict"], "fail", "{check}");
        assert!(check["todo"].as_str().unwrap().contains(".folder"), "{check}");
    }
}

#[test]
fn it_names_a_port_that_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = doctor(folder.path(), &["--executor", "process", "--listen", &address], &[]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let check = check(&ran, "port");
    assert_eq!(check["verdict"], "fail");
    assert!(check["todo"].as_str().unwrap().contains("--listen"), "{check}");
}

#[test]
fn it_knows_a_robata_that_runs_already() {
    let server = Server::start();
    let ran = doctor(
        server.data(),
        &["--executor", "process", "--listen", server.address()],
        &[],
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(check(&ran, "port")["message"].as_str().unwrap().contains("Robata"));
    let held = check(&ran, "data folder");
    assert!(
        held["message"].as_str().unwrap().contains(&server.pid().to_string()),
        "{held}"
    );
    let elsewhere = doctor(
        server.data(),
        &["--executor", "process", "--listen", "127.0.0.1:0"],
        &[],
    );
    assert_eq!(check(&elsewhere, "data folder")["verdict"], "warn");
}

#[test]
fn its_text_has_a_line_for_each_check_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = robata();
    command
        .args(["doctor", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.path());
    command.env("ROBATA_EXECUTORS__DOCKER__DOCKER__HOST", "unix:///there/is/none.sock");
    let ran = Running::start(command).end();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for part in ["OK    settings", "FAIL  executor docker", "→ start it"] {
        assert!(ran.stdout.contains(part), "{part} is not in\n{}", ran.stdout);
    }
}

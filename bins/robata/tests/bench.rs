//! `robata bench` measures through the real binary, and leaves nothing behind.

use std::{fs, process::Command};

use serde_json::Value;

#[test]
fn the_bench_measures_what_it_is_asked_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_robata"))
        .args([
            "--output",
            "json",
            "bench",
            "enqueue",
            "process",
            "idle",
            "--duration",
            "200ms",
            "--jobs",
            "20",
        ])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"));
    assert!(output.status.success(), "{report} {errors}");
    assert_eq!(report["not_run"], Value::Array(Vec::new()));
    let rows = report["rows"].as_array().unwrap();
    let of = |scenario| rows.iter().filter(|row| row["scenario"] == scenario).count();
    assert_eq!(
        ["enqueue", "process", "idle", "docker"].map(of),
        [2, 2, 2, 0],
        "{report}"
    );
    for row in rows {
        assert!(
            row["value"].as_f64().unwrap() >= 0.0 && row["target"].is_object(),
            "{row}"
        );
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_scenario_that_cannot_be_measured_says_why_and_is_a_failure() {
    let output = Command::new(env!("CARGO_BIN_EXE_robata"))
        .args([
            "--output",
            "json",
            "bench",
            "docker",
            "--docker-host",
            "unix:///nowhere/docker.sock",
        ])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let reason = report["not_run"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("Docker is not reached"), "{reason}");
}

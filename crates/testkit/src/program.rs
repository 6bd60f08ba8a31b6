//! A program of the house, run with settings of a test's own.

use std::{
    ffi::OsStr,
    fs,
    process::{Command, Output},
};

/// Settings of services that nobody answers at.
pub const NO_SERVICES: &str =
    "[store.postgres]\nurl = \"postgres://x@127.0.0.1:1/x\"\n[queue.redis]\nurl = \"redis://127.0.0.1:1\"\n";

/// Runs a program to its end with these settings, a data folder of its own and an empty environment.
///
/// # Panics
/// Where it cannot be started.
pub fn run(program: impl AsRef<OsStr>, settings: &str, args: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("robata.toml");
    let data = folder.path().display();
    fs::write(&file, format!("[data]\nfolder = \"{data}\"\n{settings}")).expect("settings");
    Command::new(program)
        .env_clear()
        .arg("--config")
        .arg(file)
        .args(args)
        .output()
        .expect("the program starts")
}

/// Makes sure that it ended with this code, and that its standard error has all of these.
///
/// # Panics
/// Where that is not so.
#[track_caller]
pub fn tells(output: &Output, code: i32, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

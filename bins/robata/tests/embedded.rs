//! The example of Robata inside another program runs.

use std::{path::Path, process::Command};

#[test]
fn a_program_runs_its_own_functions_as_jobs() {
    // Cargo builds examples beside tests, in a folder of their own.
    let program = Path::new(env!("CARGO_BIN_EXE_robata")).with_file_name("examples/embedded");
    let output = Command::new(&program).output().unwrap_or_else(|error| {
        panic!("{}: {error}; `cargo build --examples` builds it", program.display());
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "slept 20 ms, with a payload of 11 bytes\n"
    );
}

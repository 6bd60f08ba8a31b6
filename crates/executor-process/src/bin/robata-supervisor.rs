//! The supervisor as a program of its own, for those whose main cannot begin with `supervise_if_asked`.

use std::process::ExitCode;

fn main() -> ExitCode {
    robata_executor_process::supervise_if_asked();
    // Wrong usage: only an executor starts this program.
    ExitCode::from(64)
}

//! A program from its first line to its exit code.

use std::process::ExitCode;

use tokio::runtime::Builder;

use crate::fault;

/// Runs a daemon on a runtime of its own, and answers its exit code.
#[must_use]
pub fn run(daemon: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = match Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fault::exit(Err(error.into())),
    };
    let ended = runtime.block_on(daemon);
    // What still waits for an engine or a server does not hold the program back.
    runtime.shutdown_background();
    fault::exit(ended)
}

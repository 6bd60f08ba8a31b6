//! Without Robata: runs a command supervised, follows its output, and survives being killed in the middle.
//!
//! `cargo run -p robata-executor-process --example process_alone -- sh -c 'for i in 1 2 3; do echo $i; sleep 1; done'`

use std::{collections::BTreeMap, io::Write};

use futures::StreamExt;
use robata_core::{
    InstallationId,
    executor::{Executor, Position, Prepare, ReadOutput, Spec, Stream, Target, ThingState},
};
use robata_executor_process::{ProcessConfig, ProcessExecutor, supervise_if_asked};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // First of all: this program is the supervisor of what it runs, too.
    supervise_if_asked();
    let command: Vec<String> = std::env::args().skip(1).collect();
    tokio::runtime::Runtime::new()?.block_on(run(command))
}

async fn run(command: Vec<String>) -> Result<(), Box<dyn std::error::Error>> {
    let state = std::env::temp_dir().join("robata-alone");
    // Whoever opens the folder with this id again finds what runs in it; a program of your own keeps its id.
    let installation: InstallationId = "019aa05d-0000-7000-8000-000000000001".parse()?;
    let executor = ProcessExecutor::open(ProcessConfig::new(state, installation))?;

    for left in executor.owned().await? {
        // From an earlier run that was killed: it went on without us.
        let seen = executor.observe(&[Target::Handle(left.handle.clone())]).await?;
        if !matches!(seen[0].state, ThingState::Running { .. }) {
            executor.remove(&left.handle, false).await?;
        }
    }

    let spec = Spec {
        command: Some(command),
        ..Spec::default()
    };
    let name = format!("alone-{}", std::process::id());
    let thing = executor
        .prepare(Prepare {
            name,
            labels: BTreeMap::new(),
            spec,
            progress: None,
        })
        .await?
        .handle;
    executor.start(&thing).await?;

    let request = ReadOutput {
        handle: thing.clone(),
        from: Position::default(),
        follow: true,
    };
    let mut output = executor.output(request).await?;
    while let Some(piece) = output.next().await {
        let piece = piece?;
        match piece.stream {
            Stream::Stdout => std::io::stdout().write_all(&piece.data)?,
            Stream::Stderr => std::io::stderr().write_all(&piece.data)?,
        }
    }
    let seen = executor.observe(&[Target::Handle(thing.clone())]).await?;
    writeln!(std::io::stdout(), "{:?}", seen[0].state)?;
    executor.remove(&thing, false).await?;
    Ok(())
}

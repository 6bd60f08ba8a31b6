//! A worker that the tests kill: it prepares and starts one thing after another, several at once, until it dies.

use std::{collections::BTreeMap, path::PathBuf};

use robata_core::executor::{Executor, Prepare, Spec, label};
use robata_executor_process::{ProcessConfig, ProcessExecutor, supervise_if_asked};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    supervise_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [state, installation, log] = arguments.as_slice() else {
        return Err("usage: STATE INSTALLATION LOG".into());
    };
    let config = ProcessConfig::new(PathBuf::from(state), installation.parse()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(work(config, log))?)
}

async fn work(config: ProcessConfig, log: &str) -> robata_core::Result<()> {
    let executor = ProcessExecutor::open(config)?;
    loop {
        let one = || async {
            let id = uuid::Uuid::new_v4().simple().to_string();
            let script = format!("echo $ROBATA_THING >> {log}; printf done");
            let spec = Spec {
                command: Some(vec!["/bin/sh".into(), "-c".into(), script]),
                ..Spec::default()
            };
            let labels = BTreeMap::from([(label::MARK.to_owned(), id.clone())]);
            let made = executor
                .prepare(Prepare {
                    name: format!("w-{id}"),
                    labels,
                    spec,
                    progress: None,
                })
                .await?;
            executor.start(&made.handle).await?;
            // A worker that starts twice, because its first answer was lost.
            executor.start(&made.handle).await
        };
        tokio::try_join!(one(), one(), one(), one())?;
    }
}

//! A container from its making to its removal, without anything else of Robata.
//!
//! `cargo run -p robata-executor-docker --example docker_alone -- IMAGE [COMMAND …]`
#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{collections::BTreeMap, path::PathBuf};

use futures::StreamExt;
use robata_core::{
    InstallationId,
    executor::{Event, Executor, Position, Prepare, Progress, ReadOutput, Spec, Target, ThingState, label},
};
use robata_executor_docker::{DockerConfig, DockerExecutor};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let image = args.next().unwrap_or_else(|| "busybox".to_owned());
    let command: Vec<_> = args.collect();

    // An application keeps its installation's id: what runs is found by it after a restart.
    let executor = DockerExecutor::connect(DockerConfig {
        host: std::env::var("DOCKER_HOST").ok(),
        config_json: std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker/config.json")),
        ..DockerConfig::new(InstallationId::new())
    })?;
    let mut events = executor.events();

    let made = executor
        .prepare(Prepare {
            name: format!("alone-{}", uuid::Uuid::new_v4().simple()),
            labels: BTreeMap::from([(label::MARK.to_owned(), uuid::Uuid::new_v4().to_string())]),
            spec: Spec {
                image: Some(image),
                command: (!command.is_empty()).then_some(command),
                payload: r#"{"n": 1}"#.into(),
                payload_file_env: Some("PAYLOAD".to_owned()),
                ..Spec::default()
            },
            progress: Some(Progress(std::sync::Arc::new(|words| println!("… {words}")))),
        })
        .await?;
    println!("made {} of {}", made.handle, made.image_digest.unwrap_or_default());
    executor.start(&made.handle).await?;

    let request = ReadOutput {
        handle: made.handle.clone(),
        from: Position::default(),
        follow: true,
    };
    let mut output = executor.output(request).await?;
    while let Some(piece) = output.next().await {
        let piece = piece?;
        print!(
            "{} {} {}",
            piece.at,
            piece.stream.as_str(),
            String::from_utf8_lossy(&piece.data)
        );
    }

    // Every event says only "look"; the look says what happened.
    while let Some(event) = events.next().await {
        if let Event::Unreachable(words) = event {
            println!("… {words}");
            continue;
        }
        let seen = executor.observe(&[Target::Handle(made.handle.clone())]).await?;
        if let ThingState::Ended(ending) = &seen[0].state {
            println!(
                "ended: {:?} {}",
                ending.end,
                ending.message.as_deref().unwrap_or_default()
            );
            break;
        }
    }
    executor.remove(&made.handle, false).await?;
    Ok(())
}

#![doc = include_str!("../README.md")]

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use robata_daemon::{Given, Parts, Role, Running, Signals, apart, bind, load, telemetry};
use robata_settings::{Listen, Settings};

/// Robata's master: the HTTP API and the scheduler's loops. Any number may run.
#[derive(Debug, Parser)]
#[command(name = "robata-master", version, max_term_width = 100)]
struct Args {
    /// The settings file.
    #[arg(long, env = "ROBATA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen: an address (port 0 takes a free one), beyond loopback only with auth.admin_token; or unix:/PATH
    /// [default: 127.0.0.1:7070].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<Listen>,
    /// Where everything is kept that has no folder of its own [default: robata in $XDG_DATA_HOME, or in ~/.local/share].
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    robata_daemon::run(master(args))
}

async fn master(args: Args) -> anyhow::Result<ExitCode> {
    let settings = settings(args)?;
    apart(&settings)?;
    let metrics = telemetry(&settings, "info")?;
    let mut signals = Signals::new()?;
    let opened = async {
        let parts = Parts::open(&settings, Role::Master).await?;
        let listener = bind(&settings.server.listen, &settings).await?;
        anyhow::Ok((parts, listener))
    };
    let (parts, listener) = tokio::select! {
        opened = opened => opened?,
        // Nothing was begun: this is good order, however long the store has been waited for.
        _ = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    let url = listener.url()?;
    let mut running = Running::new();
    let api = running.local_api(&parts, &settings, metrics, None);
    running.api(listener, api);
    running.scheduler(&parts, &settings);
    let installation = parts.store().installation();
    tracing::info!(event = "listening", url, %installation, "robata-master listens");

    let failed = tokio::select! {
        _ = signals.next() => None,
        ended = running.ended() => Some(ended.failure()),
    };
    tracing::info!(event = "stopping", "stopping; again: leave at once");
    tokio::select! {
        _ = running.stop() => {}
        signal = signals.next() => return Ok(signal.code()),
    }
    tracing::info!(event = "stopped", "stopped");
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn settings(args: Args) -> anyhow::Result<Settings> {
    let given = Given {
        config: args.config,
        ..Given::default()
    };
    let given = given.flag("--listen", "server.listen", args.listen);
    Ok(load(given.data_dir(args.data_dir.as_deref())?)?.settings)
}

#![doc = include_str!("../README.md")]

mod args;
mod stop;

use std::process::ExitCode;

use args::Args;
use clap::Parser;
use robata_daemon::{Parts, Role, Running, Signals, apart, bind, on_sigterm, telemetry};
use robata_settings::Listen;
use stop::Stop;

fn main() -> ExitCode {
    // Before any thread: this program is also the supervisor of its processes.
    robata_daemon::supervise_if_asked();
    let args = Args::parse();
    robata_daemon::run(worker(args))
}

async fn worker(args: Args) -> anyhow::Result<ExitCode> {
    let settings = args.settings()?;
    apart(&settings)?;
    let metrics = telemetry(&settings, "info")?;
    let mut signals = Signals::new()?;
    let opened = async {
        let parts = Parts::open(&settings, Role::Worker).await?;
        let listener = match &settings.worker.listen {
            Listen::Off => None,
            listen => Some(bind(listen, &settings).await?),
        };
        anyhow::Ok((parts, listener))
    };
    let (parts, listener) = tokio::select! {
        opened = opened => opened?,
        // Nothing was begun: this is good order, however long the store has been waited for.
        _ = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    let worker = parts.worker(&settings);
    let stop = Stop {
        on_sigterm: on_sigterm(&settings),
        drain_within: settings.worker.drain_within,
        drain: worker.drain_token(),
    };
    let mut running = Running::new();
    if let Some(listener) = listener {
        let url = listener.url()?;
        running.probes(listener, &parts, &settings, metrics, worker.status());
        tracing::info!(event = "listening", url, "answers /healthz, /readyz and /metrics");
    }
    running.worker(worker);
    let installation = parts.store().installation();
    let executors: Vec<_> = settings.executors.keys().map(ToString::to_string).collect();
    tracing::info!(event = "working", %installation, pid = std::process::id(), executors = executors.join(", "),
        on_sigterm = ?stop.on_sigterm, "robata-worker takes jobs");
    for unreached in parts.unreached().await {
        tracing::warn!(executor = %unreached.executor, why = unreached.message,
            "not reached; its jobs wait (engine_unreachable) until it is");
    }
    stop.run(running, signals).await
}

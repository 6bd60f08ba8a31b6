//! `robata up`: everything in one process.

use std::process::ExitCode;

use robata_client::{ApplyRequest, ClientError};
use robata_daemon::{Ended, Parts, Role, Running, Signals, bind, only_executors, telemetry};
use serde_json::json;

use crate::{args::UpArgs, commands::apply::apply_file, demo, output::Output, settings};

/// The one part that may end by itself.
const DEMO: &str = "demo";

pub(crate) async fn up(args: UpArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let mut settings = settings::load(&args.settings)?.settings;
    only_executors(&mut settings, &args.executors)?;
    let metrics = telemetry(&settings, "warn")?;
    let mut signals = Signals::new()?;
    let opened = async {
        let parts = Parts::open(&settings, Role::All).await?;
        let listener = bind(&settings.server.listen, &settings).await?;
        anyhow::Ok((parts, listener))
    };
    let (parts, listener) = tokio::select! {
        opened = opened => opened?,
        signal = signals.next() => return Ok(signal.code()),
    };
    let url = listener.url()?;
    let worker = parts.worker(&settings);
    let mut running = Running::new();
    let api = running.local_api(&parts, &settings, metrics, Some(worker.status()));
    if let Some(file) = &args.apply {
        // The address is ours, but nobody is answered yet: whoever is finds the definitions.
        let apply = async |request: ApplyRequest| api.apply(&request).await.map_err(ClientError::Problem);
        let answer = tokio::select! {
            answer = apply_file(file, apply) => answer?,
            signal = signals.next() => return Ok(signal.code()),
        };
        let changed = answer
            .plan
            .iter()
            .filter(|item| item.action != "unchanged" && item.action != "keep")
            .count();
        let event = json!({"event": "applied", "file": file, "changed": changed});
        out.event(&event, || format!("applied {}: {changed} changed", file.display()))?;
    }
    running.api(listener, api.clone());
    running.scheduler(&parts, &settings);
    running.worker(worker);
    tell_unreached(&parts, out).await?;
    let is_open = settings.auth.admin_token.is_none() && !parts.store().tokens().await?.ever;
    let event = json!({"event": "listening", "url": url, "pid": std::process::id(), "installation": parts.store().installation().to_string(), "data": settings.data.folder});
    out.event(&event, || {
        let mut text = format!("robata listens on {url}; its data is in {}", settings.data.folder.display());
        if is_open && nix::unistd::geteuid().is_root() {
            text.push_str("\nrunning as root and without a token: every request on this machine acts as admin, and a process job runs as root");
        }
        text
    })?;
    if args.demo {
        let executors: Vec<_> = settings
            .executors
            .iter()
            .map(|(name, chosen)| (name.clone(), chosen.clone()))
            .collect();
        let show = demo::Demo::new(api, url.clone(), !is_open, parts.executors(), executors, *out);
        let stop = running.token();
        running.part(DEMO, async move {
            // It waits for jobs over an API that ends with us.
            tokio::select! {
                shown = Box::pin(show.run()) => shown.map(|()| 0),
                () = stop.cancelled() => Ok(0),
            }
        });
    }
    until_told(running, signals, out).await
}

/// A line for each engine that cannot be reached; its jobs wait until it can.
async fn tell_unreached(parts: &Parts, out: &Output) -> anyhow::Result<()> {
    for unreached in parts.unreached().await {
        let (name, why) = (unreached.executor, unreached.message);
        let event = json!({"event": "unreached", "executor": name, "message": why});
        out.event(&event, || {
            format!("executor {name} is not reached: {why}; its jobs wait (engine_unreachable) until it is")
        })?;
    }
    Ok(())
}

/// Runs until told to stop, or until a part ends that must not.
async fn until_told(mut running: Running, mut signals: Signals, out: &Output) -> anyhow::Result<ExitCode> {
    let failed = loop {
        tokio::select! {
            _ = signals.next() => break None,
            ended = running.ended() => match ended {
                Ended::Well(DEMO) => {}
                // Somebody asked it to drain, and it has.
                Ended::Well(Running::WORKER) => break None,
                ended => break Some(ended.failure()),
            },
        }
    };
    out.event(&json!({"event": "stopping"}), || {
        "stopping: takes nothing new; again: leave at once".to_owned()
    })?;
    let left = tokio::select! {
        left = running.stop() => left,
        signal = signals.next() => return Ok(signal.code()),
    };
    out.event(&json!({"event": "stopped", "running": left}), || match left {
        0 => "stopped; nothing was running".to_owned(),
        1 => "stopped; 1 job goes on running and is adopted at the next start".to_owned(),
        left => format!("stopped; {left} jobs go on running and are adopted at the next start"),
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok(ExitCode::SUCCESS),
    }
}

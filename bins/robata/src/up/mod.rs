//! `robata up`: everything in one process.

mod parts;
mod serve;
mod signals;

use std::{process::ExitCode, time::Duration};

use anyhow::anyhow;
use robata_client::Client;
use robata_core::ExecutorName;
use robata_scheduler::Scheduler;
use robata_settings::Settings;
use robata_worker::Worker;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{args::UpArgs, commands::apply::apply_file, demo, fault::Usage, output::Output, settings};
use parts::Parts;
use signals::Signals;

/// What follows a log may hold its connection open; stopping does not wait longer for it.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

pub(crate) async fn up(args: UpArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let mut settings = settings::load(&args.settings)?.settings;
    restrict(&mut settings, &args.executors)?;
    parts::log_to_stderr();
    let mut signals = Signals::new()?;
    let opened = async {
        let parts = Parts::open(&settings).await?;
        let listener = serve::bind(settings.server.listen).await?;
        anyhow::Ok((parts, listener))
    };
    let (parts, listener) = tokio::select! {
        opened = opened => opened?,
        signal = signals.next() => return Ok(signal.code()),
    };
    let address = listener.local_addr()?;
    let url = format!("http://{address}");
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let router = serve::router(&parts, &settings, stop.clone());
    tasks.spawn(Part::Api.run(serve::serve(listener, router, stop.clone())));

    let client = Client::new(&url, None)?;
    if let Some(file) = &args.apply {
        let answer = apply_file(&client, file, false).await?;
        let changed = answer
            .plan
            .iter()
            .filter(|item| item.action != "unchanged" && item.action != "keep")
            .count();
        let event = json!({"event": "applied", "file": file, "changed": changed});
        out.event(&event, || format!("applied {}: {changed} changed", file.display()))?;
    }
    let scheduler = Scheduler::new(parts.store(), parts.queue(), parts.logs(), parts::scheduler(&settings));
    let worker = Worker::new(
        parts.store(),
        parts.queue(),
        parts.logs(),
        parts.executors(),
        parts::worker(&settings),
    );
    tasks.spawn(Part::Scheduler.run({
        let stop = stop.clone();
        async move {
            scheduler.run(stop).await;
            Ok(0)
        }
    }));
    tasks.spawn(Part::Worker.run({
        let stop = stop.clone();
        async move { Ok(worker.run(stop).await.attempts) }
    }));
    parts.tell_unreached(out).await?;
    let event = json!({"event": "listening", "url": url, "pid": std::process::id(), "installation": parts.store().installation().to_string(), "data": settings.data.folder});
    out.event(&event, || {
        let mut text = format!("robata listens on {url}; its data is in {}", settings.data.folder.display());
        if nix::unistd::geteuid().is_root() {
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
        let show = demo::Demo::new(client, parts.executors(), executors, *out);
        let stop = stop.clone();
        tasks.spawn(Part::Demo.run(async move {
            // It waits for jobs over an API that ends with us.
            tokio::select! {
                shown = Box::pin(show.run()) => shown.map(|()| 0),
                () = stop.cancelled() => Ok(0),
            }
        }));
    }
    run(tasks, stop, signals, out).await
}

/// Runs until told to stop, or until a part ends that must not.
async fn run(
    mut tasks: JoinSet<(Part, anyhow::Result<usize>)>,
    stop: CancellationToken,
    mut signals: Signals,
    out: &Output,
) -> anyhow::Result<ExitCode> {
    let failed = loop {
        tokio::select! {
            _ = signals.next() => break None,
            ended = tasks.join_next() => match ended {
                Some(Ok((Part::Demo, Ok(_)))) => {}
                Some(Ok((Part::Demo, Err(error)))) => break Some(error.context("the demo failed")),
                Some(Ok((part, Ok(_)))) => break Some(anyhow!("the {part:?} ended by itself")),
                Some(Ok((part, Err(error)))) => break Some(error.context(format!("the {part:?} failed"))),
                Some(Err(panicked)) => break Some(anyhow!(panicked).context("a part panicked")),
                None => break Some(anyhow!("nothing runs any more")),
            },
        }
    };
    out.event(&json!({"event": "stopping"}), || {
        "stopping: takes nothing new; again: leave at once".to_owned()
    })?;
    stop.cancel();
    let mut left = 0;
    let drain = async {
        while let Some(ended) = tasks.join_next().await {
            if let Ok((Part::Worker, Ok(attempts))) = ended {
                left = attempts;
            }
        }
    };
    tokio::select! {
        () = drain => {}
        signal = signals.next() => return Ok(signal.code()),
    }
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

/// What runs beside the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Api,
    Scheduler,
    Worker,
    Demo,
}

impl Part {
    async fn run(self, work: impl Future<Output = anyhow::Result<usize>>) -> (Self, anyhow::Result<usize>) {
        (self, work.await)
    }
}

/// Leaves only the executors that were named.
pub(crate) fn restrict(settings: &mut Settings, names: &[ExecutorName]) -> anyhow::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let there: Vec<_> = settings.executors.keys().map(ToString::to_string).collect();
    if let Some(unknown) = names.iter().find(|name| !settings.executors.contains_key(*name)) {
        let there = there.join(", ");
        return Err(Usage(format!(
            "--executor {unknown}: there is no such executor; there are {there}"
        ))
        .into());
    }
    settings.executors.retain(|name, _| names.contains(name));
    if settings
        .definitions
        .default_executor
        .as_ref()
        .is_some_and(|name| !settings.executors.contains_key(name))
    {
        settings.definitions.default_executor = None;
    }
    Ok(())
}

//! `robata run`: a one-off with another command; Ctrl-C cancels it and waits for its end.

use std::process::ExitCode;

use robata_client::RunRequest;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::{Connection, RunArgs},
    commands::enqueue::conclude,
    exit,
    output::Output,
    pairs, watch,
};

pub(crate) async fn run(server: &Connection, args: RunArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let client = server.client()?;
    let (app, job) = args.target;
    let request = RunRequest {
        job,
        image: args.image,
        entrypoint: (!args.entrypoint.is_empty()).then_some(args.entrypoint),
        command: args.command,
        env: pairs::map(args.env),
        executor: args.executor,
        queue: args.queue,
        timeout: args.timeout,
    };
    // From here on a signal means the job.
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terms = signal(SignalKind::terminate())?;
    let job = client.run(&app, &request).await?;
    if args.detach {
        out.print(&job, || job.id.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let follow = watch::follow(&client, job.id, out);
    tokio::pin!(follow);
    let mut asked = false;
    let job = loop {
        tokio::select! {
            job = &mut follow => break job?,
            _ = interrupts.recv() => {}
            _ = terms.recv() => {}
        }
        if asked {
            out.note(&format!("robata: left; {} is being cancelled", job.id));
            return Ok(ExitCode::from(exit::CANCELLED));
        }
        asked = true;
        out.note(&format!("robata: cancelling {}; again: leave at once", job.id));
        // A job that has just ended cannot be cancelled any more, and is told as it ended.
        if let Err(error) = client.cancel(job.id).await
            && error.problem().is_none_or(|problem| problem.status != 409)
        {
            return Err(error.into());
        }
    };
    conclude(&client, &job, true, out).await
}

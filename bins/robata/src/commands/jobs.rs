//! `robata jobs`: list, show, logs, wait, cancel, retry.

use std::{process::ExitCode, time::Duration};

use futures::{StreamExt, pin_mut};
use robata_client::{Client, Job, LogsRequest};
use robata_core::JobId;
use serde_json::json;

use crate::{
    args::{Connection, JobsArgs, JobsCommand, LogsArgs, StreamName},
    commands::{enqueue, list, show},
    exit,
    fault::{self, Coded},
    output::{self, Output},
    watch,
};

pub(crate) async fn jobs(server: &Connection, args: JobsArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let client = server.client()?;
    match args.command {
        JobsCommand::List(args) => list::list(&client, args, out).await,
        JobsCommand::Show { id } => {
            let job = client.job(id).await?;
            out.print(&job, || show::job(&job, out))?;
            Ok(ExitCode::SUCCESS)
        }
        JobsCommand::Logs(args) => logs(&client, args, out).await,
        JobsCommand::Wait { id, follow, timeout } => wait(&client, id, follow, timeout, out).await,
        JobsCommand::Cancel { ids } => act(&client, &ids, "cancel", out).await,
        JobsCommand::Retry { ids } => act(&client, &ids, "retry", out).await,
    }
}

async fn logs(client: &Client, args: LogsArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let request = LogsRequest {
        attempt: args.attempt,
        stream: args.stream.map(|stream| match stream {
            StreamName::Stdout => "stdout".to_owned(),
            StreamName::Stderr => "stderr".to_owned(),
        }),
        follow: args.follow,
        offset: args.offset,
    };
    if out.is_json() {
        let entries = client.log_entries(args.id, &request).await?;
        pin_mut!(entries);
        while let Some(entry) = entries.next().await {
            out.event(&watch::log_line(entry?), String::new)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let pieces = client.logs(args.id, &request).await?;
    pin_mut!(pieces);
    while let Some(piece) = pieces.next().await {
        output::bytes(false, &piece?)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn wait(
    client: &Client,
    id: JobId,
    follow: bool,
    timeout: Option<Duration>,
    out: &Output,
) -> anyhow::Result<ExitCode> {
    let finish = enqueue::finish(client, id, follow, out);
    let Some(timeout) = timeout else {
        return finish.await;
    };
    tokio::time::timeout(timeout, finish).await.unwrap_or_else(|_| {
        let shown = robata_core::definition::duration::format(timeout);
        Err(Coded {
            code: "still_runs",
            message: format!("{id} has not ended within {shown}; it goes on"),
        }
        .into())
    })
}

/// One request for each job; the others are tried, too, where one is refused.
async fn act(client: &Client, ids: &[JobId], what: &str, out: &Output) -> anyhow::Result<ExitCode> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut refused = Vec::new();
    for &id in ids {
        let acted = match what {
            "cancel" => client.cancel(id).await,
            _ => client.retry(id).await,
        };
        match acted {
            Ok(acted) => {
                if !out.is_json() {
                    out.event(&(), || {
                        let nothing = if acted.changed { "" } else { " (nothing to change)" };
                        format!("{id} {}{nothing}", show::state_words(&acted.job))
                    })?;
                }
                jobs.push(acted.job);
            }
            Err(error) => refused.push(anyhow::Error::from(error).context(format!("{id}"))),
        }
    }
    if out.is_json() {
        out.print(&json!({"jobs": jobs}), String::new)?;
    }
    for error in &refused {
        fault::report(error, out);
    }
    Ok(if refused.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit::ERROR)
    })
}

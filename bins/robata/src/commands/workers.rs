//! `robata workers`: who takes jobs, who is to leave, which host is gone.

use std::process::ExitCode;

use robata_client::types::WorkerList;

use crate::{
    args::{Connection, WorkersArgs, WorkersCommand},
    clock,
    output::{Output, Tone},
    table::{Table, cell},
};

pub(crate) async fn workers(server: &Connection, args: WorkersArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let client = server.client()?;
    match args.command {
        WorkersCommand::List => list(
            &WorkerList {
                workers: client.workers().await?,
            },
            out,
        )?,
        WorkersCommand::Drain { id } => {
            let worker = client.drain_worker(id).await?;
            out.print(&worker, || {
                format!(
                    "{id} takes nothing new and leaves once its {} attempts have ended",
                    worker.attempts
                )
            })?;
        }
        WorkersCommand::Lost { realm } => {
            let lost = client.lose_realm(&realm).await?;
            out.print(&lost, || {
                let mut table = Table::new(&["LOST JOB", "ATTEMPT"]);
                for attempt in &lost.attempts {
                    table.row(vec![cell(attempt.job.to_string()), cell(attempt.attempt.to_string())]);
                }
                table.text(out, "nothing ran there")
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(list: &WorkerList, out: &Output) -> anyhow::Result<()> {
    out.print(list, || {
        let now = clock::now();
        let mut table = Table::new(&[
            "WORKER",
            "HOST",
            "PID",
            "STATE",
            "ATTEMPTS",
            "EXECUTORS",
            "FORMAT",
            "SEEN",
            "STARTED",
        ]);
        for worker in &list.workers {
            let state = match worker.ended_at {
                Some(_) => (Some(Tone::Quiet), "ended".to_owned()),
                None if worker.draining => (Some(Tone::Busy), "draining".to_owned()),
                None => (Some(Tone::Good), "live".to_owned()),
            };
            let executors: Vec<_> = worker
                .executors
                .iter()
                .map(|(name, executor)| {
                    let reached = if executor.realm.is_none() { ", not reached" } else { "" };
                    format!("{name} ({} slots{reached})", executor.slots)
                })
                .collect();
            table.row(vec![
                cell(worker.id.to_string()),
                cell(&worker.host),
                cell(worker.pid.to_string()),
                state,
                cell(worker.attempts.to_string()),
                cell(executors.join(", ")),
                cell(worker.format.to_string()),
                cell(clock::ago(worker.seen_at, now)),
                cell(clock::ago(worker.started_at, now)),
            ]);
        }
        table.text(out, "no worker has registered")
    })
}

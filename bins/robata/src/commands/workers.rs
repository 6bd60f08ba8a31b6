//! `robata workers`: who takes jobs.

use std::process::ExitCode;

use robata_client::types::WorkerList;

use crate::{
    args::{Connection, WorkersArgs, WorkersCommand},
    clock,
    output::{Output, Tone},
    table::{Table, cell},
};

pub(crate) async fn workers(server: &Connection, args: WorkersArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let WorkersCommand::List = args.command;
    let list = WorkerList {
        workers: server.client()?.workers().await?,
    };
    out.print(&list, || {
        let now = clock::now();
        let mut table = Table::new(&[
            "WORKER",
            "HOST",
            "PID",
            "STATE",
            "ATTEMPTS",
            "EXECUTORS",
            "SEEN",
            "STARTED",
        ]);
        for worker in &list.workers {
            let state = match worker.ended_at {
                Some(_) => (Some(Tone::Quiet), "ended".to_owned()),
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
                cell(clock::ago(worker.seen_at, now)),
                cell(clock::ago(worker.started_at, now)),
            ]);
        }
        table.text(out, "no worker has registered")
    })?;
    Ok(ExitCode::SUCCESS)
}

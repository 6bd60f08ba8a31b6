//! `robata queues`: what waits where.

use std::process::ExitCode;

use robata_client::types::QueueList;

use crate::{
    args::{Connection, QueuesArgs, QueuesCommand},
    output::Output,
    table::{Table, cell, maybe},
};

pub(crate) async fn queues(server: &Connection, args: QueuesArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let QueuesCommand::List = args.command;
    let list = QueueList {
        queues: server.client()?.queues().await?,
    };
    out.print(&list, || {
        let mut table = Table::new(&["QUEUE", "EXECUTOR", "SCHEDULED", "QUEUED", "RUNNING", "MAX RUNNING"]);
        for queue in &list.queues {
            if queue.lines.is_empty() {
                table.row(vec![
                    cell(queue.queue.as_str()),
                    cell("-"),
                    cell(queue.scheduled.to_string()),
                    cell(queue.queued.to_string()),
                    cell(queue.running.to_string()),
                    maybe(queue.max_running),
                ]);
            }
            for line in &queue.lines {
                table.row(vec![
                    cell(queue.queue.as_str()),
                    cell(line.executor.as_str()),
                    cell(line.scheduled.to_string()),
                    cell(line.queued.to_string()),
                    cell(line.running.to_string()),
                    maybe(queue.max_running),
                ]);
            }
        }
        table.text(out, "no queue has jobs or settings")
    })?;
    Ok(ExitCode::SUCCESS)
}

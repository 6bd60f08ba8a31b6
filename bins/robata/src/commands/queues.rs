//! `robata queues`: what waits where, what is held back, and what could not be taken in.

use std::process::ExitCode;

use robata_client::types::{Queue, QueueList, SetAside};

use crate::{
    args::{Connection, QueuesArgs, QueuesCommand},
    clock,
    output::{Output, Tone},
    table::{Table, cell, maybe},
};

/// So much of a message is shown in a line.
const SHOWN: usize = 60;

pub(crate) async fn queues(server: &Connection, args: QueuesArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let client = server.client()?;
    match args.command {
        QueuesCommand::List => list(
            &QueueList {
                queues: client.queues().await?,
            },
            out,
        )?,
        QueuesCommand::Pause { name, reason } => {
            let queue = client.pause_queue(&name, &reason).await?;
            out.print(&queue, || {
                format!("{name} is paused; {} wait, {} run on", queue.queued, queue.running)
            })?;
        }
        QueuesCommand::Resume { name } => {
            let queue = client.resume_queue(&name).await?;
            out.print(&queue, || format!("{name} is not paused; {} wait", queue.queued))?;
        }
        QueuesCommand::SetAside { limit, before } => {
            let page = client.set_aside(before, limit).await?;
            out.print(&page, || {
                let mut table = Table::new(&["NUMBER", "SET ASIDE", "FROM", "BYTES", "REASON", "BODY"]);
                for message in &page.messages {
                    table.row(vec![
                        cell(message.seq.to_string()),
                        cell(clock::ago(message.at, clock::now())),
                        cell(&message.source),
                        cell(message.bytes.to_string()),
                        cell(&message.reason),
                        cell(body(message)),
                    ]);
                }
                let mut text = table.text(out, "nothing was set aside");
                if let Some(next) = page.next_before {
                    text.push_str(&format!("more: --before {next}\n"));
                }
                text
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The beginning of a body, without what would move a terminal's cursor.
fn body(message: &SetAside) -> String {
    let text = match (&message.body, &message.body_base64) {
        (Some(text), _) => text.escape_debug().to_string(),
        (None, Some(bytes)) => format!("base64:{bytes}"),
        (None, None) => String::new(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn list(list: &QueueList, out: &Output) -> anyhow::Result<()> {
    out.print(list, || {
        let mut table = Table::new(&[
            "QUEUE",
            "EXECUTOR",
            "SCHEDULED",
            "QUEUED",
            "RUNNING",
            "MAX RUNNING",
            "STATE",
        ]);
        for queue in &list.queues {
            if queue.lines.is_empty() {
                table.row(vec![
                    cell(queue.queue.as_str()),
                    cell("-"),
                    cell(queue.scheduled.to_string()),
                    cell(queue.queued.to_string()),
                    cell(queue.running.to_string()),
                    maybe(queue.max_running),
                    state(queue),
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
                    state(queue),
                ]);
            }
        }
        table.text(out, "no queue has jobs or settings")
    })
}

fn state(queue: &Queue) -> (Option<Tone>, String) {
    match &queue.paused {
        None => cell("open"),
        Some(pause) if pause.reason.is_empty() => (Some(Tone::Busy), "paused".to_owned()),
        Some(pause) => (Some(Tone::Busy), format!("paused: {}", pause.reason)),
    }
}

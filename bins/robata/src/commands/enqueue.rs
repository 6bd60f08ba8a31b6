//! `robata enqueue`: one job, and if asked its output and its exit code.

use std::{io::Read, process::ExitCode};

use anyhow::Context;
use robata_client::{Client, EnqueueRequest, Job, Span};
use robata_core::JobId;
use serde_json::value::RawValue;

use crate::{
    args::{Connection, EnqueueArgs},
    exit,
    fault::Usage,
    output::Output,
    pairs, watch,
};

pub(crate) async fn enqueue(server: &Connection, args: EnqueueArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let client = server.client()?;
    let payload = args.payload.as_deref().map(payload).transpose()?;
    let (app, job) = args.target;
    let request = EnqueueRequest {
        app,
        job,
        payload,
        queue: args.queue,
        delay_seconds: args.delay.map(|delay| delay.as_secs_f64()),
        run_at: args.run_at,
        expires_in: args.expires_in.map(Span),
        priority: args.priority,
        idempotency_key: args.key,
        env: pairs::map(args.env),
        labels: pairs::map(args.label),
    };
    let enqueued = client.enqueue(&request).await?;
    if enqueued.replayed {
        out.note(&format!("robata: this key is known; its job is {}", enqueued.job.id));
    }
    if enqueued.degraded {
        out.note("robata: the store does not serve now; the job is kept by the broker until it does");
    }
    if !args.wait.waits() {
        out.print(&enqueued.job, || enqueued.job.id.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    finish(&client, enqueued.job.id, args.wait.follow, out).await
}

/// Waits for the job, following its output if asked; the exit code is the job's.
pub(crate) async fn finish(client: &Client, id: JobId, follow: bool, out: &Output) -> anyhow::Result<ExitCode> {
    let job = if follow {
        watch::follow(client, id, out).await?
    } else {
        watch::wait(client, id).await?
    };
    conclude(client, &job, follow, out).await
}

/// Tells how the job ended.
pub(crate) async fn conclude(client: &Client, job: &Job, printed: bool, out: &Output) -> anyhow::Result<ExitCode> {
    if out.is_json() {
        // Behind the lines of its output, where they were asked for: every line is a document.
        out.event(job, String::new)?;
    } else if !printed {
        out.event(job, || job.id.to_string())?;
    }
    watch::tell_failure(client, job, printed, out).await;
    Ok(exit::of(job))
}

/// The payload: as given, of a file, or from standard input. Its bytes go out as they are.
fn payload(text: &str) -> anyhow::Result<Box<RawValue>> {
    let (bytes, from) = match text.strip_prefix('@') {
        Some(path) => {
            let bytes = std::fs::read(path).with_context(|| format!("cannot read the payload's file {path}"))?;
            (bytes, path.to_owned())
        }
        None if text == "-" => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .read_to_end(&mut bytes)
                .context("cannot read the payload from standard input")?;
            (bytes, "standard input".to_owned())
        }
        None => (text.as_bytes().to_vec(), "--payload".to_owned()),
    };
    let text = String::from_utf8(bytes).map_err(|_| Usage(format!("the payload ({from}) is not UTF-8")))?;
    serde_json::from_str(&text).map_err(|error| {
        let hint = if from == "--payload" {
            "; text stands in quotes, as --payload '\"text\"'; a file is --payload @FILE"
        } else {
            ""
        };
        Usage(format!("the payload ({from}) is no JSON: {error}{hint}")).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payloads_bytes_are_kept_as_they_are() {
        for text in [
            "{\"b\":1,\"a\":12345678901234567890123,\"c\":\"\\u0000\"}",
            "null",
            "1.10",
        ] {
            assert_eq!(payload(text).unwrap().get(), text);
        }
    }

    #[test]
    fn text_without_quotes_is_told_how_to_write_it() {
        let error = payload("hello").unwrap_err();
        assert!(error.is::<Usage>());
        assert!(error.to_string().contains("--payload '\"text\"'"), "{error}");
    }
}

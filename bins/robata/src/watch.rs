//! Waits for a job and prints its own output, attempt after attempt.

use std::time::Duration;

use futures::{StreamExt, pin_mut};
use robata_client::{
    Attempt, Client, ClientError, Job, LogEntry, LogsRequest, Word,
    types::{Gap, LogLine},
};
use robata_core::{JobId, JobState, executor::Stream, log_store::Piece};
use serde::Serialize;

use crate::{
    clock,
    output::{self, Output},
};

/// While a job has no attempt to follow yet it is looked at this often; a wait that the server holds would not end
/// when an attempt begins.
const LOOK: Duration = Duration::from_millis(50);
/// The same once it has waited a while.
const LOOK_SELDOM: Duration = Duration::from_millis(500);
/// From one try to the next while the server does not answer.
const RETRY: Duration = Duration::from_millis(250);
/// So many of its last bytes are looked through for a failed job's last words.
const LAST_BYTES: u64 = 4096;
/// A failed job's log is waited for this long before its failure is told without.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(3);
/// So many of its last lines are shown.
const LAST_LINES: usize = 5;

/// Waits for the job's end.
pub(crate) async fn wait(client: &Client, id: JobId) -> anyhow::Result<Job> {
    Ok(client.wait(id).await?)
}

/// Prints the job's own output, stdout to stdout and stderr to stderr, over all of its attempts, until it has ended.
pub(crate) async fn follow(client: &Client, id: JobId, out: &Output) -> anyhow::Result<Job> {
    let mut watcher = Watcher {
        client,
        id,
        out,
        silent_since: None,
    };
    let mut told_waiting = None;
    let mut number = 1;
    loop {
        let job = watcher.attempt(number, &mut told_waiting).await?;
        if job.attempt < number {
            return Ok(job);
        }
        watcher.print(number).await?;
        let job = watcher.after(number).await?;
        if job.state.is_ended() && job.attempt <= number {
            return Ok(job);
        }
        if let Some(attempt) = job.attempts.iter().flatten().find(|attempt| attempt.number == number) {
            let next = match &job.waiting {
                Some(_) if job.state.known() == Some(JobState::Scheduled) => {
                    format!("the next in {}", clock::span(job.run_at.since(clock::now())))
                }
                _ => "the next at once".to_owned(),
            };
            out.note(&format!("robata: attempt {number} {}; {next}", ended(attempt)));
        }
        number += 1;
    }
}

struct Watcher<'a> {
    client: &'a Client,
    id: JobId,
    out: &'a Output,
    silent_since: Option<tokio::time::Instant>,
}

impl Watcher<'_> {
    /// The job, where the server answers; a server that is being restarted is borne for a while.
    async fn job(&mut self) -> anyhow::Result<Job> {
        loop {
            match self.client.job(self.id).await {
                Ok(job) => {
                    self.silent_since = None;
                    return Ok(job);
                }
                Err(error) => self.bear(error).await?,
            }
        }
    }

    async fn bear(&mut self, error: ClientError) -> anyhow::Result<()> {
        let since = *self.silent_since.get_or_insert_with(tokio::time::Instant::now);
        if !error.is_passing() || since.elapsed() > robata_client::PATIENCE {
            return Err(error.into());
        }
        tokio::time::sleep(RETRY).await;
        Ok(())
    }

    /// Waits until the job has this attempt, or has ended without it.
    async fn attempt(&mut self, number: u32, told: &mut Option<String>) -> anyhow::Result<Job> {
        let begin = tokio::time::Instant::now();
        loop {
            let job = self.job().await?;
            if job.attempt >= number || job.state.is_ended() {
                return Ok(job);
            }
            if begin.elapsed() > Duration::from_secs(2) {
                self.tell_waiting(&job, told);
            }
            let soon = begin.elapsed() < Duration::from_secs(5);
            tokio::time::sleep(if soon { LOOK } else { LOOK_SELDOM }).await;
        }
    }

    fn tell_waiting(&self, job: &Job, told: &mut Option<String>) {
        let Some(waiting) = &job.waiting else { return };
        let reason = waiting.reason.as_str().to_owned();
        if told.as_ref() != Some(&reason) {
            let why = waiting
                .message
                .as_deref()
                .map(|why| format!(": {why}"))
                .unwrap_or_default();
            self.out.note(&format!("robata: {} waits: {reason}{why}", job.id));
            *told = Some(reason);
        }
    }

    /// Prints the attempt's output to its end; after a break in the connection it goes on where it was.
    async fn print(&mut self, number: u32) -> anyhow::Result<()> {
        let (mut stdout, mut stderr) = (0, 0);
        loop {
            let request = LogsRequest {
                attempt: Some(number),
                follow: true,
                ..LogsRequest::default()
            };
            let entries = match self.client.log_entries(self.id, &request).await {
                Ok(entries) => entries,
                Err(error) => {
                    self.bear(error).await?;
                    continue;
                }
            };
            pin_mut!(entries);
            let opened = tokio::time::Instant::now();
            let broken = loop {
                match entries.next().await {
                    Some(Ok(LogEntry::End { complete, reason })) => {
                        if !complete {
                            let why = reason.map(|why| format!(": {why}")).unwrap_or_default();
                            self.out
                                .note(&format!("robata: the log of attempt {number} is incomplete{why}"));
                        }
                        return Ok(());
                    }
                    Some(Ok(entry)) => {
                        self.silent_since = None;
                        self.entry(number, entry, &mut stdout, &mut stderr)?;
                    }
                    Some(Err(error)) => break error,
                    None => return Ok(()),
                }
            };
            // A job that prints nothing is no server that does not answer.
            if opened.elapsed() > robata_client::PATIENCE {
                self.silent_since = None;
            }
            self.bear(broken).await?;
        }
    }

    fn entry(&self, number: u32, entry: LogEntry, stdout: &mut u64, stderr: &mut u64) -> anyhow::Result<()> {
        match entry {
            LogEntry::Output {
                at,
                stream,
                offset,
                data,
            } => {
                let is_stderr = stream == "stderr";
                let printed = if is_stderr { stderr } else { stdout };
                let end = offset + data.len() as u64;
                // What was printed before the connection broke is not printed again.
                let known = printed.saturating_sub(offset).min(data.len() as u64);
                let fresh = data.slice(usize::try_from(known)?..);
                if fresh.is_empty() {
                    return Ok(());
                }
                *printed = end;
                if self.out.is_json() {
                    let entry = LogEntry::Output {
                        at,
                        stream,
                        offset: offset + known,
                        data: fresh,
                    };
                    let line = Followed {
                        attempt: number,
                        line: log_line(entry),
                    };
                    self.out.event(&line, String::new)
                } else {
                    output::bytes(is_stderr, &fresh)
                }
            }
            LogEntry::Gap { stream, offset, bytes } => {
                let printed = if stream == "stderr" { stderr } else { stdout };
                *printed = (*printed).max(offset + bytes.unwrap_or(0));
                let many = bytes.map_or_else(|| "some output".to_owned(), |bytes| format!("{bytes} bytes"));
                self.out.note(&format!("robata: {many} of {stream} are missing here"));
                Ok(())
            }
            LogEntry::End { .. } => Ok(()),
        }
    }

    /// The job once it shows what follows from the attempt's end; its log may be sealed a moment before.
    async fn after(&mut self, number: u32) -> anyhow::Result<Job> {
        loop {
            let job = self.job().await?;
            let live = job
                .attempts
                .iter()
                .flatten()
                .any(|attempt| attempt.number == number && attempt.finished_at.is_none());
            if !live || job.attempt > number || job.state.is_ended() {
                return Ok(job);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A line of output of a job that is followed over its attempts.
#[derive(Debug, Serialize)]
struct Followed {
    attempt: u32,
    #[serde(flatten)]
    line: LogLine,
}

/// An entry in the API's own form.
pub(crate) fn log_line(entry: LogEntry) -> LogLine {
    match entry {
        LogEntry::Output {
            at,
            stream,
            offset,
            data,
        } => LogLine {
            stream: Some(stream),
            ..Piece {
                at,
                stream: Stream::Stdout,
                offset,
                data,
            }
            .into()
        },
        LogEntry::Gap { stream, offset, bytes } => LogLine {
            stream: Some(stream),
            offset: Some(offset),
            gap: Some(Gap { bytes }),
            ..LogLine::default()
        },
        LogEntry::End { complete, reason } => LogLine {
            end: Some(true),
            complete: Some(complete),
            reason,
            ..LogLine::default()
        },
    }
}

/// How an attempt ended, in words.
pub(crate) fn ended(attempt: &Attempt) -> String {
    let mut text = attempt.state.as_str().replace('_', " ");
    let how = match (&attempt.reason, attempt.exit_code, attempt.signal) {
        (Some(reason), Some(code), _) if reason.as_str() == "exit_code" => Some(format!("exit code {code}")),
        (Some(reason), _, Some(signal)) if reason.as_str() == "signal" => Some(format!("signal {signal}")),
        (Some(reason), ..) => Some(reason.as_str().replace('_', " ")),
        (None, Some(code), _) if code != 0 => Some(format!("exit code {code}")),
        _ => None,
    };
    if let Some(how) = how.filter(|how| *how != text) {
        text.push_str(&format!(" ({how})"));
    }
    if let Some(message) = &attempt.message {
        text.push_str(": ");
        text.push_str(message);
    }
    text
}

/// One line about a job that has not succeeded, and the last lines that it printed unless they were just printed.
pub(crate) async fn tell_failure(client: &Client, job: &Job, printed: bool, out: &Output) {
    if job.state.known() == Some(JobState::Succeeded) || out.is_json() {
        return;
    }
    let last = job.attempts.as_deref().and_then(<[Attempt]>::last);
    let how = match last {
        Some(attempt) if job.max_attempts > 1 => {
            format!("attempt {} of {} {}", attempt.number, job.max_attempts, ended(attempt))
        }
        Some(attempt) => ended(attempt),
        None => {
            let reason = job.reason.as_ref().map_or("no reason", Word::as_str).replace('_', " ");
            let message = job.message.as_deref().map(|message| format!(": {message}"));
            format!("{reason}{}", message.unwrap_or_default())
        }
    };
    // "failed: failed (exit code 3)" says one thing twice.
    let state = job.state.as_str();
    let how = match how.strip_prefix(state) {
        Some(rest) => format!("{state}{rest}"),
        None => format!("{state}: {how}"),
    };
    out.note(&format!("robata: {}/{} {} {how}", job.app, job.job, job.id));
    if !printed && let Some(attempt) = last {
        for line in last_words(client, job.id, attempt.number).await {
            out.note(&format!("  | {line}"));
        }
        out.note(&format!("  robata jobs show {0}; robata jobs logs {0}", job.id));
    }
}

/// The last lines of an attempt's output. Where they cannot be had the failure is told without them.
async fn last_words(client: &Client, id: JobId, number: u32) -> Vec<String> {
    let Some(bytes) = sealed(client, id, number).await else {
        return Vec::new();
    };
    for stream in ["stderr", "stdout"] {
        let tail = tail(client, id, number, stream, bytes).await;
        let text = String::from_utf8_lossy(&tail);
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        if !lines.is_empty() {
            let from = lines.len().saturating_sub(LAST_LINES);
            return lines[from..].iter().map(|line| (*line).to_owned()).collect();
        }
    }
    Vec::new()
}

/// The bytes of an attempt's log once it is sealed: the job's end does not wait for its log (PROTOCOL X6).
async fn sealed(client: &Client, id: JobId, number: u32) -> Option<u64> {
    let begin = tokio::time::Instant::now();
    loop {
        let job = client.job(id).await.ok()?;
        let attempt = job.attempts.iter().flatten().find(|attempt| attempt.number == number)?;
        if attempt.log.state.as_str() != "open" || begin.elapsed() > LAST_WORDS_WITHIN {
            return Some(attempt.log.bytes);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The last bytes of a stream of a log that has so many bytes in all.
async fn tail(client: &Client, id: JobId, number: u32, stream: &str, bytes: u64) -> Vec<u8> {
    // The length of one stream alone is not told: it is looked for from the back, then whole.
    for offset in [bytes.saturating_sub(LAST_BYTES), 0] {
        let request = LogsRequest {
            attempt: Some(number),
            stream: Some(stream.to_owned()),
            follow: false,
            offset: Some(offset),
        };
        let found = read_tail(client, id, &request).await.unwrap_or_default();
        if !found.is_empty() || offset == 0 {
            return found;
        }
    }
    Vec::new()
}

async fn read_tail(client: &Client, id: JobId, request: &LogsRequest) -> Result<Vec<u8>, ClientError> {
    let mut found = Vec::new();
    let output = client.logs(id, request).await?;
    pin_mut!(output);
    while let Some(piece) = output.next().await {
        found.extend_from_slice(&piece?);
        let excess = found
            .len()
            .saturating_sub(usize::try_from(LAST_BYTES).unwrap_or(usize::MAX));
        found.drain(..excess);
    }
    Ok(found)
}

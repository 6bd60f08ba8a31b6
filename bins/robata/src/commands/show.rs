//! Jobs as people read them.

use robata_client::{Attempt, Job};
use robata_core::JobState;

use crate::{
    clock,
    output::{Output, Tone, one_line},
    watch,
};

/// The state; a stop that is asked for and not confirmed is shown as such.
pub(crate) fn state_words(job: &Job) -> String {
    if job.state.known() == Some(JobState::Running) && job.cancel_requested_at.is_some() {
        "stopping".to_owned()
    } else {
        job.state.to_string()
    }
}

/// The state in its colour.
pub(crate) fn tone(job: &Job) -> Option<Tone> {
    match job.state.known() {
        Some(JobState::Succeeded) => Some(Tone::Good),
        Some(JobState::Failed) => Some(Tone::Bad),
        Some(JobState::Running) => Some(Tone::Busy),
        Some(JobState::Cancelled) => Some(Tone::Quiet),
        _ => None,
    }
}

/// Why it waits or ended so, in one line.
pub(crate) fn why(job: &Job) -> String {
    let (word, message) = match (&job.waiting, &job.reason) {
        (Some(waiting), _) => (waiting.reason.as_str(), waiting.message.as_deref()),
        (None, Some(reason)) => (reason.as_str(), job.message.as_deref()),
        (None, None) => return String::new(),
    };
    let first = message.and_then(|message| message.lines().next());
    match first {
        Some(message) => format!("{word}: {message}"),
        None => word.to_owned(),
    }
}

/// One job whole.
pub(crate) fn job(job: &Job, out: &Output) -> String {
    let now = clock::now();
    let time = |time: robata_core::Timestamp| format!("{time} ({})", clock::ago(time, now));
    let mut lines = vec![
        format!(
            "{} {}/{}  {}",
            job.id,
            job.app,
            job.job,
            out.paint(tone(job), &state_words(job))
        ),
        format!(
            "  queue      {}, executor {}, priority {}",
            job.queue, job.executor, job.priority
        ),
    ];
    let mut line = |name: &str, text: Option<String>| {
        if let Some(text) = text {
            lines.push(format!("  {name:<10} {}", one_line(&text)));
        }
    };
    line("why", Some(why(job)).filter(|why| !why.is_empty()));
    line("created", Some(time(job.created_at)));
    line("due", (job.run_at != job.created_at).then(|| time(job.run_at)));
    line("expires", job.expires_at.map(time));
    line("started", job.started_at.map(time));
    line("finished", job.finished_at.map(time));
    line(
        "cancel",
        job.cancel_requested_at.map(|at| format!("asked for at {}", time(at))),
    );
    line("key", job.idempotency_key.clone());
    let labels: Vec<_> = job.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    line("labels", (!labels.is_empty()).then(|| labels.join(", ")));
    line("payload", job.payload.as_ref().map(|payload| shortened(payload.get())));
    lines.push(format!("  attempts   {} of {}", job.attempt, job.max_attempts));
    let mut text = lines.join("\n");
    for attempt in job.attempts.iter().flatten() {
        text.push('\n');
        text.push_str(&self::attempt(attempt, now));
    }
    text
}

fn attempt(attempt: &Attempt, now: robata_core::Timestamp) -> String {
    let mut text = format!("  #{:<3} {}", attempt.number, watch::ended(attempt));
    if let Some(code) = attempt.exit_code {
        text.push_str(&format!("\n       exit code {code}"));
    }
    if let Some(start) = attempt.started_at {
        let took = clock::span(attempt.finished_at.unwrap_or(now).since(start));
        text.push_str(&format!("\n       started {}, took {took}", clock::ago(start, now)));
    }
    let mut place = vec![attempt.executor.to_string()];
    place.extend(attempt.image.clone());
    place.extend(attempt.handle.clone());
    text.push_str(&format!("\n       on {}", place.join(", ")));
    if let Some(detail) = &attempt.detail {
        text.push_str(&format!("\n       detail {detail}"));
    }
    let paid = match attempt.counted {
        Some(false) => "; does not count as one of the job's own attempts",
        _ => "",
    };
    let log = &attempt.log;
    let reason = log
        .reason
        .as_deref()
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    text.push_str(&format!(
        "\n       log {} bytes, {}{reason}{paid}",
        log.bytes, log.state
    ));
    text
}

fn shortened(text: &str) -> String {
    if text.chars().count() > 200 {
        format!("{}… ({} bytes)", text.chars().take(200).collect::<String>(), text.len())
    } else {
        text.to_owned()
    }
}

//! `robata up --demo`: five jobs that show what can happen to a job, watched to their ends.

mod image;
mod place;
mod tar;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use robata_client::{
    ApplyRequest, ClientError, EnqueueRequest, Job,
    definitions::{self, Format},
};
use robata_core::{ExecutorName, JobState, executor::Executor};
use robata_daemon::LocalApi;
use robata_settings::ExecutorSettings;
use serde_json::json;

use crate::{
    clock,
    commands::{apply::apply_source, show},
    fault::Coded,
    output::{Output, Tone},
    watch,
};
use place::Place;

/// The demo's definitions.
const DEFINITIONS: &str = include_str!("../../../../config/demo.toml");
/// Its jobs, in the order in which they are enqueued.
const JOBS: [&str; 5] = ["hello", "flaky", "slow", "hungry", "long"];
/// The jobs are looked at this often.
const LOOK: Duration = Duration::from_millis(100);

/// The demo, ready to run.
#[derive(Debug)]
pub(crate) struct Demo {
    /// Past every token, and wherever this process listens.
    api: LocalApi,
    url: String,
    /// Whether whoever comes over a connection needs a token.
    needs_token: bool,
    executors: BTreeMap<ExecutorName, Arc<dyn Executor>>,
    chosen: Vec<(ExecutorName, ExecutorSettings)>,
    out: Output,
}

impl Demo {
    pub(crate) fn new(
        api: LocalApi,
        url: String,
        needs_token: bool,
        executors: BTreeMap<ExecutorName, Arc<dyn Executor>>,
        chosen: Vec<(ExecutorName, ExecutorSettings)>,
        out: Output,
    ) -> Self {
        Self {
            api,
            url,
            needs_token,
            executors,
            chosen,
            out,
        }
    }

    /// Applies the definitions, enqueues the jobs, and tells of each change until all have ended.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let place = place::find(&self.executors, &self.chosen, &self.out).await?;
        self.say(
            &json!({"event": "demo", "place": place.told()}),
            &format!("demo: {}", place.told()),
        )?;
        let mut source = definitions::read(DEFINITIONS, Format::Toml).map_err(|error| Coded {
            code: "invalid_definitions",
            message: error.shown("config/demo.toml"),
        })?;
        place.put_into(&mut source.document);
        let apply = async |request: ApplyRequest| self.api.apply(&request).await.map_err(ClientError::Problem);
        apply_source("config/demo.toml", &source, apply).await?;
        let begin = Instant::now();
        let mut jobs = Vec::new();
        for name in JOBS {
            let job = self.api.enqueue(&EnqueueRequest::new("demo", name)?).await?;
            jobs.push((job, String::new()));
        }
        if let Some((long, _)) = jobs.last() {
            let text = format!(
                "demo: `long` ends by itself after two minutes, or with: robata jobs cancel {}{}",
                long.id,
                self.server()
            );
            self.say(&json!({"event": "demo", "long": long.id}), &text)?;
        }
        loop {
            let mut all_ended = true;
            for (job, last) in &mut jobs {
                if job.state.is_ended() && !last.is_empty() {
                    continue;
                }
                match self.api.job(job.id).await.map_err(ClientError::Problem) {
                    Ok(now) => *job = now,
                    Err(error) if error.is_passing() => {}
                    Err(error) => return Err(error.into()),
                }
                all_ended &= job.state.is_ended();
                let line = line(job);
                if line != *last {
                    self.tell(begin.elapsed(), job, &line)?;
                    *last = line;
                }
            }
            if all_ended {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        self.farewell(&place)
    }

    fn tell(&self, since: Duration, job: &Job, line: &str) -> anyhow::Result<()> {
        let event = json!({"event": "demo", "job": job.job, "id": job.id, "state": job.state, "attempt": job.attempt, "reason": job.reason, "line": line});
        let tone = match job.state.known() {
            Some(JobState::Succeeded) => Some(Tone::Good),
            Some(JobState::Failed | JobState::Cancelled) => Some(Tone::Bad),
            Some(JobState::Running) => Some(Tone::Busy),
            _ => None,
        };
        self.out.event(&event, || {
            format!(
                "{:>6.1}s  {:<7} {}",
                since.as_secs_f64(),
                job.job.as_str(),
                self.out.paint(tone, line)
            )
        })
    }

    fn farewell(&self, place: &Place) -> anyhow::Result<()> {
        let server = self.server();
        let with = if self.needs_token {
            ", with a token in ROBATA_TOKEN"
        } else {
            ""
        };
        let what = match place {
            Place::Containers { image, .. } => format!("image = \\\"{image}\\\""),
            Place::Processes { executor, .. } => format!("executor = \\\"{executor}\\\""),
        };
        let text = format!(
            "demo: all five have ended; robata goes on serving. In another terminal{with}:\n\n  \
             robata jobs list{server}\n  \
             robata enqueue demo/hello --wait --follow{server}\n\n\
             A job of your own:\n\n  \
             printf \"[apps.mine]\\n{what}\\n[apps.mine.jobs.greet]\\ncommand = ['sh', '-c', 'cat \\\"\\$ROBATA_PAYLOAD_FILE\\\"']\\n\" > jobs.toml\n  \
             robata apply -f jobs.toml{server}\n  \
             robata enqueue mine/greet --payload '{{\"hello\": \"world\"}}' --wait --follow{server}\n"
        );
        self.say(&json!({"event": "demo", "ended": true}), &text)
    }

    /// What commands need to find this server, where it is not the usual one.
    fn server(&self) -> String {
        match &*self.url {
            "http://127.0.0.1:7070" => String::new(),
            other => format!(" --server {other}"),
        }
    }

    fn say(&self, event: &serde_json::Value, text: &str) -> anyhow::Result<()> {
        self.out.event(event, || text.to_owned())
    }
}

/// Where a job stands, in one line.
fn line(job: &Job) -> String {
    let state = show::state_words(job);
    let last = job.attempts.iter().flatten().last();
    let attempt = match last {
        Some(attempt) => {
            let how = if attempt.finished_at.is_none() {
                attempt.state.to_string()
            } else {
                watch::ended(attempt)
            };
            // Where the attempt only says the job's own word again it says nothing new.
            match how.strip_prefix(&state).map(|rest| rest.trim_start_matches([' ', ':'])) {
                Some("") => format!(" (attempt {} of {})", attempt.number, job.max_attempts),
                Some(more) => format!(" (attempt {} of {}): {more}", attempt.number, job.max_attempts),
                None => format!(" (attempt {} of {} {how})", attempt.number, job.max_attempts),
            }
        }
        None => String::new(),
    };
    let waits = match &job.waiting {
        Some(waiting) if job.state.known() == Some(JobState::Scheduled) => {
            format!(
                ", {} of {}",
                waiting.reason,
                clock::span(job.run_at.since(waiting.since))
            )
        }
        Some(waiting) => match &waiting.message {
            Some(message) => format!(", waits: {} ({message})", waiting.reason),
            None => format!(", waits: {}", waiting.reason),
        },
        None => String::new(),
    };
    format!("{state}{attempt}{waits}")
}

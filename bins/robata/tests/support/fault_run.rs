//! A run of many jobs while the server is killed at random moments, and the proof from outside that nothing was lost.
#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(clippy::print_stdout, reason = "the seed and the report belong to the run")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use reqwest::Method;
use robata_core::{JobId, JobState};
use robata_testkit::checker::{Expect, Line, Told, ToldAttempt, check, read_journal};
use serde_json::{Value, json};

use super::support::Server;

/// The lines that every attempt prints; the last one has no newline.
const LINES: usize = 20;

/// What an attempt does: says that it began, prints, says that it ended. `JOURNAL` is a file, or empty in a container.
#[must_use]
pub(crate) fn script() -> String {
    format!(
        r#"note() {{ [ -z "$JOURNAL" ] || echo "$1 $ROBATA_JOB_ID $ROBATA_ATTEMPT $(date +%s%3N)" >> "$JOURNAL"; }}
note begin
i=0; while [ $i -lt {LINES} ]; do echo "line $i"; i=$((i+1)); sleep 0.05; done
printf 'the last line'
note end"#
    )
}

/// What [`script`] prints.
#[must_use]
pub(crate) fn output() -> String {
    let lines: String = (0..LINES).map(|line| format!("line {line}\n")).collect();
    lines + "the last line"
}

/// A small generator of repeatable chance; its seed is printed, and can be given by `ROBATA_TEST_SEED`.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// From the environment, else from the process id.
    #[must_use]
    pub(crate) fn new() -> Self {
        let given = std::env::var("ROBATA_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
        println!("ROBATA_TEST_SEED={seed}");
        Self(seed)
    }

    /// Uniform in `from..to` milliseconds.
    pub(crate) fn millis(&mut self, from: u64, to: u64) -> Duration {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis(from + (self.0 >> 33) % (to - from))
    }
}

/// One request on a runtime of its own; the answer's body, where it is a good one.
fn http(server: &Server, method: Method, path: &str, body: Option<Value>) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut request = robata_testkit::http()
            .build()
            .expect("a client")
            .request(method, format!("{}{path}", server.url()));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        assert!(status.is_success(), "{path}: {status} {text}");
        text
    })
}

fn server_get(server: &Server, path: &str) -> Value {
    serde_json::from_str(&http(server, Method::GET, path, None)).expect("JSON")
}

/// Enqueues `count` jobs of `app/job` in one batch; answers the ids that were accepted.
pub(crate) fn enqueue(server: &Server, app: &str, job: &str, count: usize) -> BTreeSet<JobId> {
    let jobs: Vec<Value> = (0..count)
        .map(|number| json!({"app": app, "job": job, "payload": {"number": number}}))
        .collect();
    let answer = http(server, Method::POST, "/api/v1/jobs/batch", Some(json!({"jobs": jobs})));
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let results = answer["results"]
        .as_array()
        .unwrap_or_else(|| panic!("no results: {answer}"));
    results
        .iter()
        .map(|result| result["job"]["id"].as_str().expect("an id").parse().expect("a job id"))
        .collect()
}

/// Waits until every one of these jobs has ended.
pub(crate) fn all_ended(server: &Server, jobs: &BTreeSet<JobId>, within: Duration) -> Vec<Value> {
    let deadline = Instant::now() + within;
    let mut told = Vec::new();
    for job in jobs {
        loop {
            let answer = server_get(server, &format!("/api/v1/jobs/{job}?wait=10"));
            let state: JobState = answer["state"].as_str().unwrap_or_default().parse().expect("a state");
            let finalised = answer["attempts"]
                .as_array()
                .is_some_and(|attempts| attempts.iter().all(|attempt| attempt["log"]["state"] != "open"));
            if state.is_ended() && finalised {
                told.push(answer);
                break;
            }
            assert!(Instant::now() < deadline, "not over in time: {answer:#}");
            if state.is_ended() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    told
}

/// What the platform tells of these jobs, logs included.
pub(crate) fn told(server: &Server, jobs: Vec<Value>) -> Vec<Told> {
    let mut told = Vec::new();
    for job in jobs {
        let id: JobId = job["id"].as_str().expect("an id").parse().expect("a job id");
        let mut attempts = Vec::new();
        for attempt in job["attempts"].as_array().expect("attempts") {
            let number = u32::try_from(attempt["number"].as_u64().expect("a number")).expect("a small number");
            let stdout = http(
                server,
                Method::GET,
                &format!("/api/v1/jobs/{id}/logs?attempt={number}&stream=stdout"),
                None,
            );
            attempts.push(ToldAttempt {
                number,
                state: attempt["state"].as_str().unwrap_or_default().to_owned(),
                log_complete: attempt["log"]["state"] == "complete",
                stdout,
            });
        }
        told.push(Told {
            job: id,
            state: job["state"].as_str().unwrap_or_default().parse().expect("a state"),
            why: format!("{} {}", job["reason"], job["message"]),
            attempts,
        });
    }
    told
}

/// Checks a run by the journal of its attempts.
pub(crate) fn prove(
    server: &Server,
    accepted: &BTreeSet<JobId>,
    journal: impl FnOnce() -> Vec<Line>,
    within: Duration,
) {
    let jobs = all_ended(server, accepted, within);
    let told = told(server, jobs);
    let report = check(
        accepted,
        &journal(),
        &told,
        &Expect {
            output: output(),
            all_succeed: true,
        },
    );
    println!("{report}");
    report.assert_clean();
}

/// The journal that processes wrote.
#[must_use]
pub(crate) fn journal(path: &Path) -> Vec<Line> {
    read_journal(&std::fs::read_to_string(path).unwrap_or_default()).expect("a whole journal")
}

/// Processes of any of these jobs that are alive: found by their environment, not by what we remember of them.
#[must_use]
pub(crate) fn processes_of(jobs: &BTreeSet<JobId>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let path = entry.path();
        let Ok(environment) = std::fs::read(path.join("environ")) else {
            continue;
        };
        let job = environment
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(b"ROBATA_JOB_ID="));
        let job = job.and_then(|id| std::str::from_utf8(id).ok()?.parse::<JobId>().ok());
        if job.is_some_and(|job| jobs.contains(&job)) {
            found.push(path);
        }
    }
    found
}

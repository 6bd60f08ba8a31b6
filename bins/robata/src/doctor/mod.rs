//! `robata doctor`: tries everything that settings name, and says what is wrong and what to do.

mod engines;
mod folders;
mod port;
mod secrets;
mod services;

use std::process::ExitCode;

use robata_daemon::{end_ends_jobs, on_sigterm, only_executors};
use robata_settings::{OnSigterm, Settings};
use serde::Serialize;
use serde_json::json;

use crate::{
    args::DoctorArgs,
    clock, exit,
    output::{Output, Tone},
    settings,
};

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One thing that was tried.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Check {
    /// What, as `executor docker`.
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    /// What was found.
    pub(crate) message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) todo: Option<String>,
}

impl Check {
    pub(crate) fn ok(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            verdict: Verdict::Ok,
            message: message.into(),
            todo: None,
        }
    }

    pub(crate) fn warn(name: impl Into<String>, message: impl Into<String>, todo: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warn,
            todo: Some(todo.into()),
            ..Self::ok(name, message)
        }
    }

    pub(crate) fn fail(name: impl Into<String>, message: impl Into<String>, todo: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fail,
            ..Self::warn(name, message, todo)
        }
    }
}

pub(crate) async fn doctor(args: DoctorArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let mut settings = settings::load(&args.settings)?.settings;
    only_executors(&mut settings, &args.executors)?;
    let (port, running) = port::check(&settings.server.listen).await;
    let mut checks = vec![Check::ok("settings", "no mistakes"), port];
    checks.extend(folders::check(&settings, running));
    checks.extend(services::check(&settings).await);
    checks.extend(engines::check(&settings).await);
    checks.extend(secrets::check(&settings));
    checks.push(sigterm_check(&settings));
    checks.push(clock_check());
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    out.print(&json!({"ok": !failed, "checks": checks}), || {
        checks
            .iter()
            .map(|check| line(check, out))
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    Ok(ExitCode::from(if failed { exit::ERROR } else { 0 }))
}

fn line(check: &Check, out: &Output) -> String {
    let word = match check.verdict {
        Verdict::Ok => out.paint(Some(Tone::Good), "OK  "),
        Verdict::Warn => out.paint(Some(Tone::Busy), "WARN"),
        Verdict::Fail => out.paint(Some(Tone::Bad), "FAIL"),
    };
    let todo = check
        .todo
        .as_deref()
        .map(|todo| format!("\n      → {todo}"))
        .unwrap_or_default();
    format!("{word}  {}: {}{todo}", check.name, check.message)
}

/// Where a worker's end would end its jobs, and what SIGTERM does there.
fn sigterm_check(settings: &Settings) -> Check {
    let name = "worker, SIGTERM";
    match (end_ends_jobs(settings), on_sigterm(settings)) {
        (Some(why), OnSigterm::Drain) => Check::ok(name, format!("it drains, since {why}")),
        (Some(why), OnSigterm::Leave) => Check::warn(
            name,
            format!("it leaves its jobs, which end with it: {why}"),
            "worker.on_sigterm = \"drain\", or run jobs as containers of their own",
        ),
        (None, OnSigterm::Drain) => Check::ok(name, "it drains, as set"),
        (None, OnSigterm::Leave) => Check::ok(name, "it leaves running jobs to the next worker"),
    }
}

/// A clock that was never set shows the epoch, or the firmware's year.
fn clock_check() -> Check {
    /// 2026-01-01T00:00:00Z: this program is younger.
    const EARLIEST_MILLIS: i64 = 1_767_225_600_000;
    let now = clock::now();
    if now.as_millis() < EARLIEST_MILLIS {
        Check::fail(
            "clock",
            format!("it says {now}, which is past"),
            "set it (timedatectl set-ntp true): due times and retention go by it",
        )
    } else {
        Check::ok("clock", format!("it says {now}"))
    }
}

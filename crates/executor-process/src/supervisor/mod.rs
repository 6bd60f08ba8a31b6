//! The other half: a small process of its own that waits for its go, runs the job, ends all of it, and says how it ended.
//!
//! It has one thread, a session of its own, and no way back to the worker: what it is told and what it tells is in the
//! thing's folder, which is its working folder (`crate::thing` has the table).

mod begin;
mod child;
mod family;
mod watch;

use std::{
    panic::catch_unwind,
    path::Path,
    process::exit,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use nix::{errno::Errno, sys::wait::WaitStatus};
use robata_core::{
    Timestamp,
    finish::{End, NeverRan},
};

use crate::{
    cgroup, clock,
    error::Result,
    order::Order,
    thing::{self, Outcome, Verdict},
};
use family::Family;
use watch::Watch;

/// The hidden first argument.
pub(crate) const ARGUMENT: &str = "--robata-supervise-process";
/// The supervisor's working folder is the thing's.
const HERE: &str = ".";
/// How often one that waits for its go looks whether it was forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// How long to wait for killed processes before killing again what they may have forked.
const AGAIN: Duration = Duration::from_millis(10);

static MAIN_ASKS: AtomicBool = AtomicBool::new(false);

/// Becomes a supervisor if this process was started as one, and does not return then.
///
/// It must be the first line of `main`, before any thread and anything else that costs time: the executor starts the
/// running program itself as the supervisor of each thing.
pub fn supervise_if_asked() {
    MAIN_ASKS.store(true, Ordering::Relaxed);
    if std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT) {
        // A panic unwinds to here and ends the process: its lock is free, and whoever notices ends what is left.
        let well = catch_unwind(|| supervise().is_ok()).unwrap_or(false);
        exit(i32::from(!well));
    }
}

/// Whether main has asked, so that starting it as a supervisor makes one and not a second worker.
pub(crate) fn main_asks() -> bool {
    MAIN_ASKS.load(Ordering::Relaxed)
}

fn supervise() -> Result<()> {
    let (_lock, order) = begin::begin()?;
    let watch = Watch::open()?;
    // The watch is there: a verdict that falls after this look wakes us.
    loop {
        match thing::verdict(Path::new(HERE))? {
            Some(Verdict::Go) => break,
            Some(Verdict::Removed) => return Ok(()),
            None if !Path::new("control").exists() => return Ok(()),
            None => {}
        }
        // Now and then by itself, too: nobody tells it that its whole folder was removed.
        if watch.wait(Some(FORGOTTEN))?.to_end && thing::decide(Path::new(HERE), Verdict::Removed)? != Some(Verdict::Go)
        {
            return Ok(());
        }
    }
    let reserved = thing::reserve_outcome(Path::new(HERE))?;
    let started = thing::went_at(Path::new(HERE))?.unwrap_or_else(clock::now);
    let mut outcome = match run(&order, &watch, started) {
        Ok(outcome) => outcome,
        Err(fault) => {
            let words = match std::error::Error::source(&fault) {
                Some(source) => format!("{fault}: {source}"),
                None => fault.to_string(),
            };
            // Whatever went wrong, nothing is left when this is read.
            Family::all(&order.groups).end(&watch);
            Outcome::new(order.format, End::EngineFault, Some(started)).with_message(words)
        }
    };
    outcome.finished_at = Some(clock::now());
    order.groups.iter().for_each(|group| cgroup::remove(&group.path));
    outcome.write(Path::new(HERE), reserved)
}

/// Runs the job to its end, and everything that it has started.
fn run(order: &Order, watch: &Watch, started: Timestamp) -> Result<Outcome> {
    let spawned = child::spawn(order);
    let mut family = Family::all(&order.groups);
    let main = match spawned {
        Ok(pid) => {
            thing::note_executed(Path::new(HERE))?;
            pid
        }
        Err(refusal) => {
            let mut outcome =
                Outcome::new(order.format, End::NeverRan(NeverRan::StartRefused), None).with_message(refusal.words());
            outcome.detail = Some(refusal.code());
            return Ok(outcome);
        }
    };
    let mut status = None;
    // When what has not ended is killed.
    let mut deadline: Option<Instant> = None;
    let mut told_to_end = false;
    let mut stopping = false;
    // A stop may have been asked for before there was anything to stop.
    let mut look_for_stop = true;
    loop {
        if look_for_stop && let Some(grace) = thing::stop_asked(Path::new(HERE))? {
            family.stop(&mut deadline, grace);
            stopping = true;
        }
        while let Some((pid, ended)) = family.bury() {
            if pid == main {
                status = Some(ended);
            }
        }
        if family.is_empty() {
            break;
        }
        // Without a stop, the end of the main process is the end of all; in a stop, each has its grace period.
        let kill = match deadline {
            Some(deadline) => Instant::now() >= deadline,
            None => status.is_some(),
        };
        if kill {
            family.kill();
        }
        let wait = match deadline {
            _ if kill => Some(AGAIN),
            Some(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
            None => None,
        };
        let woken = watch.wait(wait)?;
        look_for_stop = woken.by_worker;
        if woken.to_end && !told_to_end {
            told_to_end = true;
            family.stop(&mut deadline, Duration::from_millis(order.grace_millis));
        }
    }
    Ok(outcome(order, started, status, told_to_end && !stopping))
}

fn outcome(order: &Order, started: Timestamp, status: Option<WaitStatus>, told_to_end: bool) -> Outcome {
    let out_of_memory = order.groups.iter().any(cgroup::Group::ran_out_of_memory);
    let end = match status {
        Some(WaitStatus::Exited(_, 0)) => End::Exited(0),
        Some(WaitStatus::Exited(_, code)) if out_of_memory => End::OutOfMemory(Some(code)),
        Some(WaitStatus::Exited(_, code)) => End::Exited(code),
        Some(WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGKILL, _)) if out_of_memory => End::OutOfMemory(None),
        Some(WaitStatus::Signaled(_, signal, _)) => End::Signalled(signal as i32),
        _ => End::EngineFault,
    };
    let mut outcome = Outcome::new(order.format, end, Some(started));
    if let End::OutOfMemory(_) = end {
        outcome = outcome.with_message("the kernel killed one of its processes: it used more memory than its limit");
    }
    if told_to_end && end != End::Exited(0) {
        outcome = Outcome::new(order.format, End::EngineFault, Some(started))
            .with_message("its supervisor was told to end (SIGTERM), as when the machine is shut down");
    }
    outcome.detail = match status {
        Some(WaitStatus::Signaled(_, signal, _)) => Some(signal.as_str().to_owned()),
        _ => None,
    };
    outcome
}

/// A call that a signal may interrupt, until it is not.
fn again<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

//! The descendants of a supervisor: all that the job has started, wherever they went.
//!
//! The supervisor is their subreaper: an orphan becomes its child. So where it has no child it has no descendant, and a
//! child's pid cannot become another process's before the supervisor itself has buried it.

use std::{
    collections::HashSet,
    fs,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use super::{again, watch::Watch};
use crate::cgroup::{self, Group};

#[derive(Debug)]
pub(super) struct Family<'a> {
    groups: &'a [Group],
    empty: bool,
    told: bool,
}

impl<'a> Family<'a> {
    pub(super) fn all(groups: &'a [Group]) -> Self {
        Self {
            groups,
            empty: false,
            told: false,
        }
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.empty
    }

    /// Takes leave of one that has ended; `None` where none has.
    pub(super) fn bury(&mut self) -> Option<(Pid, WaitStatus)> {
        loop {
            match again(|| waitpid(None, Some(WaitPidFlag::WNOHANG))) {
                Ok(WaitStatus::StillAlive) => return None,
                Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..))) => {
                    return Some((pid, status));
                }
                Ok(_) => {}
                Err(Errno::ECHILD) => {
                    self.empty = true;
                    return None;
                }
                Err(_) => return None,
            }
        }
    }

    /// Asks all to end (SIGTERM, once), and kills what is left after the grace period; the shortest one counts.
    pub(super) fn stop(&mut self, deadline: &mut Option<Instant>, grace: Duration) {
        // A time too far away to be told is no deadline but this one.
        let until = Instant::now()
            .checked_add(grace)
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(1 << 30));
        *deadline = Some(deadline.map_or(until, |earlier| earlier.min(until)));
        if !std::mem::replace(&mut self.told, true) && !grace.is_zero() {
            terminate();
        }
    }

    /// Kills: all members of its control groups, and all children. Descendants without a group become children as those
    /// above them end, and are killed in the next round.
    pub(super) fn kill(&self) {
        let children = children(None);
        for group in self.groups {
            if cgroup::kill_at_once(&group.path) {
                continue;
            }
            for pid in cgroup::members(&group.path) {
                let pinned =
                    rustix::process::Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
                let still = cgroup::members(&group.path).contains(&pid);
                if let Some(pinned) = pinned.filter(|_| still) {
                    let _ended_by_itself = pidfd_send_signal(pinned, rustix::process::Signal::KILL);
                }
            }
            break;
        }
        for child in children {
            let _ended_by_itself = kill(child, Signal::SIGKILL);
        }
    }

    /// Kills all and waits until nothing is left.
    pub(super) fn end(&mut self, watch: &Watch) {
        loop {
            while self.bury().is_some() {}
            if self.empty {
                return;
            }
            self.kill();
            let _next_round = watch.wait(Some(super::AGAIN));
        }
    }
}

/// SIGTERM to every descendant, parents first.
fn terminate() {
    let mut known = HashSet::new();
    let mut next = children(None);
    while let Some(pid) = next.pop() {
        if !known.insert(pid) {
            continue;
        }
        let below = children(Some(pid));
        let pinned =
            rustix::process::Pid::from_raw(pid.as_raw()).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Pinned first, then looked at: it cannot be another process than the one that is signalled.
        if let Some(pinned) = pinned.filter(|_| parent(pid).is_some_and(|up| known.contains(&up) || up == Pid::this()))
        {
            let _ended_by_itself = pidfd_send_signal(pinned, rustix::process::Signal::TERM);
        }
        next.extend(below);
    }
}

/// The children of a process, or our own.
fn children(of: Option<Pid>) -> Vec<Pid> {
    let own = Pid::this();
    let of = of.unwrap_or(own);
    let tasks = fs::read_dir(format!("/proc/{of}/task")).into_iter().flatten().flatten();
    let mut found = Vec::new();
    let mut listed = false;
    for task in tasks {
        // Each thread has the children that it has forked itself.
        if let Ok(text) = fs::read_to_string(task.path().join("children")) {
            listed = true;
            found.extend(
                text.split_whitespace()
                    .filter_map(|pid| pid.parse().ok())
                    .map(Pid::from_raw),
            );
        }
    }
    if !listed && fs::metadata("/proc/self/task").is_ok() {
        // A kernel without CONFIG_PROC_CHILDREN: look at all processes.
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let all = all
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .map(Pid::from_raw);
        found.extend(all.filter(|pid| parent(*pid) == Some(of)));
    }
    found
}

fn parent(of: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{of}/stat")).ok()?;
    // The name in brackets may hold anything; after the last one come the state and the parent (proc(5)).
    let after = stat.rsplit_once(')')?.1;
    after.split_whitespace().nth(1)?.parse().ok().map(Pid::from_raw)
}

//! What a killed supervisor leaves: whoever notices its death ends it, before calling the thing dead.
//!
//! A supervisor ends its descendants itself. Killed with SIGKILL it cannot; the kernel then kills the main process
//! (PR_SET_PDEATHSIG), and the rest is found by its control group, which none can leave, or by a mark in its environment.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{
    cgroup,
    error::{Fault, Result},
    limits::MARK,
};

/// SIGKILL takes effect in milliseconds, unless a process hangs in the kernel (a dead disk, a network file system).
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends all processes of these things: handle → control groups.
pub(crate) fn end(things: &BTreeMap<String, Vec<PathBuf>>) -> Result<()> {
    if things.is_empty() {
        return Ok(());
    }
    let deadline = Instant::now() + PATIENCE;
    // A process may fork while we look; only a pass that finds nothing ends this.
    loop {
        let found = kill_by_group(things) + kill_by_mark(things);
        if found == 0 {
            things.values().flatten().for_each(|path| cgroup::remove(path));
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Fault::Lingers(format!(
                "{found} processes do not end though they were killed"
            )));
        }
        sleep(Duration::from_millis(5));
    }
}

fn kill_by_group(things: &BTreeMap<String, Vec<PathBuf>>) -> usize {
    let mut found = 0;
    for (handle, path) in things
        .iter()
        .flat_map(|(handle, paths)| paths.iter().map(move |path| (handle, path)))
    {
        let members = cgroup::members(path);
        if !members.is_empty() && !cgroup::kill_at_once(path) {
            for pid in &members {
                kill_if(*pid, "cgroup", |groups| {
                    String::from_utf8_lossy(groups).contains(&format!("robata-{handle}"))
                });
            }
        }
        found += members.len();
    }
    found
}

fn kill_by_mark(things: &BTreeMap<String, Vec<PathBuf>>) -> usize {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        kill_if(*pid, "environ", |environment| {
            marked(environment).is_some_and(|handle| things.contains_key(handle))
        })
    })
    .count()
}

fn marked(environment: &[u8]) -> Option<&str> {
    environment.split(|byte| *byte == 0).find_map(|variable| {
        std::str::from_utf8(variable)
            .ok()?
            .strip_prefix(MARK)?
            .strip_prefix('=')
    })
}

/// Kills a process if its file in `/proc` is as it should be. The pid is first pinned by a descriptor, so that it cannot
/// have become another process between the look and the signal.
fn kill_if(pid: i32, file: &str, is_ours: impl FnOnce(&[u8]) -> bool) -> bool {
    let Some(fd) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return false;
    };
    let ours = fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|content| is_ours(&content));
    ours && pidfd_send_signal(fd, Signal::KILL).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_found_in_an_environment() {
        assert_eq!(marked(b"A=1\0ROBATA_THING=abc\0B=2\0"), Some("abc"));
        assert_eq!(marked(b"ROBATA_THINGS=abc\0X=ROBATA_THING=abc\0"), None);
        assert_eq!(marked(b""), None);
    }
}

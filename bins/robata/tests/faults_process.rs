//! Faults through the real binary with jobs as processes: signals, time limits, full disks, logs that cannot be kept.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use support::{Options, Server, eventually};

const STUBBORN: &str = r#"
[apps.t.jobs.stubborn]
executor = "process"
grace_period = "1s"
command = ["/bin/sh", "-c", "trap '' TERM; (trap '' TERM; setsid sleep 1000) & echo begun; while :; do sleep 0.1; done"]

[apps.t.jobs.brief]
executor = "process"
timeout = "2s"
grace_period = "1s"
command = ["/bin/sleep", "1000"]

[apps.t.jobs.hello]
executor = "process"
command = ["/bin/echo", "hello"]

[apps.t.jobs.talks]
executor = "process"
command = ["/bin/sh", "-c", "echo one; sleep 2; printf two"]

[apps.t.jobs.leaves]
executor = "process"
command = ["/bin/sh", "-c", "setsid sleep 1000 & exit 0"]

[apps.t.jobs.missing]
executor = "process"
command = ["/no/such/program"]
"#;

fn server() -> Server {
    let server = Server::start();
    server.apply(STUBBORN);
    server
}

#[test]
fn a_cancelled_job_that_ignores_sigterm_leaves_no_descendant() {
    let server = server();
    let id = server.enqueue(&["t/stubborn"]);
    server.until_attempt(&id, "running");
    server.run(&["jobs", "cancel", &id]).ok();
    let job = server.until(&id, "cancelled");
    assert_eq!(job["attempts"][0]["state"], "cancelled");
    assert_eq!(server.processes(), Vec::<u32>::new(), "what is called dead is dead");
}

#[test]
fn a_descendant_in_a_session_of_its_own_ends_with_its_job() {
    let server = server();
    let id = server.enqueue(&["t/leaves"]);
    server.until(&id, "succeeded");
    assert_eq!(server.processes(), Vec::<u32>::new());
}

#[test]
fn a_time_limit_that_passes_while_nobody_watches_is_kept_at_the_next_start() {
    let mut server = server();
    let id = server.enqueue(&["t/brief"]);
    server.until_attempt(&id, "running");
    server.kill9();
    let killed = Instant::now();
    eventually("the limit has passed", || {
        (killed.elapsed() > Duration::from_secs(3)).then_some(())
    });
    server.restart();
    let job = server.until(&id, "failed");
    assert_eq!(job["reason"], "timed_out");
    assert_eq!(server.processes(), Vec::<u32>::new());
}

#[test]
fn a_program_that_is_not_there_ends_its_job_with_the_systems_own_words() {
    let server = server();
    // Several, since the failing start and the look at it race.
    let ids: Vec<_> = (0..10).map(|_| server.enqueue(&["t/missing"])).collect();
    for id in ids {
        let job = server.until(&id, "failed");
        assert_eq!(job["reason"], "start_error", "{job:#}");
        let message = job["attempts"][0]["message"].as_str().unwrap();
        assert!(message.contains("No such file"), "{message}");
    }
}

#[test]
fn a_log_folder_that_cannot_be_written_delays_logs_and_nothing_else() {
    let server = server();
    let logs = server.data().join("logs");
    let away = server.data().join("logs-away");
    let id = server.enqueue(&["t/talks"]);
    server.until_attempt(&id, "running");
    // Root writes through any permission; a file in the folder's place stops it, too.
    fs::rename(&logs, &away).unwrap();
    fs::write(&logs, "in the way").unwrap();
    let job = server.until(&id, "succeeded");
    assert_eq!(job["attempts"][0]["log"]["state"], "open", "{job:#}");
    fs::remove_file(&logs).unwrap();
    fs::rename(&away, &logs).unwrap();
    eventually("the log is complete", || {
        (server.job(&id)["attempts"][0]["log"]["state"] == "complete").then_some(())
    });
    assert_eq!(server.run(&["jobs", "logs", &id]).ok().stdout, "one\ntwo");
}

/// A small file system of memory, unmounted when dropped. Needs root, as the whole runner does.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        fs::create_dir_all(at).expect("a folder to mount on");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"])
            .arg(at)
            .status()
            .expect("mount");
        assert!(mounted.success(), "cannot mount a small disk; this test needs root");
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || thread::panicking());
    }
}

#[test]
fn a_full_disk_refuses_new_jobs_with_clear_words_and_keeps_the_accepted_ones() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&folder.path().join("disk"));
    let server = Server::with(Options {
        data: Some(disk.0.join("data")),
        ..Options::default()
    });
    server.apply(STUBBORN);
    let waiting = server.enqueue(&["t/hello", "--delay", "5s"]);
    let filler = disk.0.join("filler");
    // `dd` ends where the disk does.
    Command::new("dd")
        .args(["if=/dev/zero", "bs=64k", &format!("of={}", filler.display())])
        .output()
        .unwrap();
    let payload = folder.path().join("payload.json");
    fs::write(&payload, format!("\"{}\"", "x".repeat(500_000))).unwrap();
    let payload = format!("@{}", payload.display());
    let refused = eventually("an enqueue is refused", || {
        let ran = server.run(&["enqueue", "t/hello", "--payload", &payload]);
        (ran.code != Some(0)).then_some(ran)
    });
    refused.tells(&["the store does not serve now", "disk is full"]);
    fs::remove_file(&filler).unwrap();
    let id = eventually("an enqueue is accepted", || {
        let ran = server.run(&["--output", "json", "enqueue", "t/hello"]);
        (ran.code == Some(0)).then(|| ran.json()["id"].as_str().unwrap().to_owned())
    });
    server.until(&id, "succeeded");
    server.until(&waiting, "succeeded");
    drop(server);
    drop(disk);
}

#[test]
fn stopped_for_longer_than_its_lease_it_wakes_and_each_job_has_run_once() {
    let server = server();
    let journal = server.data().join("journal");
    server.apply(&format!(
        "[apps.z.jobs.note]\nexecutor = \"process\"\nenv = {{ JOURNAL = {journal:?} }}\n\
         command = [\"/bin/sh\", \"-c\", \"echo $ROBATA_JOB_ID $ROBATA_ATTEMPT >> $JOURNAL; sleep 3\"]\n"
    ));
    let ids: Vec<_> = (0..12).map(|_| server.enqueue(&["z/note"])).collect();
    server.until_attempt(&ids[0], "running");
    server.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    eventually("its lease has ended", || {
        (stopped.elapsed() > Duration::from_secs(15)).then_some(())
    });
    server.signal(Signal::SIGCONT);
    for id in &ids {
        assert_eq!(
            server.until(id, "succeeded")["attempt"],
            1,
            "nothing was lost, nothing ran again"
        );
    }
    let mut lines: Vec<_> = fs::read_to_string(&journal)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    let mut once: Vec<_> = ids.iter().map(|id| format!("{id} 1")).collect();
    once.sort();
    assert_eq!(lines, once);
}

/// Every path below `folder` (itself not) with its mode, but those of `not`.
fn modes(folder: &Path, not: &Path) -> std::io::Result<Vec<(PathBuf, u32)>> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_symlink() || path == not {
            continue;
        }
        if metadata.is_dir() {
            found.extend(modes(&path, not)?);
        }
        found.push((path, metadata.mode() & 0o777));
    }
    Ok(found)
}

#[test]
fn a_job_of_another_user_reaches_its_payload_and_its_home_and_nothing_else() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test runs jobs as other users, which needs root"
    );
    let mut server = Server::start();
    server.apply(
        r#"
        [apps.t.jobs.other]
        executor = "process"
        user = "nobody"
        command = ["/bin/sh", "-c", "id -u; cat $ROBATA_PAYLOAD_FILE; echo; touch $HOME/x && ls $HOME"]
        "#,
    );
    let id = server.enqueue(&["t/other", "--payload", "{\"a\": 1}"]);
    server.until(&id, "succeeded");
    let printed = server.run(&["jobs", "logs", &id]).ok().stdout;
    assert_eq!(printed, "65534\n{\"a\": 1}\nx\n");
    // The way to them shows nothing of what lies beside it.
    let executors = server.data().join("executors");
    let mut beside = modes(server.data(), &executors).unwrap();
    // Put there by this test, not by the server.
    beside.retain(|(path, _)| path.extension().is_none_or(|ending| ending != "toml"));
    assert!(beside.len() > 2, "{beside:?}");
    for (path, mode) in beside {
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
    use std::os::unix::fs::MetadataExt;
    for path in [server.data(), &executors] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o077, 0o011, "{}", path.display());
    }
    server.stop();
}

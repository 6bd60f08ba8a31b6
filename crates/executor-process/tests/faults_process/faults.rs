//! What a supervisor and its worker must get through: kill -9 of either at any moment, and a race for the verdict.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{OpenOptionsExt, symlink},
    process::Command,
    time::Duration,
};

use crate::place::{Place, processes, request, sh, supervisor, until};
use futures::StreamExt;
use nix::sys::signal::{Signal, kill};
use robata_core::{
    error::ErrorKind,
    executor::{Event, Executor, Target, ThingState},
    finish::{End, NeverRan},
};
use robata_executor_process::Cgroups;

async fn killed_supervisor(cgroups: Cgroups, script: &str, least: usize) {
    let place = Place::new(cgroups);
    let mut events = place.executor.events();
    assert_eq!(events.next().await, Some(Event::Gap));
    let request = request(sh(script));
    let name = request.name.clone();
    let handle = place.executor.prepare(request).await.unwrap().handle;
    place.executor.start(&handle).await.unwrap();
    until("all its processes run", async || processes(&handle).len() >= least).await;
    kill(supervisor(&name).await, Signal::SIGKILL).unwrap();
    let told = tokio::time::timeout(Duration::from_secs(10), events.next())
        .await
        .expect("the death is told");
    assert_eq!(told, Some(Event::Changed(handle.clone())));
    let ThingState::Ended(ending) = place.look(&handle).await else {
        panic!("what is dead is called dead")
    };
    assert_eq!(ending.end, End::EngineFault);
    assert_eq!(ending.message.as_deref(), Some("its supervisor was killed"));
    assert!(ending.started_at.is_some());
    assert_eq!(
        processes(&handle),
        Vec::<String>::new(),
        "what is called dead has no process left"
    );
    // All who look later see the same.
    let seen = place
        .another()
        .observe(&[Target::Handle(handle.clone())])
        .await
        .unwrap();
    assert_eq!(seen[0].state, ThingState::Ended(ending));
    place.executor.remove(&handle, false).await.unwrap();
    assert!(place.executor.owned().await.unwrap().is_empty());
}

const SPREAD: &str = "trap '' TERM HUP; setsid sleep 1000 & setsid sh -c 'sleep 1001; sleep 1002' & sleep 1003";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_supervisor_is_noticed_and_nothing_of_it_is_left() {
    killed_supervisor(Cgroups::Auto, SPREAD, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_cgroups_a_killed_supervisors_processes_are_found_by_their_mark() {
    killed_supervisor(Cgroups::Off, SPREAD, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_does_to_its_own_folder_blinds_nobody() {
    let place = Place::new(Cgroups::Auto);
    let calm = place.run(sh("sleep 1000")).await;
    for (script, code) in [
        ("mkdir ../outcome.json && echo done; sleep 1; exit 3", 3),
        ("mkfifo ../outcome.json && echo done; sleep 1; exit 4", 4),
        ("ln -s /dev/zero ../outcome.json && echo done; sleep 1; exit 5", 5),
        ("rm ../verdict && touch ../verdict && echo done; sleep 1; exit 6", 6),
    ] {
        let handle = place.run(sh(script)).await;
        until("it has done it", async || place.printed(&handle).await == "done\n").await;
        // Both are looked at in one call, while it runs and after it.
        let both = [Target::Handle(handle.clone()), Target::Handle(calm.clone())];
        let seen = place.executor.observe(&both).await.unwrap();
        assert!(!matches!(seen[0].state, ThingState::Ended(_)), "{script}: {seen:?}");
        assert!(
            matches!(seen[1].state, ThingState::Running { .. }),
            "{script}: {seen:?}"
        );
        let ending = place.ending(&handle).await;
        assert_eq!(ending.end, End::Exited(code), "{script}: {ending:?}");
        place.executor.remove(&handle, false).await.unwrap();
    }
    // Its supervisor's own files are gone, and still its true end is kept.
    let handle = place.run(sh("rm -rf ../*; sleep 1; exit 7")).await;
    let ending = place.ending(&handle).await;
    assert_eq!(ending.end, End::Exited(7), "{ending:?}");
    assert!(ending.started_at.is_some());
    // And one whose supervisor is killed says what is wrong.
    let request = request(sh("mkdir ../outcome.json && echo done; sleep 1000"));
    let handle = place.executor.prepare(request.clone()).await.unwrap().handle;
    place.executor.start(&handle).await.unwrap();
    until("it has done it", async || place.printed(&handle).await == "done\n").await;
    kill(supervisor(&request.name).await, Signal::SIGKILL).unwrap();
    let ending = place.ending(&handle).await;
    assert_eq!(ending.end, End::EngineFault, "{ending:?}");
    assert!(ending.message.unwrap().contains("outcome.json"));
    place.executor.stop(&calm, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_killed_before_its_go_never_ran() {
    let place = Place::new(Cgroups::Auto);
    let request = request(sh("echo ran"));
    let first = place.executor.prepare(request.clone()).await.unwrap().handle;
    kill(supervisor(&request.name).await, Signal::SIGKILL).unwrap();
    let never = |state: &ThingState| matches!(state, ThingState::Ended(ending) if ending.end == End::NeverRan(NeverRan::NotSetGoing));
    until("its death is seen", async || never(&place.look(&first).await)).await;
    // The same claim gets another one.
    let second = place.executor.prepare(request.clone()).await.unwrap().handle;
    assert_ne!(first, second);
    assert_eq!(place.look(&first).await, ThingState::Absent);
    // Killed again, and started all the same: the start is answered, and the end says that it never ran.
    kill(supervisor(&request.name).await, Signal::SIGKILL).unwrap();
    until("its death is seen", async || never(&place.look(&second).await)).await;
    let mut events = place.executor.events();
    assert_eq!(events.next().await, Some(Event::Gap));
    place.executor.start(&second).await.unwrap();
    assert_eq!(events.next().await, Some(Event::Changed(second.clone())));
    assert!(never(&place.look(&second).await));
    assert_eq!(place.printed(&second).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn go_and_removed_are_decided_once_however_close_they_come() {
    let place = Place::new(Cgroups::Off);
    let other = place.another();
    let log = place.state.as_path().join("log");
    let (mut ran, mut removed) = (0, 0);
    for round in 0..150_u64 {
        let handle = place
            .executor
            .prepare(request(sh(&format!("echo $ROBATA_THING >> {}", log.display()))))
            .await
            .unwrap()
            .handle;
        let start = async {
            tokio::time::sleep(Duration::from_micros(round % 7 * 40)).await;
            place.executor.start(&handle).await
        };
        match tokio::join!(start, other.remove(&handle, false)) {
            // It was removed first, or it had run to its end before it was removed.
            (started, Ok(())) => {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let count = text.lines().filter(|line| *line == handle.0).count();
                assert_eq!(count, usize::from(started.is_ok()), "{started:?}");
                if let Err(error) = started {
                    assert_eq!(error.kind(), ErrorKind::NotFound);
                    removed += 1;
                }
                assert_eq!(place.look(&handle).await, ThingState::Absent);
            }
            (Ok(()), Err(error)) => {
                assert_eq!(error.kind(), ErrorKind::StillRuns);
                assert_eq!(place.ending(&handle).await.end, End::Exited(0));
                ran += 1;
            }
            (started, removed) => panic!("{started:?}, {removed:?}"),
        }
    }
    assert!(removed > 0, "the race was never won by the removal ({ran} ran)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_any_moment_starts_nothing_twice_and_loses_nothing() {
    let place = Place::new(Cgroups::Auto);
    let log = place.state.as_path().join("log");
    for round in 0..12_u64 {
        let mut worker = Command::new(env!("CARGO_BIN_EXE_robata-process-test-worker"))
            .arg(place.state.as_path())
            .arg(place.installation.to_string())
            .arg(&log)
            .spawn()
            .unwrap();
        let before = fs::read_to_string(&log).unwrap_or_default().lines().count();
        until("the worker works", async || {
            assert!(worker.try_wait().unwrap().is_none(), "the worker ended by itself");
            fs::read_to_string(&log).unwrap_or_default().lines().count() > before
        })
        .await;
        tokio::time::sleep(Duration::from_micros(round * 1700)).await;
        worker.kill().unwrap();
        worker.wait().unwrap();
    }
    let owned = place.another().owned().await.unwrap();
    assert!(owned.len() > 40, "{}", owned.len());
    let mut ended = 0;
    for thing in &owned {
        if place.look(&thing.handle).await == ThingState::Prepared {
            continue;
        }
        match place.ending(&thing.handle).await.end {
            End::Exited(0) => {
                assert_eq!(place.printed(&thing.handle).await, "done");
                ended += 1;
            }
            // Its worker was killed before the supervisor was there.
            End::NeverRan(NeverRan::NotSetGoing) => {}
            end => panic!("{end:?}"),
        }
    }
    let mut times = BTreeMap::new();
    for line in fs::read_to_string(&log).unwrap().lines() {
        *times.entry(line.to_owned()).or_insert(0) += 1;
    }
    assert_eq!(times.len(), ended, "what ran is what is told");
    assert!(times.values().all(|count| *count == 1), "{times:?}");
    for thing in &owned {
        place.executor.remove(&thing.handle, false).await.unwrap();
    }
    assert!(place.executor.owned().await.unwrap().is_empty());
    // Nothing is left of all this but empty folders.
    let own = place.state.as_path().join(place.installation.to_string());
    let _swept = place.another();
    for name in ["things", "names", "aside"] {
        let left: Vec<_> = fs::read_dir(own.join(name))
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_set_going_and_did_not_wake_begins_when_somebody_looks() {
    let place = Place::new(Cgroups::Auto);
    let request = request(sh("echo done"));
    let name = request.name.clone();
    let handle = place.executor.prepare(request).await.unwrap().handle;
    let own = place.state.join(place.installation.to_string());
    let folder = own.join("things").join(&handle.0);
    let stat = format!("/proc/{}/stat", supervisor(&name).await);
    until("it listens, and waits", async || {
        let listens = fs::OpenOptions::new()
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(folder.join("control"));
        let sleeps = fs::read_to_string(&stat).unwrap().contains(") S ");
        listens.is_ok() && sleeps
    })
    .await;
    // The worker's last step.
    symlink("go", folder.join("verdict")).unwrap();
    let ending = tokio::time::timeout(Duration::from_secs(30), place.ending(&handle));
    let ending = ending.await.expect("it begins before it looks by itself");
    assert_eq!(ending.end, End::Exited(0));
    assert_eq!(place.printed(&handle).await, "done\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_told_to_end_ends_its_job_and_says_why() {
    let place = Place::new(Cgroups::Auto);
    let mut spec = sh("trap 'echo told; exit 3' TERM; echo up; while :; do sleep 0.05; done");
    spec.grace_period = Duration::from_secs(20);
    let request = request(spec);
    let handle = place.executor.prepare(request.clone()).await.unwrap().handle;
    place.executor.start(&handle).await.unwrap();
    until("it is up", async || place.printed(&handle).await == "up\n").await;
    kill(supervisor(&request.name).await, Signal::SIGTERM).unwrap();
    let ending = place.ending(&handle).await;
    assert_eq!(ending.end, End::EngineFault);
    assert!(ending.message.unwrap().contains("SIGTERM"));
    let printed = place.printed(&handle).await;
    assert!(printed.starts_with("up\ntold\n"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_has_its_room_on_a_full_disk() {
    let disk = SmallDisk::mount();
    let place = Place::at(disk.folder.path());
    let handle = place.run(sh("cat /dev/zero > full; exit 7")).await;
    assert_eq!(place.ending(&handle).await.end, End::Exited(7));
    // Full is told as full, and may be tried again.
    let full = place.executor.prepare(request(sh("exit 0"))).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::NoCapacity, "{full:?}");
    place.executor.remove(&handle, false).await.unwrap();
    assert_eq!(place.result(sh("exit 0")).await.0.end, End::Exited(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_finds_no_room_for_its_outcome_never_ran_and_says_why() {
    let disk = SmallDisk::mount();
    let place = Place::at(disk.folder.path());
    let request = request(sh("echo ran"));
    let handle = place.executor.prepare(request.clone()).await.unwrap().handle;
    // Until it waits, its start needs room.
    supervisor(&request.name).await;
    let full = disk.folder.path().join("full");
    let mut file = fs::File::create(&full).unwrap();
    let error = std::io::copy(&mut std::io::repeat(0), &mut file).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    place.executor.start(&handle).await.unwrap();
    let ending = place.ending(&handle).await;
    assert_eq!(ending.end, End::NeverRan(NeverRan::NotSetGoing));
    let words = ending.message.unwrap();
    assert!(words.contains("No space left on device"), "{words}");
    assert_eq!(place.printed(&handle).await, "");
    // Whoever looks later sees the same, and can remove it.
    fs::remove_file(&full).unwrap();
    let seen = place
        .another()
        .observe(&[Target::Handle(handle.clone())])
        .await
        .unwrap();
    assert!(
        matches!(&seen[0].state, ThingState::Ended(ending) if ending.message.as_ref() == Some(&words)),
        "{seen:?}"
    );
    place.executor.remove(&handle, false).await.unwrap();
    assert!(place.executor.owned().await.unwrap().is_empty());
}

/// A file system of half a megabyte.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs"];
        let mounted = Command::new("mount")
            .args(arguments)
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "this test mounts a small disk, which needs root");
        Self { folder }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

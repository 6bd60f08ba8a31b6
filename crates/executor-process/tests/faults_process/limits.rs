//! Limits, users and sessions, as the processes themselves see them.

use std::time::Duration;

use crate::place::{Place, request, sh, until};
use robata_core::{
    InstallationId,
    definition::{Cpu, Limit, Memory, Security},
    error::ErrorKind,
    executor::{Executor, Spec, ThingState},
    finish::{End, NeverRan},
};
use robata_executor_process::{Cgroups, ProcessConfig};

async fn refused(place: &Place, spec: Spec) -> String {
    let error = place.executor.prepare(request(spec)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StartRefused, "{error:?}");
    assert!(place.executor.owned().await.unwrap().is_empty());
    error.full()
}

#[tokio::test(flavor = "multi_thread")]
async fn open_files_and_cpu_time_are_limited() {
    let place = Place::new(Cgroups::Auto);
    let mut spec = sh("ulimit -n; ulimit -Hn; ulimit -t; while :; do :; done");
    spec.process.open_files = Some(77);
    spec.process.cpu_time = Some(Duration::from_secs(1));
    let (ending, printed) = place.result(spec).await;
    assert_eq!(printed, "77\n77\n1\n");
    assert!(
        matches!(ending.end, End::Signalled(24 | 9)),
        "SIGXCPU or SIGKILL: {ending:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_cannot_be_set_is_told_in_the_systems_words() {
    let place = Place::new(Cgroups::Auto);
    let mut spec = sh("exit 0");
    // More than the kernel gives to anybody (fs.nr_open).
    spec.process.open_files = Some(u64::MAX / 2);
    let (ending, _) = place.result(spec).await;
    assert!(matches!(ending.end, End::NeverRan(_)), "{ending:?}");
    assert!(ending.message.unwrap().contains("RLIMIT_NOFILE"));
    assert_eq!(ending.detail.as_deref(), Some("EPERM"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_cgroups_memory_is_limited_by_address_space() {
    let place = Place::new(Cgroups::Off);
    assert!(!place.executor.capabilities().tells_out_of_memory);
    let mut spec = sh("ulimit -v");
    spec.resources.memory_limit = Limit::At(Memory { bytes: 512 << 20 });
    assert_eq!(place.result(spec).await.1, format!("{}\n", 512 << 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_cgroups_what_only_they_can_limit_is_refused() {
    let place = Place::new(Cgroups::Off);
    let mut cpu = sh("exit 0");
    cpu.resources.cpu = Some(Cpu { millis: 500 });
    assert!(refused(&place, cpu.clone()).await.contains("CPU"));
    cpu.resources.cpu_limit = Limit::None;
    assert_eq!(place.result(cpu).await.0.end, End::Exited(0));
    let place = Place::new(Cgroups::Off);
    let mut processes = sh("exit 0");
    processes.resources.processes = 10;
    assert!(refused(&place, processes).await.contains("processes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_cgroups_processes_and_cpu_are_limited_and_no_group_is_left() {
    let place = Place::new(Cgroups::Auto);
    assert!(
        place.executor.capabilities().tells_out_of_memory,
        "this test needs control groups that can be written (root)"
    );
    let mut spec = sh("cat /proc/self/cgroup; i=0; while [ $i -lt 20 ]; do sleep 5 & i=$((i+1)); done; echo all");
    spec.resources.processes = 8;
    spec.resources.cpu_limit = Limit::At(Cpu { millis: 250 });
    spec.resources.memory_limit = Limit::At(Memory { bytes: 64 << 20 });
    let handle = place.run(spec).await;
    let ending = place.ending(&handle).await;
    let printed = place.printed(&handle).await;
    assert!(
        !printed.contains("all\n") && ending.end != End::Exited(0),
        "{ending:?} {printed}"
    );
    let group = format!("robata-{handle}");
    assert!(
        printed.lines().filter(|line| line.ends_with(&group)).count() >= 1,
        "{printed}"
    );
    let left = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-name", &group])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(left.stdout).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_out_of_memory_kill_of_a_child_is_told_too() {
    let place = Place::new(Cgroups::Auto);
    assert!(
        place.executor.capabilities().tells_out_of_memory,
        "this test needs control groups that can be written (root)"
    );
    let mut spec = sh("sh -c 'x=0123456789abcdef; while :; do x=$x$x; done'; exit $?");
    spec.resources.memory_limit = Limit::At(Memory { bytes: 32 << 20 });
    let (ending, _) = place.result(spec).await;
    assert_eq!(ending.end, End::OutOfMemory(Some(137)));
    assert!(ending.message.unwrap().contains("memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_reaches_its_payload_and_folder_and_gains_no_privileges() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let place = Place::new(Cgroups::Auto);
    set_mode(&place.state, 0o711);
    let mut spec = sh(
        "id -u; id -g; cat $ROBATA_PAYLOAD_FILE; touch here && echo wrote; grep NoNewPrivs /proc/self/status; ls .. 2>/dev/null; true",
    );
    spec.user = Some("nobody:12345".to_owned());
    spec.payload = "hello\n".into();
    spec.payload_file_env = Some("ROBATA_PAYLOAD_FILE".to_owned());
    spec.security = Security::Restricted;
    let (ending, printed) = place.result(spec).await;
    assert_eq!(
        (ending.end, printed.as_str()),
        (End::Exited(0), "65534\n12345\nhello\nwrote\nNoNewPrivs:\t1\n")
    );
}

fn set_mode(folder: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_gets_a_home_of_its_own_and_the_workers_user_keeps_his() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o711);
    let mut config = ProcessConfig::new(folder.path().join("state"), InstallationId::new());
    config.supervisor = Some(env!("CARGO_BIN_EXE_robata-supervisor").into());
    config.environment.insert("HOME".to_owned(), "/workers/own".to_owned());
    let place = Place::with(config);
    let home = |user: Option<&str>| {
        let mut spec = sh("echo $HOME; test $HOME = $PWD && touch $HOME/x && echo its own; true");
        spec.user = user.map(str::to_owned);
        spec
    };
    let (_, printed) = place.result(home(Some("nobody"))).await;
    assert!(printed.ends_with("/work\nits own\n"), "{printed}");
    for workers in [None, Some("0")] {
        assert_eq!(place.result(home(workers)).await.1, "/workers/own\n");
    }
    let mut set = home(Some("nobody"));
    set.env.insert("HOME".to_owned(), "/set".to_owned());
    assert_eq!(place.result(set).await.1, "/set\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_cannot_pass_to_its_folder_is_told_so_and_never_runs() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let place = Place::new(Cgroups::Auto);
    set_mode(&place.state, 0o700);
    let mut spec = sh("echo ran");
    spec.user = Some("nobody".to_owned());
    let (ending, printed) = place.result(spec.clone()).await;
    assert_eq!(ending.end, End::NeverRan(NeverRan::StartRefused));
    let words = ending.message.unwrap();
    assert!(
        words.contains("as user 65534") && words.contains("chmod o+x"),
        "{words}"
    );
    assert_eq!((ending.detail.as_deref(), printed.as_str()), (Some("EACCES"), ""));
    set_mode(&place.state, 0o711);
    assert_eq!(place.result(spec).await.1, "ran\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_before_anything_is_made() {
    let place = Place::new(Cgroups::Auto);
    let mut user = sh("exit 0");
    user.user = Some("no-such-user".to_owned());
    assert!(refused(&place, user).await.contains("no-such-user"));
    let mut root = sh("exit 0");
    root.user = Some("0".to_owned());
    root.security = Security::Restricted;
    assert!(refused(&place, root).await.contains("restricted"));
    let mut privileged = sh("exit 0");
    privileged.security = Security::Privileged;
    assert!(refused(&place, privileged).await.contains("privileged"));
    let mut relative = sh("exit 0");
    relative.working_dir = Some("here".to_owned());
    assert!(refused(&place, relative).await.contains("absolute"));
    assert!(refused(&place, Spec::default()).await.contains("command"));
    let mut nul = sh("exit 0");
    nul.env.insert("A=B".to_owned(), "C".to_owned());
    assert!(refused(&place, nul).await.contains("A=B"));
    let mut missing = sh("exit 0");
    missing.working_dir = Some("/no/such/folder".to_owned());
    let (ending, _) = place.result(missing).await;
    assert!(
        ending.message.unwrap().contains("/no/such/folder"),
        "which of the two is missing is told"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_own_group_does_not_reach_its_supervisor() {
    let place = Place::new(Cgroups::Auto);
    let (ending, _) = place.result(sh("kill -KILL 0; sleep 1000")).await;
    assert_eq!(ending.end, End::Signalled(9));
    assert_eq!(ending.detail.as_deref(), Some("SIGKILL"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stop_with_less_grace_counts() {
    let place = Place::new(Cgroups::Auto);
    let handle = place
        .run(sh("trap '' TERM; echo up; while :; do sleep 0.05; done"))
        .await;
    until("it is up", async || place.printed(&handle).await == "up\n").await;
    let patient = place.executor.stop(&handle, Duration::from_secs(600));
    let hurried = async {
        until("the first stop is asked for", async || {
            place
                .state
                .join(place.installation.to_string())
                .join("things")
                .join(&handle.0)
                .join("stop")
                .is_symlink()
        })
        .await;
        place.executor.stop(&handle, Duration::ZERO).await
    };
    let (patient, hurried) = tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(patient, hurried) })
        .await
        .unwrap();
    patient.unwrap();
    hurried.unwrap();
    assert!(matches!(place.look(&handle).await, ThingState::Ended(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_folder_is_removed_with_its_thing_whatever_is_in_it() {
    let place = Place::new(Cgroups::Auto);
    let handle = place
        .run(sh("pwd; echo $HOME; mkdir -p a/b; touch a/b/c; chmod 0 a/b a"))
        .await;
    place.ending(&handle).await;
    let printed = place.printed(&handle).await;
    let (folder, home) = printed.trim().split_once('\n').unwrap();
    assert_eq!(folder, home);
    assert!(std::path::Path::new(folder).is_dir());
    place.executor.remove(&handle, false).await.unwrap();
    assert!(!std::path::Path::new(folder).exists());
}

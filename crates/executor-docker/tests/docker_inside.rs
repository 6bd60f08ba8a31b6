//! What a container gets, and what it may do: payload, limits, levels of security, networks.

mod support;

use std::time::Duration;

use bytes::Bytes;
use robata_core::{
    ErrorKind, InstallationId,
    definition::{Cpu, Limit, Memory, Security},
    executor::{Executor, Spec, ThingState},
    finish::{End, NeverRan},
};
use robata_executor_docker::{DockerConfig, DockerExecutor, PayloadWay};

fn executor(config: &DockerConfig) -> DockerExecutor {
    DockerExecutor::connect(config.clone()).expect("connect")
}

/// Runs it to its end and answers what it printed.
async fn run(executor: &DockerExecutor, spec: Spec) -> (End, String) {
    let handle = support::start(executor, spec).await;
    let end = support::ending(executor, &handle).await.end;
    let printed = support::printed(executor, &handle).await.expect("output");
    (end, String::from_utf8_lossy(&printed).into_owned())
}

fn with_payload(script: &str, payload: &[u8]) -> Spec {
    Spec {
        payload: Bytes::copy_from_slice(payload),
        payload_file_env: Some("ROBATA_PAYLOAD_FILE".to_owned()),
        ..support::sh(script)
    }
}

#[tokio::test]
async fn the_payload_is_there_on_a_read_only_root_and_for_any_user_by_both_ways() {
    let payload: Vec<u8> = (0..=255).cycle().take(100_001).collect();
    for way in [PayloadWay::Auto, PayloadWay::Volume] {
        let mut config = support::config(InstallationId::new());
        config.payload = way;
        let executor = executor(&config);
        let mut spec = with_payload(
            "touch /x 2>/dev/null; echo $?; wc -c <$ROBATA_PAYLOAD_FILE; md5sum <$ROBATA_PAYLOAD_FILE",
            &payload,
        );
        spec.docker.read_only = true;
        spec.user = Some("65534".to_owned());
        let handle = support::start(&executor, spec).await;
        assert_eq!(support::ending(&executor, &handle).await.end, End::Exited(0));
        let printed = String::from_utf8(support::printed(&executor, &handle).await.expect("output")).unwrap();
        let found = support::client(&config)
            .inspect_container(&handle.0, None)
            .await
            .unwrap();
        let kind = found.mounts.unwrap()[0].typ.clone().unwrap();
        assert_eq!(kind, if way == PayloadWay::Auto { "bind" } else { "volume" });
        let lines: Vec<_> = printed.lines().collect();
        assert_eq!(lines[..2], ["1", "100001"], "{printed}");
        let expected = std::process::Command::new("md5sum")
            .arg(write(&payload).path())
            .output()
            .unwrap();
        assert_eq!(
            lines[2].split(' ').next(),
            String::from_utf8_lossy(&expected.stdout).split(' ').next()
        );
        support::empty(&config).await;
    }
}

fn write(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), bytes).expect("write");
    file
}

#[tokio::test]
async fn an_empty_payload_is_an_empty_file_and_a_mounted_one_cannot_be_written() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    let (end, printed) = run(&executor, with_payload("wc -c <$ROBATA_PAYLOAD_FILE", b"")).await;
    assert_eq!((end, printed.trim()), (End::Exited(0), "0"));
    let (end, _) = run(&executor, with_payload("echo x >$ROBATA_PAYLOAD_FILE", b"{}")).await;
    assert_ne!(end, End::Exited(0));
    support::empty(&config).await;
}

#[tokio::test]
async fn an_engine_that_does_not_see_our_files_gets_the_payload_by_volume() {
    const INSIDE: &str = "ROBATA_TEST_HIDDEN_FOLDER";
    let Some(folder) = std::env::var_os(INSIDE) else {
        // The same test again, in a mount namespace of its own with a folder that the engine has never seen: as a
        // worker in a container.
        let hidden = tempfile::tempdir().unwrap();
        let status = std::process::Command::new("unshare")
            .args(["--mount", "sh", "-c", "mount -t tmpfs none \"$0\" && exec \"$@\""])
            .arg(hidden.path())
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "an_engine_that_does_not_see_our_files_gets_the_payload_by_volume",
            ])
            .env(INSIDE, hidden.path())
            .status()
            .expect("unshare, and the right to use it");
        assert!(status.success());
        return;
    };
    let mut config = support::config(InstallationId::new());
    config.payload_folder = Some(std::path::PathBuf::from(folder).join("payloads"));
    let executor = executor(&config);
    for _ in 0..2 {
        let handle = support::start(&executor, with_payload("cat $ROBATA_PAYLOAD_FILE", b"{\"a\":1}")).await;
        assert_eq!(support::ending(&executor, &handle).await.end, End::Exited(0));
        assert_eq!(support::printed(&executor, &handle).await.unwrap(), b"{\"a\":1}");
        let found = support::client(&config)
            .inspect_container(&handle.0, None)
            .await
            .unwrap();
        assert_eq!(found.mounts.unwrap()[0].typ.as_deref(), Some("volume"));
    }
    support::empty(&config).await;
}

#[tokio::test]
async fn limits_reach_the_engine() {
    let config = support::config(InstallationId::new());
    let mut spec = support::sh(
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max; \
         df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; df -k /scratch | tail -1 | tr -s ' ' | cut -d' ' -f2",
    );
    spec.resources.memory_limit = Limit::At(Memory { bytes: 64 << 20 });
    spec.resources.cpu = Some(Cpu { millis: 500 });
    spec.resources.processes = 17;
    spec.docker.shm_size = Some(Memory { bytes: 8 << 20 });
    spec.docker
        .tmpfs
        .insert("/scratch".to_owned(), Memory { bytes: 4 << 20 });
    let executor = executor(&config);
    let handle = support::start(&executor, spec).await;
    assert_eq!(support::ending(&executor, &handle).await.end, End::Exited(0));
    let printed = String::from_utf8(support::printed(&executor, &handle).await.unwrap()).unwrap();
    assert_eq!(printed.lines().collect::<Vec<_>>(), ["67108864", "8192", "4096"]);
    let host = support::client(&config)
        .inspect_container(&handle.0, None)
        .await
        .unwrap()
        .host_config
        .unwrap();
    assert_eq!((host.nano_cpus, host.pids_limit), (Some(500_000_000), Some(17)));
    assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
    assert_eq!(host.log_config.unwrap().typ.as_deref(), Some("local"));
    support::empty(&config).await;
}

#[tokio::test]
async fn a_fork_bomb_stops_at_the_limit_of_processes() {
    let config = support::config(InstallationId::new());
    let mut spec = support::sh("i=0; while [ $i -lt 50 ]; do sleep 1000 & i=$((i+1)); done");
    spec.resources.processes = 10;
    let (end, printed) = run(&executor(&config), spec).await;
    assert_ne!(end, End::Exited(0), "{printed}");
    support::empty(&config).await;
}

#[tokio::test]
async fn out_of_memory_in_a_child_that_the_main_process_survives_is_a_success() {
    let config = support::config(InstallationId::new());
    let mut spec = support::sh("sh -c 'x=0123456789abcdef; while :; do x=$x$x; done'; echo survived; exit 0");
    spec.resources.memory_limit = Limit::At(Memory { bytes: 32 << 20 });
    let (end, printed) = run(&executor(&config), spec).await;
    assert_eq!(end, End::Exited(0), "{printed}");
    assert!(printed.contains("survived"));
    support::empty(&config).await;
}

#[tokio::test]
async fn a_kill_that_nobody_asked_for_may_have_been_for_want_of_memory_and_ours_may_not() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    let mut spec = support::sh("trap '' TERM; [ \"$0\" = wait ] && exec sleep 1000; kill -9 $$");
    spec.resources.memory_limit = Limit::At(Memory { bytes: 32 << 20 });
    let killed = support::start(&executor, spec.clone()).await;
    let ending = support::ending(&executor, &killed).await;
    assert_eq!(ending.end, End::Signalled(9));
    let message = ending.message.expect("a message");
    assert!(message.contains("memory (limit 32Mi)"), "{message}");
    spec.command.as_mut().expect("a command").push("wait".to_owned());
    let stopped = support::start(&executor, spec).await;
    executor.stop(&stopped, Duration::ZERO).await.expect("stop");
    let ending = support::ending(&executor, &stopped).await;
    assert!(matches!(ending.end, End::Signalled(_)), "{ending:?}");
    assert_eq!(ending.message, None);
    support::empty(&config).await;
}

#[tokio::test]
async fn baseline_gives_no_new_privileges_and_the_engines_own_capabilities() {
    let config = support::config(InstallationId::new());
    let (end, printed) = run(
        &executor(&config),
        support::sh("grep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status; echo init $(cat /proc/1/comm)"),
    )
    .await;
    assert_eq!(end, End::Exited(0));
    let field = |name: &str| {
        printed
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|rest| rest.trim().to_owned())
    };
    assert_eq!(field("NoNewPrivs:").as_deref(), Some("1"), "{printed}");
    assert_eq!(field("Seccomp:").as_deref(), Some("2"), "{printed}");
    // Docker's default set, as its documentation lists it; nothing near all of them.
    assert_eq!(field("CapEff:").as_deref(), Some("00000000a80425fb"), "{printed}");
    assert_eq!(field("init ").as_deref(), Some("docker-init"), "{printed}");
    support::empty(&config).await;
}

#[tokio::test]
async fn restricted_drops_all_capabilities_and_needs_a_user_that_is_not_root() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    let restricted = |user: Option<&str>| Spec {
        security: Security::Restricted,
        user: user.map(str::to_owned),
        ..support::sh("id -u; grep CapBnd /proc/self/status")
    };
    for root in [None, Some("0"), Some("root"), Some("0:65534"), Some("nobody-knows")] {
        let error = executor
            .prepare(support::request(restricted(root)))
            .await
            .expect_err("root");
        assert_eq!(error.kind(), ErrorKind::StartRefused, "{root:?}: {error:?}");
        assert!(error.message().contains("restricted"), "{error}");
    }
    assert!(executor.owned().await.unwrap().is_empty());
    for user in ["65534", "nobody"] {
        let (end, printed) = run(&executor, restricted(Some(user))).await;
        assert_eq!(end, End::Exited(0));
        assert_eq!(printed, "65534\nCapBnd:\t0000000000000000\n");
    }
    support::empty(&config).await;
}

#[tokio::test]
async fn a_container_joins_its_networks_before_it_starts() {
    let config = support::config(InstallationId::new());
    let client = support::client(&config);
    let names = [1, 2].map(|number| format!("robata-test-{number}-{}", config.installation));
    for name in &names {
        let request = bollard::models::NetworkCreateRequest {
            name: name.clone(),
            ..Default::default()
        };
        client.create_network(request).await.expect("make a network");
    }
    let mut spec = support::sh("ls /sys/class/net | grep -c eth");
    spec.docker.network = Some(names[0].clone());
    spec.docker.networks = vec![names[1].clone()];
    let executor = executor(&config);
    let (end, printed) = run(&executor, spec.clone()).await;
    assert_eq!((end, printed.as_str()), (End::Exited(0), "2\n"));
    // One that is not there: in the engine's words.
    spec.docker.network = None;
    spec.docker.networks = vec!["robata-test-no-such-network".to_owned()];
    let handle = executor
        .prepare(support::request(spec))
        .await
        .expect("engine 20.10 looks at its start")
        .handle;
    let error = executor.start(&handle).await.expect_err("no such network");
    assert_eq!(error.kind(), ErrorKind::StartRefused, "{error:?}");
    assert!(error.message().contains("robata-test-no-such-network"), "{error}");
    support::empty(&config).await;
    for name in &names {
        client.remove_network(name).await.expect("remove the network");
    }
}

#[tokio::test]
async fn what_the_engine_refuses_at_the_start_stays_refused() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    let mut spec = support::argv(&["/no/such/command"]);
    spec.docker.init = Some(false);
    let handle = executor.prepare(support::request(spec)).await.expect("prepare").handle;
    for _ in 0..2 {
        let error = executor.start(&handle).await.expect_err("no such command");
        assert_eq!(error.kind(), ErrorKind::StartRefused, "{error:?}");
        assert!(error.message().contains("no such file or directory"), "{error}");
    }
    let state = support::observe(&executor, &handle).await;
    assert!(matches!(state, ThingState::Ended(_)), "{state:?}");
    let mut unknown = support::sh("exit 0");
    unknown.user = Some("nobody-knows".to_owned());
    let handle = executor
        .prepare(support::request(unknown))
        .await
        .expect("prepare")
        .handle;
    let error = executor.start(&handle).await.expect_err("no such user");
    assert_eq!(error.kind(), ErrorKind::StartRefused, "{error:?}");
    let mut small = support::sh("exit 0");
    small.resources.memory_limit = Limit::At(Memory { bytes: 4096 });
    let error = executor
        .prepare(support::request(small))
        .await
        .expect_err("too little memory");
    assert_eq!(error.kind(), ErrorKind::StartRefused, "{error:?}");
    support::empty(&config).await;
}

#[tokio::test]
async fn what_ran_and_prints_the_words_of_docker_init_has_run() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    let (end, printed) = run(
        &executor,
        support::sh("echo '[FATAL tini (7)] x' >&2; sleep 6; exit 127"),
    )
    .await;
    assert_eq!(end, End::Exited(127), "{printed}");
    // And what docker-init itself says of a command that is not there is still told apart.
    let spec = Spec {
        command: Some(vec!["/no/such/program".to_owned()]),
        ..support::sh("")
    };
    let (end, printed) = run(&executor, spec).await;
    assert_eq!(end, End::NeverRan(NeverRan::StartRefused), "{printed}");
    support::empty(&config).await;
}

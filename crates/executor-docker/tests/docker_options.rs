//! What a definition's `docker` table asks for, looked at from inside the container, or at the engine.

mod support;

use std::path::Path;

use robata_core::{
    ErrorKind, InstallationId,
    definition::{
        PullPolicy, Security,
        docker::{Gpus, Mounted, Ulimit},
    },
    executor::{Executor, Spec},
    finish::End,
};
use robata_executor_docker::{DockerConfig, DockerExecutor};

fn executor(config: &DockerConfig) -> DockerExecutor {
    DockerExecutor::connect(config.clone()).expect("connect")
}

async fn run(executor: &DockerExecutor, spec: Spec) -> (End, String) {
    let handle = support::start(executor, spec).await;
    let end = support::ending(executor, &handle).await.end;
    let printed = support::printed(executor, &handle).await.expect("output");
    (end, String::from_utf8_lossy(&printed).into_owned())
}

fn mounted(source: impl AsRef<Path>, read_only: bool) -> Mounted {
    Mounted {
        source: source.as_ref().display().to_string(),
        read_only,
    }
}

async fn refused(executor: &DockerExecutor, spec: Spec) -> robata_core::Error {
    let made = match executor.prepare(support::request(spec)).await {
        Ok(made) => made,
        Err(error) => return error,
    };
    executor.start(&made.handle).await.expect_err("refused")
}

#[tokio::test]
async fn names_and_limits_are_there_inside_the_container() {
    let config = support::config(InstallationId::new());
    let mut spec = support::sh("grep -E 'db.internal|six' /etc/hosts; ulimit -n; ulimit -c; ulimit -Hn");
    let hosts = [("db.internal", "10.9.8.7"), ("six", "fd00::7")];
    spec.docker.extra_hosts = hosts
        .map(|(name, address)| (name.to_owned(), address.to_owned()))
        .into();
    spec.docker.ulimits = [
        ("nofile".to_owned(), Ulimit { soft: 123, hard: 234 }),
        ("core".to_owned(), Ulimit { soft: 0, hard: 0 }),
    ]
    .into();
    let (end, printed) = run(&executor(&config), spec).await;
    assert_eq!(end, End::Exited(0), "{printed}");
    let words: Vec<_> = printed.split_whitespace().collect();
    assert_eq!(words, ["10.9.8.7", "db.internal", "fd00::7", "six", "123", "0", "234"]);
    support::empty(&config).await;
}

#[tokio::test]
async fn the_hosts_gateway_has_the_name_that_was_asked_for() {
    let config = support::config(InstallationId::new());
    let mut spec = support::sh("grep engine.internal /etc/hosts");
    spec.docker.network = None;
    spec.docker.extra_hosts = [("engine.internal".to_owned(), "host-gateway".to_owned())].into();
    let (end, printed) = run(&executor(&config), spec).await;
    assert_eq!(end, End::Exited(0), "{printed}");
    let address = printed.split_whitespace().next().expect("an address");
    address.parse::<std::net::IpAddr>().expect("an address");
    support::empty(&config).await;
}

#[tokio::test]
async fn a_path_of_the_engines_machine_is_read_only_unless_it_is_to_be_written() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("in"), "from outside\n").expect("write");
    let mut spec = support::sh("cat /data/in; touch /data/x 2>/dev/null && echo written; echo out >/out/y");
    spec.docker.mounts = [
        ("/data".to_owned(), mounted(folder.path(), true)),
        ("/out".to_owned(), mounted(folder.path(), false)),
    ]
    .into();
    spec.payload_file_env = Some("ROBATA_PAYLOAD_FILE".to_owned());
    let (end, printed) = run(&executor, spec.clone()).await;
    assert_eq!((end, printed.as_str()), (End::Exited(0), "from outside\n"));
    assert_eq!(
        std::fs::read_to_string(folder.path().join("y")).expect("written"),
        "out\n"
    );

    // One that is not there is told in the engine's words, and is not taken for our payload's file.
    let missing = folder.path().join("missing");
    let mut gone = spec.clone();
    gone.docker.mounts = [("/data".to_owned(), mounted(&missing, true))].into();
    let error = refused(&executor, gone).await;
    assert_eq!(error.kind(), ErrorKind::StartRefused, "{error:?}");
    assert!(error.message().contains(&missing.display().to_string()), "{error}");
    let handle = support::start(&executor, spec).await;
    let found = support::client(&config)
        .inspect_container(&handle.0, None)
        .await
        .expect("inspect");
    let payload = found.mounts.into_iter().flatten().find(|mount| {
        let target = mount.destination.as_deref().unwrap_or_default();
        target.starts_with("/run/robata")
    });
    assert_eq!(payload.expect("a payload").typ.as_deref(), Some("bind"));
    support::ending(&executor, &handle).await;
    support::empty(&config).await;
    assert!(
        folder.path().join("in").exists(),
        "what is mounted is not ours to remove"
    );
}

#[tokio::test]
async fn a_named_volume_is_made_written_and_there_for_the_next_container() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    let volume = format!("test-cache-{}", uuid::Uuid::new_v4().simple());
    let mut writes = support::sh("echo kept >/cache/x");
    writes.docker.volumes = [("/cache".to_owned(), mounted(&volume, false))].into();
    assert_eq!(run(&executor, writes).await.0, End::Exited(0));
    let mut reads = support::sh("cat /cache/x; touch /cache/y 2>/dev/null");
    reads.docker.volumes = [("/cache".to_owned(), mounted(&volume, true))].into();
    let (end, printed) = run(&executor, reads).await;
    assert_eq!((end, printed.as_str()), (End::Exited(1), "kept\n"), "it is read-only");
    support::empty(&config).await;
    // It is the definition's and not the container's.
    let client = support::client(&config);
    client.inspect_volume(&volume).await.expect("it is still there");
    client
        .remove_volume(&volume, None::<bollard::query_parameters::RemoveVolumeOptions>)
        .await
        .expect("remove");
}

#[tokio::test]
async fn capabilities_are_added_to_those_of_the_level() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    let with = |security: Security, user: &str, names: &[&str]| {
        let mut spec = support::sh("grep CapBnd /proc/self/status | cut -f2");
        spec.security = security;
        spec.user = Some(user.to_owned());
        spec.docker.cap_add = names.iter().map(|&name| name.to_owned()).collect();
        spec
    };
    let caps = |printed: &str| u64::from_str_radix(printed.trim(), 16).expect("a mask");
    let plain = caps(&run(&executor, with(Security::Baseline, "0", &[])).await.1);
    let admin = caps(
        &run(&executor, with(Security::Baseline, "0", &["cap_net_admin"]))
            .await
            .1,
    );
    // linux/capability.h: CAP_NET_ADMIN is 12, CAP_NET_BIND_SERVICE 10.
    assert_eq!(admin, plain | 1 << 12);
    let restricted = run(&executor, with(Security::Restricted, "65534", &["NET_BIND_SERVICE"]))
        .await
        .1;
    assert_eq!(caps(&restricted), 1 << 10);
    for more in ["NET_ADMIN", "ALL", "CAP_SYS_ADMIN"] {
        let error = refused(&executor, with(Security::Restricted, "65534", &[more])).await;
        assert_eq!(error.kind(), ErrorKind::StartRefused, "{error:?}");
        assert!(error.message().contains(more), "{error}");
    }
    let error = refused(&executor, with(Security::Baseline, "0", &["NO_SUCH_CAPABILITY"])).await;
    assert_eq!(error.kind(), ErrorKind::StartRefused, "{error:?}");
    assert!(error.message().contains("NO_SUCH_CAPABILITY"), "{error}");
    support::empty(&config).await;
}

/// Looked at from outside: a machine that is itself confined cannot give all that this level takes.
#[tokio::test]
async fn the_privileged_level_is_asked_for_by_its_own_name_only() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    for (security, privileged) in [
        (Security::Privileged, true),
        (Security::Baseline, false),
        (Security::Restricted, false),
    ] {
        let spec = Spec {
            security,
            user: Some("65534".to_owned()),
            ..support::sh("exit 0")
        };
        let made = executor.prepare(support::request(spec)).await.expect("prepare");
        let found = support::client(&config)
            .inspect_container(&made.handle.0, None)
            .await
            .expect("inspect");
        let host = found.host_config.expect("a host's side");
        assert_eq!(host.privileged, Some(privileged), "{security:?}");
        let options = host.security_opt.unwrap_or_default();
        assert_eq!(
            options.contains(&"no-new-privileges".to_owned()),
            !privileged,
            "{security:?}"
        );
    }
    support::empty(&config).await;
}

#[tokio::test]
async fn the_hosts_network_is_refused_below_the_privileged_level() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    let mut spec = support::sh("readlink /proc/self/ns/net");
    spec.docker.network = Some("host".to_owned());
    let error = refused(&executor, spec.clone()).await;
    assert_eq!(error.kind(), ErrorKind::StartRefused, "{error:?}");
    assert!(error.message().contains("privileged"), "{error}");
    assert!(executor.owned().await.expect("owned").is_empty());
    support::empty(&config).await;
}

#[tokio::test]
async fn a_device_is_there_under_its_own_path() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    // Every machine has it, and no container by itself.
    let device = "/dev/kmsg";
    let mut spec = support::sh("test -c /dev/kmsg && echo there");
    let (_, printed) = run(&executor, spec.clone()).await;
    assert_eq!(printed, "");
    spec.docker.devices = vec![device.to_owned()];
    let (end, printed) = run(&executor, spec.clone()).await;
    assert_eq!((end, printed.as_str()), (End::Exited(0), "there\n"));
    spec.docker.devices = vec!["/dev/robata-test-none".to_owned()];
    let error = refused(&executor, spec).await;
    assert_eq!(error.kind(), ErrorKind::StartRefused, "{error:?}");
    assert!(error.message().contains("robata-test-none"), "{error}");
    support::empty(&config).await;
}

#[tokio::test]
async fn graphics_processors_are_asked_for_and_an_engine_that_has_none_says_so() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    for (gpus, count) in [
        (Gpus::All, Some(-1)),
        (Gpus::Count(2), Some(2)),
        (Gpus::Ids(vec!["GPU-1".to_owned()]), None),
    ] {
        let mut spec = support::sh("exit 0");
        spec.docker.gpus = Some(gpus);
        let made = executor
            .prepare(support::request(spec))
            .await
            .expect("engine 20.10 looks at its start");
        let found = support::client(&config)
            .inspect_container(&made.handle.0, None)
            .await
            .expect("inspect");
        let asked = found
            .host_config
            .and_then(|host| host.device_requests)
            .expect("asked for");
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].count.filter(|count| *count != 0), count);
        assert_eq!(asked[0].capabilities, Some(vec![vec!["gpu".to_owned()]]));
        let error = executor.start(&made.handle).await.expect_err("there are none");
        assert_eq!(error.kind(), ErrorKind::StartRefused, "{error:?}");
        assert!(error.message().contains("capabilities: [[gpu]]"), "{error}");
    }
    support::empty(&config).await;
}

#[tokio::test]
async fn the_platform_is_the_one_that_was_asked_for() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    let mut spec = support::sh("exit 0");
    spec.docker.pull = PullPolicy::Never;
    let found = support::client(&config)
        .inspect_image(spec.image.as_deref().expect("an image"))
        .await
        .expect("the test image");
    let own = format!(
        "{}/{}",
        found.os.expect("os"),
        found.architecture.expect("architecture")
    );
    spec.docker.platform = Some(own);
    assert_eq!(run(&executor, spec.clone()).await.0, End::Exited(0));
    spec.docker.platform = Some("linux/s390x".to_owned());
    let error = refused(&executor, spec).await;
    assert_eq!(error.kind(), ErrorKind::ImagePull, "{error:?}");
    assert!(error.message().contains("for linux/s390x"), "{error}");
    support::empty(&config).await;
}

#[tokio::test]
async fn a_platform_that_the_registry_does_not_have_is_refused() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    let mut spec = support::sh("exit 0");
    spec.image = Some(format!(
        "{}/robata-test/busybox:1",
        support::variable("ROBATA_TEST_REGISTRY")
    ));
    spec.docker.platform = Some("linux/s390x".to_owned());
    let error = refused(&executor, spec).await;
    assert!(
        matches!(error.kind(), ErrorKind::ImagePull | ErrorKind::StartRefused),
        "{error:?}"
    );
    support::empty(&config).await;
}

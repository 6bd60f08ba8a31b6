//! Every option of a definition arrives: what `docker inspect` tells of a real container, for each.

#[expect(dead_code, reason = "this test binary uses a part of it")]
mod support;

use robata_core::{
    InstallationId,
    definition::{Definition, DockerOptions},
    executor::{Executor, Spec},
};
use robata_executor_docker::DockerExecutor;
use serde_json::{Value, json};

/// What the engine tells of a container that was made of this spec.
async fn inspected(spec: Spec) -> Value {
    let config = support::config(InstallationId::new());
    let executor = DockerExecutor::connect(config.clone()).expect("connect");
    let made = executor.prepare(support::request(spec)).await.expect("prepare");
    let found = support::client(&config).inspect_container(&made.handle.0, None).await;
    let found = serde_json::to_value(found.expect("inspect")).expect("it came as JSON");
    support::empty(&config).await;
    found
}

/// The engine adds keys to what it was told: those that were told are as they were.
fn holds(found: &Value, told: &Value) -> bool {
    match (found, told) {
        (Value::Object(found), Value::Object(told)) => told
            .iter()
            .all(|(key, told)| holds(found.get(key).unwrap_or(&Value::Null), told)),
        (Value::Array(found), Value::Array(told)) => {
            found.len() == told.len() && found.iter().zip(told).all(|(found, told)| holds(found, told))
        }
        _ => found == told,
    }
}

/// A compiler's error here means an option that has no row below.
fn every_option_is_known(options: DockerOptions) {
    let DockerOptions {
        // Whether and what is pulled: docker_images.rs, docker_options.rs.
        pull: _,
        platform: _,
        network: _,
        networks: _,
        extra_hosts: _,
        shm_size: _,
        tmpfs: _,
        volumes: _,
        mounts: _,
        ulimits: _,
        cap_add: _,
        devices: _,
        gpus: _,
        read_only: _,
        init: _,
    } = options;
}

#[tokio::test]
async fn every_option_of_the_docker_table_arrives() {
    every_option_is_known(DockerOptions::default());
    let config = support::config(InstallationId::new());
    let client = support::client(&config);
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let (network, volume) = (format!("test-net-{unique}"), format!("test-vol-{unique}"));
    let request = bollard::models::NetworkCreateRequest {
        name: network.clone(),
        ..Default::default()
    };
    client.create_network(request).await.expect("a network");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("a path");

    for (docker, place, told) in [
        (json!({}), "/HostConfig/NetworkMode", json!("default")),
        (json!({"network": "none"}), "/HostConfig/NetworkMode", json!("none")),
        (json!({"network": network}), "/HostConfig/NetworkMode", json!(network)),
        (
            json!({"networks": [network]}),
            "/NetworkSettings/Networks",
            json!({&network: {}}),
        ),
        (
            json!({"extra_hosts": {"db.internal": "10.0.0.5", "six": "::1"}}),
            "/HostConfig/ExtraHosts",
            json!(["db.internal:10.0.0.5", "six:::1"]),
        ),
        (json!({"shm_size": "32Mi"}), "/HostConfig/ShmSize", json!(32 << 20)),
        (
            json!({"tmpfs": {"/scratch": "1Mi"}}),
            "/HostConfig/Tmpfs",
            json!({"/scratch": "size=1048576,mode=1777,nosuid,nodev"}),
        ),
        (
            json!({"volumes": {"/cache": volume}}),
            "/HostConfig/Mounts",
            json!([{"Type": "volume", "Source": volume, "Target": "/cache", "ReadOnly": true}]),
        ),
        (
            json!({"volumes": {"/cache": {"source": volume, "read_only": false}}}),
            "/Mounts",
            json!([{"Type": "volume", "Name": volume, "Destination": "/cache", "RW": true}]),
        ),
        (
            json!({"mounts": {"/data": path}}),
            "/HostConfig/Mounts",
            json!([{"Type": "bind", "Source": path, "Target": "/data", "ReadOnly": true}]),
        ),
        (
            json!({"mounts": {"/data": {"source": path, "read_only": false}}}),
            "/Mounts",
            json!([{"Type": "bind", "Source": path, "Destination": "/data", "RW": true}]),
        ),
        (
            json!({"ulimits": {"nofile": {"soft": 10, "hard": 20}}}),
            "/HostConfig/Ulimits",
            json!([{"Name": "nofile", "Soft": 10, "Hard": 20}]),
        ),
        (
            json!({"ulimits": {"core": -1}}),
            "/HostConfig/Ulimits",
            json!([{"Name": "core", "Soft": -1, "Hard": -1}]),
        ),
        (
            json!({"cap_add": ["cap_net_admin"]}),
            "/HostConfig/CapAdd",
            json!(["NET_ADMIN"]),
        ),
        (
            json!({"devices": ["/dev/kmsg"]}),
            "/HostConfig/Devices",
            json!([{"PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/kmsg", "CgroupPermissions": "rwm"}]),
        ),
        (
            json!({"gpus": "all"}),
            "/HostConfig/DeviceRequests",
            json!([{"Count": -1, "Capabilities": [["gpu"]]}]),
        ),
        (
            json!({"gpus": ["GPU-1"]}),
            "/HostConfig/DeviceRequests",
            json!([{"DeviceIDs": ["GPU-1"], "Capabilities": [["gpu"]]}]),
        ),
        (json!({"read_only": true}), "/HostConfig/ReadonlyRootfs", json!(true)),
        (json!({}), "/HostConfig/Init", json!(true)),
        (json!({"init": false}), "/HostConfig/Init", json!(false)),
    ] {
        let mut spec = support::sh("exit 0");
        // As it comes out of a definition.
        spec.docker = serde_json::from_value(docker.clone()).expect("a good table");
        let found = inspected(spec).await;
        let found = found.pointer(place).unwrap_or(&Value::Null);
        assert!(holds(found, &told), "{docker} at {place}: {found:#}");
    }
    client.remove_network(&network).await.expect("remove the network");
    let forced = bollard::query_parameters::RemoveVolumeOptions { force: true };
    client
        .remove_volume(&volume, Some(forced))
        .await
        .expect("remove the volume");
}

#[tokio::test]
async fn every_other_option_of_a_definition_for_docker_arrives() {
    let payload = "/run/robata";
    for (definition, place, told) in [
        (
            json!({"entrypoint": ["/bin/sh", "-c"]}),
            "/Config/Entrypoint",
            json!(["/bin/sh", "-c"]),
        ),
        (json!({"command": ["a b", "$c"]}), "/Config/Cmd", json!(["a b", "$c"])),
        (json!({"working_dir": "/tmp"}), "/Config/WorkingDir", json!("/tmp")),
        (json!({"user": "65534:65534"}), "/Config/User", json!("65534:65534")),
        (json!({"grace_period": "1500ms"}), "/Config/StopTimeout", json!(2)),
        (
            json!({"resources": {"cpu": "250m"}}),
            "/HostConfig/NanoCpus",
            json!(250_000_000),
        ),
        (
            json!({"resources": {"memory": "64Mi"}}),
            "/HostConfig/Memory",
            json!(64 << 20),
        ),
        (
            json!({"resources": {"memory": "64Mi"}}),
            "/HostConfig/MemorySwap",
            json!(64 << 20),
        ),
        (
            json!({"resources": {"memory": "32Mi", "memory_limit": "64Mi"}}),
            "/HostConfig/MemoryReservation",
            json!(32 << 20),
        ),
        (
            json!({"resources": {"processes": 99}}),
            "/HostConfig/PidsLimit",
            json!(99),
        ),
        (
            json!({"security": "baseline"}),
            "/HostConfig/SecurityOpt",
            json!(["no-new-privileges"]),
        ),
        (
            json!({"security": "restricted", "user": "1"}),
            "/HostConfig/CapDrop",
            json!(["ALL"]),
        ),
        (json!({"security": "privileged"}), "/HostConfig/Privileged", json!(true)),
    ] {
        let mut wanted = definition.clone();
        wanted["docker"] = json!({"network": "none"});
        let wanted: Definition = serde_json::from_value(wanted).expect("a good definition");
        let mut spec = Spec {
            image: Some(support::variable("ROBATA_TEST_IMAGE")),
            entrypoint: wanted.entrypoint,
            command: wanted.command,
            working_dir: wanted.working_dir,
            user: wanted.user,
            resources: wanted.resources,
            security: wanted.security,
            grace_period: wanted.grace_period,
            docker: wanted.docker,
            ..Spec::default()
        };
        spec.payload_file_env = Some("ROBATA_PAYLOAD_FILE".to_owned());
        let found = inspected(spec).await;
        let value = found.pointer(place).unwrap_or(&Value::Null);
        assert!(holds(value, &told), "{definition} at {place}: {value:#}");
        // What every one has.
        assert_eq!(found["HostConfig"]["RestartPolicy"]["Name"], "no");
        assert_eq!(found["HostConfig"]["AutoRemove"], json!(false));
        let env = found["Config"]["Env"].to_string();
        assert!(env.contains(&format!("ROBATA_PAYLOAD_FILE={payload}")), "{env}");
    }
}

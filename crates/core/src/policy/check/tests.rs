//! Tests of the policy: what each setting allows, and what only looks like it.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::definition::{
    Cpu, Memory,
    document::{self, Options},
};

fn app() -> AppName {
    AppName::new("shop").unwrap()
}

fn definition(keys: Value) -> Definition {
    let mut options: Options = keys.as_object().unwrap().clone();
    options.entry("image").or_insert_with(|| json!("shop:1"));
    serde_json::from_value(Value::Object(options)).unwrap()
}

fn policy(set: impl FnOnce(&mut Containers)) -> Policy {
    let mut policy = Policy::of("executors.batch.docker");
    set(policy.containers.as_mut().unwrap());
    policy
}

/// What is refused, as `path setting`.
fn refused(policy: &Policy, keys: Value) -> Vec<String> {
    let found = policy.check(&app(), &definition(keys));
    let told = found.iter().map(|problem| {
        let (_, setting) = problem.message.rsplit_once("(setting ").unwrap_or(("", ""));
        format!("{} {}", problem.path.join("|"), setting.trim_end_matches(')'))
    });
    told.collect()
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

fn allowed(list: &[&str]) -> Vec<Allowed> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn the_default_allows_every_app_and_image_and_nothing_of_the_machine() {
    let policy = Policy::of("executors.batch.docker");
    for fine in [
        json!({}),
        json!({"image": "registry.example.com/x:1", "resources": {"cpu": "99", "memory_limit": "none"}, "timeout": "none"}),
        json!({"docker": {"network": "none"}}),
        json!({"docker": {"network": "bridge", "tmpfs": {"/x": "1Mi"}, "extra_hosts": {"db": "10.0.0.1"}}}),
        json!({"security": "restricted", "docker": {"cap_add": ["NET_BIND_SERVICE"], "ulimits": {"nofile": 5}}}),
    ] {
        assert_eq!(refused(&policy, fine.clone()), Vec::<String>::new(), "{fine}");
    }
    for (asked, told) in [
        (
            json!({"docker": {"network": "shop"}}),
            "docker|network executors.batch.docker.networks",
        ),
        (
            json!({"docker": {"networks": ["shop"]}}),
            "docker|networks executors.batch.docker.networks",
        ),
        (
            json!({"docker": {"volumes": {"/c": "cache"}}}),
            "docker|volumes|/c executors.batch.docker.volumes",
        ),
        (
            json!({"docker": {"mounts": {"/c": "/srv"}}}),
            "docker|mounts|/c executors.batch.docker.mounts",
        ),
        (
            json!({"docker": {"devices": ["/dev/fuse"]}}),
            "docker|devices executors.batch.docker.devices",
        ),
        (
            json!({"docker": {"cap_add": ["NET_ADMIN"]}}),
            "docker|cap_add executors.batch.docker.cap_add",
        ),
        (
            json!({"docker": {"gpus": "all"}}),
            "docker|gpus executors.batch.docker.gpus",
        ),
        (
            json!({"security": "privileged"}),
            "security executors.batch.docker.privileged",
        ),
    ] {
        assert_eq!(refused(&policy, asked.clone()), [told], "{asked}");
    }
}

#[test]
fn every_refusal_is_told_at_once_and_names_what_was_asked() {
    let policy = Policy {
        apps: texts(&["mail*"]),
        ..policy(|containers| containers.images = texts(&["registry.example.com/*"]))
    };
    let keys = json!({"image": "evil.org/x", "docker": {"network": "shop", "gpus": 1}});
    let found = policy.check(&app(), &definition(keys));
    let told: Vec<_> = found.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(
        told[1],
        "the image evil.org/x is not allowed (setting executors.batch.docker.images)"
    );
    assert!(found.iter().all(|problem| problem.code == "policy"));
    // A policy that stands in no settings names the key alone.
    let own = Policy::default().check(&app(), &definition(json!({"docker": {"gpus": 1}})));
    assert_eq!(own[0].message, "graphics processors are not allowed (setting gpus)");
}

#[test]
fn an_executor_without_containers_knows_apps_and_the_most_alone() {
    let process = Policy {
        containers: None,
        max: Max {
            memory: Some(Memory { bytes: 1 << 20 }),
            ..Max::default()
        },
        ..Policy::of("executors.here.process")
    };
    let keys = json!({"resources": {"memory": "2Mi"}, "docker": {"network": "host", "gpus": 1}});
    assert_eq!(
        refused(&process, keys),
        ["resources|memory executors.here.process.max.memory"]
    );
}

#[test]
fn what_is_no_reference_is_not_allowed_by_any_pattern() {
    for image in [
        "registry.example.com/../x",
        "a b",
        "https://registry.example.com/x",
        "shop/X",
    ] {
        let policy = policy(|containers| containers.images = texts(&["*", "registry.example.com/*"]));
        assert_eq!(
            refused(&policy, json!({"image": image})),
            ["image executors.batch.docker.images"]
        );
    }
}

#[test]
fn a_network_is_meant_by_its_name_and_an_option_of_the_engine_only_in_full() {
    let all = policy(|containers| containers.networks = texts(&["*"]));
    assert!(refused(&all, json!({"docker": {"network": "shop"}})).is_empty());
    for option in [
        "container:abc",
        "ns:/proc/1/ns/net",
        "service:x",
        "",
        "slirp4netns:port_handler",
    ] {
        let keys = json!({"docker": {"network": option}});
        assert_eq!(
            refused(&all, keys.clone()),
            ["docker|network executors.batch.docker.networks"],
            "{option}"
        );
        let listed = policy(|containers| containers.networks = texts(&[option]));
        assert!(refused(&listed, keys).is_empty(), "{option}");
    }
    let shop = policy(|containers| containers.networks = texts(&["shop"]));
    for other in ["shop2", "Shop", "sho", "shop "] {
        assert_eq!(
            refused(&shop, json!({"docker": {"network": other}})).len(),
            1,
            "{other}"
        );
    }
}

#[test]
fn the_hosts_network_takes_the_operators_word_and_the_privileged_level() {
    let listed = policy(|containers| {
        containers.networks = texts(&["host"]);
        containers.privileged = true;
    });
    let host = |level: &str| json!({"security": level, "docker": {"network": "host"}});
    for level in ["baseline", "restricted"] {
        assert_eq!(refused(&listed, host(level)), ["docker|network "], "{level}");
    }
    assert!(refused(&listed, host("privileged")).is_empty());
    let unlisted = policy(|containers| {
        containers.networks = texts(&["*"]);
        containers.privileged = true;
    });
    assert_eq!(
        refused(&unlisted, host("privileged")),
        ["docker|network executors.batch.docker.networks"]
    );
}

#[test]
fn a_mount_is_within_a_path_and_no_more_writable_than_that() {
    let policy = policy(|containers| containers.mounts = allowed(&["/data:ro", "/data/out:rw", "/scratch/:rw"]));
    let mount = |source: &str, read_only: bool| {
        let source = json!({"source": source, "read_only": read_only});
        refused(&policy, json!({"docker": {"mounts": {"/x": source}}}))
    };
    for fine in ["/data", "/data/in", "/data/in/deep", "/data/out", "/scratch"] {
        assert!(mount(fine, true).is_empty(), "{fine}");
    }
    for fine in ["/data/out", "/scratch"] {
        assert!(mount(fine, false).is_empty(), "{fine}");
    }
    for outside in [
        "/database",
        "/",
        "/data/../etc",
        "/data/./x",
        "/data//x",
        "/data/",
        "data",
        "",
        "/etc",
        "/var/run/docker.sock",
        "/data/out\0",
    ] {
        assert_eq!(
            mount(outside, true),
            ["docker|mounts|/x executors.batch.docker.mounts"],
            "{outside:?}"
        );
    }
    for read_only in ["/data", "/data/outer", "/data/in"] {
        assert_eq!(mount(read_only, false).len(), 1, "{read_only}");
    }
    let told = |keys: Value| policy.check(&app(), &definition(keys)).remove(0).message;
    let told = told(json!({"docker": {"mounts": {"/x": {"source": "/data", "read_only": false}}}}));
    assert!(
        told.starts_with("/data is allowed read-only, and not to be written"),
        "{told}"
    );
}

#[test]
fn what_a_job_may_have_made_a_link_is_not_mounted() {
    let policy = policy(|containers| {
        containers.mounts = allowed(&["/data:ro", "/data/out:rw", "/data/out/kept:ro"]);
    });
    let mount = |source: &str, read_only: bool| {
        let source = json!({"source": source, "read_only": read_only});
        policy.check(&app(), &definition(json!({"docker": {"mounts": {"/x": source}}})))
    };
    for (source, read_only) in [
        ("/data/out/link", true),
        ("/data/out/link", false),
        ("/data/out/link/etc", true),
        ("/data/out/kept/x", true),
        // Whoever writes the folder above it can put another in its place.
        ("/data/out/kept", true),
    ] {
        let refused = mount(source, read_only);
        assert_eq!(refused.len(), 1, "{source}");
        let told = &refused[0].message;
        assert!(
            told.contains("may be a link to anywhere, since jobs can write to /data/out"),
            "{told}"
        );
    }
    // What may be written itself, and what lies beside it, may be.
    for fine in ["/data/out", "/data/outer", "/data/in/deep"] {
        assert!(mount(fine, true).is_empty(), "{fine}");
    }
}

#[test]
fn volumes_are_allowed_by_their_names() {
    let policy = policy(|containers| containers.volumes = allowed(&["shop-*:rw", "shared:ro"]));
    let volume = |name: &str, read_only: bool| {
        refused(
            &policy,
            json!({"docker": {"volumes": {"/x": {"source": name, "read_only": read_only}}}}),
        )
    };
    assert!(volume("shop-cache", false).is_empty() && volume("shared", true).is_empty());
    assert_eq!(
        volume("shared", false),
        ["docker|volumes|/x executors.batch.docker.volumes"]
    );
    assert_eq!(volume("shop", true).len(), 1);
}

#[test]
fn a_capability_is_the_same_however_it_is_written() {
    let policy = policy(|containers| containers.cap_add = texts(&["CAP_NET_ADMIN", "sys_ptrace"]));
    for fine in ["NET_ADMIN", "cap_net_admin", "SYS_PTRACE", "NET_BIND_SERVICE"] {
        assert!(
            refused(&policy, json!({"docker": {"cap_add": [fine]}})).is_empty(),
            "{fine}"
        );
    }
    for bad in ["ALL", "SYS_ADMIN", "", "CAP_", "NET_ADMIN "] {
        assert_eq!(
            refused(&policy, json!({"docker": {"cap_add": [bad]}})).len(),
            1,
            "{bad:?}"
        );
    }
}

fn at_most() -> Policy {
    Policy {
        max: Max {
            cpu: Some(Cpu { millis: 2000 }),
            memory: Some(Memory { bytes: 1 << 30 }),
            timeout: Some(Duration::from_secs(1800)),
        },
        ..Policy::of("executors.batch.docker")
    }
}

#[test]
fn who_says_nothing_gets_the_most_and_who_asks_for_more_or_for_no_limit_is_refused() {
    let policy = at_most();
    let mut silent = definition(json!({}));
    assert!(policy.check(&app(), &silent).is_empty());
    policy.bound(&mut silent);
    assert_eq!(silent.resources.cpu_at_most(), policy.max.cpu);
    assert_eq!(silent.resources.memory_at_most(), policy.max.memory);
    assert_eq!(silent.timeout, policy.max.timeout);

    let keys = json!({"resources": {"cpu": "2", "memory": "512Mi", "memory_limit": "1Gi"}, "timeout": "30m"});
    let mut asked = definition(keys);
    let before = asked.clone();
    assert!(policy.check(&app(), &asked).is_empty());
    policy.bound(&mut asked);
    assert_eq!(asked, before);

    for (keys, told) in [
        (
            json!({"resources": {"cpu": "2001m"}}),
            "resources|cpu executors.batch.docker.max.cpu",
        ),
        (
            json!({"resources": {"cpu": "1", "cpu_limit": "3"}}),
            "resources|cpu_limit executors.batch.docker.max.cpu",
        ),
        (
            json!({"resources": {"cpu_limit": "none"}}),
            "resources|cpu_limit executors.batch.docker.max.cpu",
        ),
        (
            json!({"resources": {"memory": "2Gi"}}),
            "resources|memory executors.batch.docker.max.memory",
        ),
        (
            json!({"resources": {"memory_limit": "none"}}),
            "resources|memory_limit executors.batch.docker.max.memory",
        ),
        (json!({"timeout": "none"}), "timeout executors.batch.docker.max.timeout"),
        (json!({"timeout": "31m"}), "timeout executors.batch.docker.max.timeout"),
        (
            json!({"grace_period": "31m"}),
            "grace_period executors.batch.docker.max.timeout",
        ),
    ] {
        assert_eq!(refused(&policy, keys.clone()), [told], "{keys}");
    }
}

#[test]
fn a_longer_bound_leaves_the_default_time_limit_as_it_is() {
    let mut policy = at_most();
    policy.max.timeout = Some(Duration::from_secs(7200));
    let mut silent = definition(json!({}));
    policy.bound(&mut silent);
    assert_eq!(silent.timeout, Some(Duration::from_secs(3600)));
    assert_eq!(silent.grace_period, Duration::from_secs(30));
    policy.max.timeout = Some(Duration::from_secs(5));
    let mut silent = definition(json!({}));
    assert!(policy.check(&app(), &silent).is_empty());
    policy.bound(&mut silent);
    assert_eq!(silent.grace_period, Duration::from_secs(5));
    let none = Policy::default();
    let mut free = definition(json!({}));
    none.bound(&mut free);
    assert_eq!(free, definition(json!({})));
}

proptest! {
    /// What is within the policy never has more than the policy's most once it is bounded, and what is refused never has
    /// less than it asks for.
    #[test]
    fn nothing_that_passes_is_over_the_most(
        cpu in prop::option::of(1u32..5000), cpu_limit in prop::option::of(0u32..5000),
        memory in prop::option::of(1u64..4 << 30), seconds in prop::option::of(1u64..8000),
    ) {
        let policy = at_most();
        let mut resources = serde_json::Map::new();
        if let Some(cpu) = cpu { resources.insert("cpu".into(), format!("{cpu}m").into()); }
        match cpu_limit {
            Some(0) => { resources.insert("cpu_limit".into(), "none".into()); }
            Some(limit) => { resources.insert("cpu_limit".into(), format!("{limit}m").into()); }
            None => {}
        }
        if let Some(memory) = memory { resources.insert("memory".into(), memory.into()); }
        let timeout = seconds.map_or_else(|| "none".to_owned(), |seconds| format!("{seconds}s"));
        let mut asked = definition(json!({"resources": resources, "timeout": timeout}));
        let refused = policy.check(&app(), &asked);
        policy.bound(&mut asked);
        let over = asked.resources.cpu_at_most() > policy.max.cpu
            || asked.resources.cpu_at_most().is_none()
            || asked.resources.memory_at_most() > policy.max.memory
            || asked.resources.memory_at_most().is_none()
            || asked.timeout.is_none()
            || asked.timeout > policy.max.timeout;
        prop_assert_eq!(!refused.is_empty(), over, "{:?}", refused);
    }

    /// No text of a mount's source reaches outside of what is allowed.
    #[test]
    fn no_source_leaves_the_paths_that_are_allowed(source in "[/.ab]{0,12}", read_only: bool) {
        let policy = policy(|containers| containers.mounts = allowed(&["/a/b:ro"]));
        let mounted = json!({"source": source, "read_only": read_only});
        let passed = refused(&policy, json!({"docker": {"mounts": {"/x": mounted}}})).is_empty();
        let mut parts = source.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/'));
        let plain = source.starts_with('/') && source.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
        let below = parts.next() == Some("a") && parts.next() == Some("b");
        prop_assert_eq!(passed, read_only && plain && below, "{}", source);
    }
}

#[test]
fn a_documents_own_words_pass_the_default_policy() {
    let read = document::definition(
        json!({"image": "registry.example.com/shop:2026-11-20", "docker": {"network": "none"}})
            .as_object()
            .unwrap()
            .clone(),
        &[],
    )
    .unwrap();
    assert!(Policy::default().check(&app(), &read).is_empty());
}

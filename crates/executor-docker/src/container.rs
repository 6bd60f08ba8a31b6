//! From a spec to the engine's description of a container, with the levels of security.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, HostConfig, HostConfigLogConfig, ImageInspect, Mount, MountType,
    MountVolumeOptions, RestartPolicy, RestartPolicyNameEnum,
};
use robata_core::{
    Error, ErrorKind, Result, Secret,
    definition::Security,
    executor::{Prepare, Spec, label},
};

use crate::{DockerConfig, engine::Kind, outside, payload};

const OPERATION: &str = "docker.prepare";
/// The log driver that keeps the very bytes; json-file replaces what is not UTF-8 (both seen on engine 20.10).
const LOG_DRIVER: &str = "local";
/// Podman has no `local`; of its own drivers this one is read back by its API.
const PODMANS: &str = "k8s-file";

/// How this container gets its payload.
#[derive(Clone, Debug)]
pub(crate) enum PayloadMount {
    /// It gets none.
    None,
    /// This file, which the engine must see.
    File(String),
    /// A volume to be filled.
    Volume,
}

pub(crate) fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::StartRefused, OPERATION, message)
}

/// The image, and whether the level of security is kept: it is this executor's own promise, whoever calls it. What an
/// operator allows beyond it is the caller's matter (`robata_core::policy`).
pub(crate) fn check(spec: &Spec) -> Result<&str> {
    let Some(image) = spec.image.as_deref().filter(|image| !image.is_empty()) else {
        return Err(refused("no image: a Docker executor runs images"));
    };
    let mut networks = spec.docker.network.iter().chain(&spec.docker.networks);
    if spec.security != Security::Privileged && networks.any(|network| network == "host") {
        return Err(refused("the host's network takes security = \"privileged\""));
    }
    if let Some(name) = spec.docker.cap_add.iter().find(|name| !spec.security.adds(name)) {
        return Err(refused(format!(
            "security = \"restricted\" does not add the capability {name}"
        )));
    }
    Ok(image)
}

/// Whom the container's main process runs as: the spec's user, else the image's.
pub(crate) fn user<'a>(spec: &'a Spec, image: &'a ImageInspect) -> &'a str {
    let own = image.config.as_ref().and_then(|config| config.user.as_deref());
    spec.user.as_deref().or(own).unwrap_or_default()
}

/// `restricted` needs a user that is not root; a name is looked up in the container's own /etc/passwd later.
pub(crate) fn check_user(spec: &Spec, image: &ImageInspect) -> Result<()> {
    let user = user(spec, image);
    let name = user.split(':').next().unwrap_or_default();
    let root = name.is_empty() || name == "root" || name.parse::<u64>().is_ok_and(|id| id == 0);
    if spec.security == Security::Restricted && root {
        return Err(refused(
            "security = \"restricted\" needs a user that is not root: neither the definition nor the image sets one",
        ));
    }
    Ok(())
}

/// The engine's description.
pub(crate) fn describe(
    (config, kind): (&DockerConfig, Kind),
    request: &Prepare,
    image: &str,
    realm: &str,
    payload: &PayloadMount,
) -> ContainerCreateBody {
    let spec = &request.spec;
    let installation = config.installation.to_string();
    let mut labels: HashMap<String, String> = request.labels.clone().into_iter().collect();
    labels.insert(label::INSTALLATION.to_owned(), installation.clone());
    labels.insert(label::REALM.to_owned(), realm.to_owned());
    let secret = spec.secret_env.iter().map(|(name, value)| (name, value.expose()));
    // A secret stands for its variable, whatever else would set it.
    let plain = spec.env.iter().filter(|(name, _)| !spec.secret_env.contains_key(*name));
    let plain = plain.map(|(name, value)| (name, value.as_str()));
    let mut env: Vec<String> = plain
        .chain(secret)
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if let Some(name) = &spec.payload_file_env {
        env.retain(|entry| !entry.starts_with(&format!("{name}=")));
        env.push(format!("{name}={}", payload::FILE));
    }
    ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: spec.entrypoint.clone(),
        cmd: spec.command.clone(),
        working_dir: spec.working_dir.clone(),
        user: spec.user.clone(),
        env: Some(env),
        labels: Some(labels),
        attach_stdout: Some(false),
        attach_stderr: Some(false),
        // What an engine that goes down by itself grants; ours is given with each stop.
        stop_timeout: Some(whole_seconds(spec.grace_period)),
        stop_signal: Some("SIGTERM".to_owned()),
        host_config: Some(HostConfig {
            log_config: Some(log_config(config, kind)),
            ..host_config(spec, payload, installation)
        }),
        ..ContainerCreateBody::default()
    }
}

/// What these variables are in a container that was made.
pub(crate) fn variables(
    found: &ContainerInspectResponse,
    names: &BTreeSet<String>,
) -> Result<BTreeMap<String, Secret>> {
    let env = found.config.iter().flat_map(|config| config.env.iter().flatten());
    env.filter_map(|entry| entry.split_once('='))
        .filter(|(name, _)| names.contains(*name))
        // One newline at the end would be left out, as of a file.
        .map(|(name, value)| Ok((name.to_owned(), Secret::from_bytes(format!("{value}\n").into_bytes())?)))
        .collect()
}

fn host_config(spec: &Spec, payload: &PayloadMount, installation: String) -> HostConfig {
    let restricted = spec.security == Security::Restricted;
    let privileged = spec.security == Security::Privileged;
    let memory = spec.resources.memory_at_most().map(|memory| signed(memory.bytes));
    let tmpfs = spec.docker.tmpfs.iter();
    HostConfig {
        nano_cpus: spec
            .resources
            .cpu_at_most()
            .map(|cpu| i64::from(cpu.millis) * 1_000_000),
        memory,
        // The same as `memory`: no swap beside it, else a container over its limit is slow instead of ended.
        memory_swap: memory,
        memory_reservation: spec
            .resources
            .memory
            .map(|reserved| signed(reserved.bytes))
            .filter(|reserved| memory.is_none_or(|memory| *reserved < memory)),
        pids_limit: Some(i64::from(spec.resources.processes)),
        shm_size: spec.docker.shm_size.map(|size| signed(size.bytes)),
        tmpfs: Some(
            tmpfs
                .map(|(path, size)| (path.clone(), format!("size={},mode=1777,nosuid,nodev", size.bytes)))
                .collect(),
        ),
        readonly_rootfs: Some(spec.docker.read_only),
        init: Some(spec.docker.init.unwrap_or(true)),
        network_mode: Some(spec.docker.network.clone().unwrap_or_else(|| "default".to_owned())),
        mounts: Some(
            mount(payload, installation)
                .into_iter()
                .chain(outside::mounts(&spec.docker))
                .collect(),
        ),
        extra_hosts: outside::extra_hosts(&spec.docker),
        ulimits: outside::ulimits(&spec.docker),
        devices: outside::devices(&spec.docker),
        device_requests: outside::gpus(&spec.docker),
        security_opt: (!privileged).then(|| vec!["no-new-privileges".to_owned()]),
        cap_drop: restricted.then(|| vec!["ALL".to_owned()]),
        cap_add: outside::capabilities(&spec.docker),
        privileged: Some(privileged),
        // Ended is ended: nothing is started again, and nothing vanishes before its outcome and log are read.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            ..RestartPolicy::default()
        }),
        auto_remove: Some(false),
        ..HostConfig::default()
    }
}

/// Bounded, and blocking rather than losing: a container waits for its log.
fn log_config(config: &DockerConfig, kind: Kind) -> HostConfigLogConfig {
    if kind == Kind::Podman {
        let most = ("max-size".to_owned(), config.log_max_bytes.to_string());
        return HostConfigLogConfig {
            typ: Some(PODMANS.to_owned()),
            config: Some([most].into()),
        };
    }
    let options = [
        ("mode", "blocking".to_owned()),
        ("max-size", config.log_max_bytes.to_string()),
        ("max-file", "2".to_owned()),
        ("compress", "false".to_owned()),
    ];
    HostConfigLogConfig {
        typ: Some(LOG_DRIVER.to_owned()),
        config: Some(
            options
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        ),
    }
}

fn mount(payload: &PayloadMount, installation: String) -> Option<Mount> {
    match payload {
        PayloadMount::None => None,
        PayloadMount::File(path) => Some(Mount {
            typ: Some(MountType::BIND),
            source: Some(path.clone()),
            target: Some(payload::FILE.to_owned()),
            read_only: Some(true),
            ..Mount::default()
        }),
        PayloadMount::Volume => Some(Mount {
            typ: Some(MountType::VOLUME),
            target: Some(payload::FOLDER.to_owned()),
            volume_options: Some(MountVolumeOptions {
                no_copy: Some(true),
                labels: Some([(label::INSTALLATION.to_owned(), installation)].into()),
                ..MountVolumeOptions::default()
            }),
            ..Mount::default()
        }),
    }
}

/// The engine counts in whole seconds; less than was asked for is never granted.
pub(crate) fn whole_seconds(time: std::time::Duration) -> i64 {
    i64::try_from(time.as_millis().div_ceil(1000))
        .unwrap_or(i64::MAX)
        .min(i64::from(i32::MAX))
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(security: Security) -> Spec {
        Spec {
            image: Some("registry.example.com/shop:1".into()),
            security,
            ..Spec::default()
        }
    }

    #[test]
    fn a_level_of_security_is_kept_whoever_calls() {
        for level in [Security::Baseline, Security::Restricted] {
            let mut host = spec(level);
            host.docker.network = Some("host".into());
            assert_eq!(check(&host).unwrap_err().kind(), ErrorKind::StartRefused, "{level:?}");
            host.docker.network = None;
            host.docker.networks = vec!["shop".into(), "host".into()];
            check(&host).unwrap_err();
        }
        let mut restricted = spec(Security::Restricted);
        restricted.docker.cap_add = vec!["NET_BIND_SERVICE".into()];
        check(&restricted).unwrap();
        restricted.docker.cap_add.push("ALL".into());
        check(&restricted).unwrap_err();
        let mut privileged = spec(Security::Privileged);
        privileged.docker.network = Some("host".into());
        check(&privileged).unwrap();
    }

    #[test]
    fn restricted_needs_a_user_that_is_not_root() {
        let image = ImageInspect::default();
        let user = |user: Option<&str>| Spec {
            user: user.map(str::to_owned),
            security: Security::Restricted,
            ..Spec::default()
        };
        for root in [None, Some("0"), Some("root"), Some("0:1000"), Some("00")] {
            check_user(&user(root), &image).unwrap_err();
        }
        for other in ["1000", "app", "1000:0"] {
            check_user(&user(Some(other)), &image).unwrap();
        }
    }
}

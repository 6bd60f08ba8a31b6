//! What a container gets from outside of it: volumes, paths and devices of the engine's machine, names, limits.

use bollard::models::{DeviceMapping, DeviceRequest, Mount, MountType, ResourcesUlimits};
use robata_core::definition::{
    DockerOptions,
    docker::{Gpus, Mounted, capability},
};

/// Named volumes, which the engine makes where they are not there, and paths, which it refuses where they are not there.
pub(crate) fn mounts(docker: &DockerOptions) -> impl Iterator<Item = Mount> {
    let volumes = docker.volumes.iter().map(|mounted| (MountType::VOLUME, mounted));
    let paths = docker.mounts.iter().map(|mounted| (MountType::BIND, mounted));
    volumes
        .chain(paths)
        .map(|(typ, (target, Mounted { source, read_only }))| Mount {
            typ: Some(typ),
            source: Some(source.clone()),
            target: Some(target.clone()),
            read_only: Some(*read_only),
            ..Mount::default()
        })
}

/// As `--add-host`.
pub(crate) fn extra_hosts(docker: &DockerOptions) -> Option<Vec<String>> {
    let lines = docker
        .extra_hosts
        .iter()
        .map(|(name, address)| format!("{name}:{address}"));
    some(lines.collect())
}

/// As `--ulimit`.
pub(crate) fn ulimits(docker: &DockerOptions) -> Option<Vec<ResourcesUlimits>> {
    let limits = docker.ulimits.iter().map(|(name, limit)| ResourcesUlimits {
        name: Some(name.clone()),
        soft: Some(limit.soft),
        hard: Some(limit.hard),
    });
    some(limits.collect())
}

/// As `--device`: under the same path, to be read, written and made.
pub(crate) fn devices(docker: &DockerOptions) -> Option<Vec<DeviceMapping>> {
    let devices = docker.devices.iter().map(|path| DeviceMapping {
        path_on_host: Some(path.clone()),
        path_in_container: Some(path.clone()),
        cgroup_permissions: Some("rwm".to_owned()),
    });
    some(devices.collect())
}

/// As `--gpus`: the engine finds the driver by the capability
/// (<https://github.com/docker/cli/blob/master/opts/gpus.go>).
pub(crate) fn gpus(docker: &DockerOptions) -> Option<Vec<DeviceRequest>> {
    let (count, device_ids) = match docker.gpus.as_ref()? {
        Gpus::All => (Some(-1), None),
        Gpus::Count(count) => (Some(i64::from(*count)), None),
        Gpus::Ids(ids) => (None, Some(ids.clone())),
    };
    Some(vec![DeviceRequest {
        count,
        device_ids,
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..DeviceRequest::default()
    }])
}

/// As `--cap-add`.
pub(crate) fn capabilities(docker: &DockerOptions) -> Option<Vec<String>> {
    some(docker.cap_add.iter().filter_map(|name| capability(name)).collect())
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(gpus: Gpus) -> serde_json::Value {
        let docker = DockerOptions {
            gpus: Some(gpus),
            ..DockerOptions::default()
        };
        serde_json::to_value(super::gpus(&docker).unwrap()).unwrap()
    }

    /// What `docker run --gpus` sends, as its client was seen to.
    #[test]
    fn graphics_processors_are_asked_for_as_dockers_own_client_does() {
        let gpu = json!([["gpu"]]);
        assert_eq!(request(Gpus::All), json!([{"Count": -1, "Capabilities": gpu}]));
        assert_eq!(request(Gpus::Count(2)), json!([{"Count": 2, "Capabilities": gpu}]));
        let ids = request(Gpus::Ids(vec!["GPU-1".into(), "1".into()]));
        assert_eq!(ids, json!([{"DeviceIDs": ["GPU-1", "1"], "Capabilities": gpu}]));
    }

    #[test]
    fn what_is_not_asked_for_is_not_sent() {
        let docker = DockerOptions::default();
        assert_eq!(mounts(&docker).count(), 0);
        assert!(extra_hosts(&docker).is_none() && ulimits(&docker).is_none() && devices(&docker).is_none());
        assert!(gpus(&docker).is_none() && capabilities(&docker).is_none());
    }
}

//! What can be wrong with the `[….docker]` table, whatever an operator allows.

use super::{DockerOptions, HOST_GATEWAY, Mounted, ULIMITS, is_address};
use crate::definition::{Definition, Security, document::unknown_key, variables::Wrong};

/// The folder in which a container finds its payload (DESIGN.md §6).
const PAYLOAD: &str = "/run/robata";
/// The engine's own words for capabilities begin with this, or leave it out.
const CAP: &str = "CAP_";
/// The one capability that the Pod Security Standards allow at every level
/// (<https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted>).
const ALWAYS_ADDED: &str = "NET_BIND_SERVICE";

/// What can be said of the table alone; paths begin below it.
pub(in crate::definition) fn mistakes(docker: &DockerOptions) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    let mut problem = |path: &[&str], message: String| {
        let path = path.iter().map(|&key| key.to_owned()).collect();
        wrong.push((path, "invalid", message));
    };
    if docker
        .platform
        .as_deref()
        .is_some_and(|platform| !is_platform(platform))
    {
        problem(
            &["platform"],
            "is no platform, as linux/amd64 or linux/arm/v7".to_owned(),
        );
    }
    for (name, address) in &docker.extra_hosts {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if name.is_empty() || !name.bytes().all(good) {
            problem(&["extra_hosts", name], "is no host's name".to_owned());
        } else if !is_address(address) {
            problem(
                &["extra_hosts", name],
                format!("{address:?} is neither an IP address nor {HOST_GATEWAY:?}"),
            );
        }
    }
    for (name, limit) in &docker.ulimits {
        if !ULIMITS.contains(&name.as_str()) {
            problem(&["ulimits", name], unknown_key(name, &ULIMITS));
        } else if limit.soft < -1 || limit.hard < -1 {
            problem(&["ulimits", name], "must be 0 or more, or -1 for no limit".to_owned());
        } else if limit.hard != -1 && (limit.soft == -1 || limit.soft > limit.hard) {
            problem(&["ulimits", name], "soft is more than hard".to_owned());
        }
    }
    let mut targets: Vec<&str> = Vec::new();
    let folders = docker.tmpfs.keys().map(|path| ("tmpfs", path));
    let volumes = docker.volumes.keys().map(|path| ("volumes", path));
    let mounts = docker.mounts.keys().map(|path| ("mounts", path));
    for (key, path) in folders.chain(volumes).chain(mounts) {
        if !is_path(path) || path == "/" {
            problem(
                &[key, path],
                "must be a whole path inside the container, without `..`".to_owned(),
            );
        } else if path == PAYLOAD || path.strip_prefix(PAYLOAD).is_some_and(|rest| rest.starts_with('/')) {
            problem(&[key, path], format!("{PAYLOAD} is the platform's own"));
        } else if targets.contains(&path.as_str()) {
            problem(&[key, path], "has something else mounted already".to_owned());
        }
        targets.push(path);
    }
    for (path, Mounted { source, .. }) in &docker.volumes {
        if !is_volume(source) {
            problem(
                &["volumes", path],
                format!("{source:?} is no name of a volume; paths go into `mounts`"),
            );
        } else if source.starts_with("robata-") {
            problem(
                &["volumes", path],
                "volumes called robata-… are the platform's own".to_owned(),
            );
        }
    }
    for (path, Mounted { source, .. }) in &docker.mounts {
        if !is_path(source) {
            problem(
                &["mounts", path],
                format!("{source:?} is no whole path without `.` and `..`; names of volumes go into `volumes`"),
            );
        }
    }
    for name in &docker.cap_add {
        if capability(name).is_none() {
            problem(&["cap_add"], format!("{name:?} is no capability, as NET_ADMIN"));
        }
    }
    for path in &docker.devices {
        if !is_path(path) || !path.starts_with("/dev/") {
            problem(&["devices"], format!("{path:?} is no device, as /dev/fuse"));
        }
    }
    wrong
}

/// What the level of security excludes; paths begin at the definition.
pub(crate) fn across(definition: &Definition) -> Vec<Wrong> {
    let docker = |key: &str| vec!["docker".to_owned(), key.to_owned()];
    let mut wrong = Vec::new();
    if definition.security == Security::Restricted {
        for name in &definition.docker.cap_add {
            if !definition.security.adds(name) {
                let message = format!("security = \"restricted\" adds no capability but {ALWAYS_ADDED}, not {name}");
                wrong.push((docker("cap_add"), "policy", message));
            }
        }
    }
    let networks = definition.docker.network.iter().map(|network| ("network", network));
    let more = definition.docker.networks.iter().map(|network| ("networks", network));
    for (key, network) in networks.chain(more) {
        if network == "host" && definition.security != Security::Privileged {
            let message = "the host's network takes security = \"privileged\"".to_owned();
            wrong.push((docker(key), "policy", message));
        }
    }
    wrong
}

impl Security {
    /// Whether this level lets a definition ask for the capability at all; the operator's policy has its own word.
    #[must_use]
    pub fn adds(self, name: &str) -> bool {
        match self {
            Self::Restricted => capability(name).as_deref() == Some(ALWAYS_ADDED),
            Self::Baseline | Self::Privileged => true,
        }
    }
}

/// A capability's one name, without `CAP_` and in upper case; `None` for what is none.
#[must_use]
pub fn capability(name: &str) -> Option<String> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix(CAP).unwrap_or(&name);
    let good = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    (!name.is_empty() && name.bytes().all(good)).then(|| name.to_owned())
}

/// Whether this is a whole path that has one reading only: no `.`, `..`, empty part or slash at its end.
#[must_use]
pub fn is_path(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('/') else {
        return false;
    };
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(char::is_control);
    rest.is_empty() || rest.split('/').all(part)
}

/// Whether the engine takes this for a volume's name (`RestrictedNamePattern` in moby's `daemon/names`).
#[must_use]
pub fn is_volume(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    text.len() > 1 && text.as_bytes()[0].is_ascii_alphanumeric() && text.bytes().all(good)
}

/// `os/architecture[/variant]`.
fn is_platform(text: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let parts = text.split('/');
    matches!(parts.clone().count(), 2 | 3) && parts.into_iter().all(part)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::definition::document::{Options, check_options, definition};

    fn options(docker: Value) -> Options {
        Options::from_iter([("docker".to_owned(), docker)])
    }

    fn told(docker: Value) -> Vec<String> {
        let problems = check_options(&options(docker), &[]);
        let line = |problem: &crate::definition::Problem| format!("{} {}", problem.path.join("|"), problem.message);
        problems.iter().map(line).collect()
    }

    #[test]
    fn all_that_docker_is_told_today_can_be_said() {
        let docker = json!({
            "platform": "linux/arm/v7", "pull": "always", "network": "shop", "networks": ["db"],
            "extra_hosts": {"db.internal": "10.0.0.5", "six": "::1", "host.docker.internal": "host-gateway"},
            "shm_size": "64Mi", "tmpfs": {"/scratch": "1Gi"},
            "volumes": {"/cache": {"source": "shop-cache", "read_only": false}, "/shared": "shared"},
            "mounts": {"/data": "/srv/data", "/out": {"source": "/srv/out", "read_only": false}},
            "ulimits": {"nofile": 1024, "core": 0, "memlock": -1, "nproc": {"soft": 10, "hard": 20}},
            "cap_add": ["NET_ADMIN", "cap_sys_ptrace"], "devices": ["/dev/fuse"], "gpus": ["GPU-1"],
            "read_only": true, "init": false,
        });
        assert_eq!(told(docker.clone()), Vec::<String>::new());
        let mut whole = options(docker.clone());
        whole.insert("image".to_owned(), json!("shop:1"));
        let read = definition(whole, &[]).unwrap();
        let written = serde_json::to_value(&read).unwrap();
        assert_eq!(written["docker"]["volumes"], docker["volumes"]);
        assert_eq!(written["docker"]["gpus"], docker["gpus"]);
    }

    #[test]
    fn every_mistake_is_told_at_its_key() {
        for (docker, place) in [
            (json!({"platform": "arm64"}), "platform is no platform"),
            (json!({"platform": "linux/arm64/v8/x"}), "platform is no platform"),
            (
                json!({"extra_hosts": {"db": "db.internal"}}),
                "extra_hosts|db \"db.internal\" is neither",
            ),
            (
                json!({"extra_hosts": {"a:b": "::1"}}),
                "extra_hosts|a:b is no host's name",
            ),
            (
                json!({"ulimits": {"nofiles": 1}}),
                "ulimits|nofiles unknown key \"nofiles\"; did you mean \"nofile\"?",
            ),
            (json!({"ulimits": {"rtprio": 1}}), "ulimits|rtprio unknown key"),
            (json!({"ulimits": {"core": -2}}), "ulimits|core must be 0"),
            (
                json!({"ulimits": {"core": {"soft": 2, "hard": 1}}}),
                "ulimits|core soft is more than hard",
            ),
            (
                json!({"ulimits": {"core": {"soft": -1, "hard": 1}}}),
                "ulimits|core soft is more than hard",
            ),
            (
                json!({"volumes": {"/a": "/srv"}}),
                "volumes|/a \"/srv\" is no name of a volume",
            ),
            (
                json!({"volumes": {"/a": "robata-realm-1"}}),
                "volumes|/a volumes called robata-",
            ),
            (json!({"volumes": {"a": "cache"}}), "volumes|a must be a whole path"),
            (json!({"volumes": {"/": "cache"}}), "volumes|/ must be a whole path"),
            (
                json!({"volumes": {"/run/robata": "cache"}}),
                "volumes|/run/robata /run/robata is the platform's",
            ),
            (
                json!({"tmpfs": {"/run/robata/x": "1Mi"}}),
                "tmpfs|/run/robata/x /run/robata is the platform's",
            ),
            (json!({"mounts": {"/a": "srv"}}), "mounts|/a \"srv\" is no whole path"),
            (
                json!({"mounts": {"/a": "/srv/../etc"}}),
                "mounts|/a \"/srv/../etc\" is no whole path",
            ),
            (
                json!({"mounts": {"/a": "/srv/"}}),
                "mounts|/a \"/srv/\" is no whole path",
            ),
            (
                json!({"mounts": {"/a": "/x"}, "volumes": {"/a": "vv"}}),
                "mounts|/a has something else mounted",
            ),
            (
                json!({"cap_add": ["NET-ADMIN"]}),
                "cap_add \"NET-ADMIN\" is no capability",
            ),
            (
                json!({"devices": ["/etc/passwd"]}),
                "devices \"/etc/passwd\" is no device",
            ),
            (
                json!({"devices": ["/dev/../etc/passwd"]}),
                "devices \"/dev/../etc/passwd\" is no device",
            ),
            (
                json!({"mount": {}}),
                "mount unknown key \"mount\"; did you mean \"mounts\"?",
            ),
            (json!({"volumes": {"/a": {"sorce": "x"}}}), "did you mean \"source\"?"),
            (json!({"gpus": 0}), "gpus invalid value"),
        ] {
            let told = told(docker.clone());
            assert_eq!(told.len(), 1, "{docker}: {told:?}");
            assert!(told[0].contains(place), "{place}\nis not in\n{}", told[0]);
        }
    }

    fn whole(more: Value) -> Result<(), Vec<String>> {
        let mut options = more.as_object().unwrap().clone();
        options.insert("image".to_owned(), json!("shop:1"));
        let told = |problem: crate::definition::Problem| format!("{} {}", problem.path.join("."), problem.code);
        match definition(options, &["x"]) {
            Ok(_) => Ok(()),
            Err(found) => Err(found.into_iter().map(told).collect()),
        }
    }

    #[test]
    fn a_level_of_security_keeps_out_what_it_excludes() {
        let caps = |level: &str, name: &str| whole(json!({"security": level, "docker": {"cap_add": [name]}}));
        assert_eq!(
            caps("restricted", "NET_ADMIN"),
            Err(vec!["x.docker.cap_add policy".to_owned()])
        );
        assert_eq!(
            caps("restricted", "ALL"),
            Err(vec!["x.docker.cap_add policy".to_owned()])
        );
        for fine in ["NET_BIND_SERVICE", "cap_net_bind_service"] {
            assert_eq!(caps("restricted", fine), Ok(()));
        }
        assert_eq!(caps("baseline", "NET_ADMIN"), Ok(()));
        for level in ["baseline", "restricted"] {
            let host = whole(json!({"security": level, "docker": {"network": "host"}}));
            assert_eq!(host, Err(vec!["x.docker.network policy".to_owned()]));
            let host = whole(json!({"security": level, "docker": {"networks": ["host"]}}));
            assert_eq!(host, Err(vec!["x.docker.networks policy".to_owned()]));
        }
        assert_eq!(
            whole(json!({"security": "privileged", "docker": {"network": "host"}})),
            Ok(())
        );
    }
}

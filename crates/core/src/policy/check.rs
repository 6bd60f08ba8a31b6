//! Whether a definition is within the policy: every refusal, with the setting that it is for.

use std::collections::BTreeMap;

use super::{Allowed, Containers, Max, Policy, Reference, glob, image_allowed};
use crate::{
    definition::{
        Definition, Problem, Security,
        docker::{self, Mounted, capability, is_path, is_volume},
        duration,
    },
    name::AppName,
};

/// What every container may join: nothing, and the engine's default network under its two names.
const ALWAYS: [&str; 3] = ["none", "default", "bridge"];
/// The capability that every level of security leaves a container (Pod Security Standards, "Restricted").
const ALWAYS_ADDED: &str = "NET_BIND_SERVICE";

/// Gathers refusals.
struct Refusals<'p> {
    policy: &'p Policy,
    found: Vec<Problem>,
}

impl Refusals<'_> {
    /// The path above this one that jobs may write, where the settings of mounts have one.
    fn writable_above(&self, key: &str, source: &str) -> Option<&str> {
        let mounts = &self.policy.containers.as_ref().filter(|_| key == "mounts")?.mounts;
        let above = mounts
            .iter()
            .find(|allowed| is_path(source) && links_below(allowed, source));
        above.map(|allowed| allowed.what.as_str())
    }

    fn add(&mut self, path: &[&str], what: impl std::fmt::Display, setting: &str) {
        let table = &self.policy.table;
        let dot = if table.is_empty() { "" } else { "." };
        self.found.push(Problem {
            path: path.iter().map(|&key| key.to_owned()).collect(),
            code: "policy",
            message: format!("{what} (setting {table}{dot}{setting})"),
        });
    }
}

impl Policy {
    /// Every refusal of a definition of `app`; paths begin at the definition, and each message names the setting.
    ///
    /// It judges the definition as [`Policy::bound`] leaves it.
    #[must_use]
    pub fn check(&self, app: &AppName, definition: &Definition) -> Vec<Problem> {
        let mut bounded = definition.clone();
        self.bound(&mut bounded);
        let mut refusals = Refusals {
            policy: self,
            found: Vec::new(),
        };
        if !self.apps.iter().any(|pattern| glob(pattern, app.as_str())) {
            refusals.add(
                &["executor"],
                format_args!("jobs of the app {app} may not run there"),
                "apps",
            );
        }
        most(&self.max, &bounded, &mut refusals);
        if let Some(containers) = &self.containers {
            within(containers, &bounded, &mut refusals);
        }
        refusals.found
    }
}

fn most(max: &Max, definition: &Definition, refusals: &mut Refusals<'_>) {
    let resources = &definition.resources;
    let asked = |value: Option<String>| value.unwrap_or_else(|| "no limit".to_owned());
    if let Some(most) = max.cpu
        && resources.cpu_at_most().is_none_or(|cpu| cpu > most)
    {
        let cpu = asked(resources.cpu_at_most().map(|cpu| cpu.to_string()));
        let key = if resources.cpu_limit.is_unset() {
            "cpu"
        } else {
            "cpu_limit"
        };
        refusals.add(
            &["resources", key],
            format_args!("{cpu} is more CPU than the {most} allowed"),
            "max.cpu",
        );
    }
    if let Some(most) = max.memory
        && resources.memory_at_most().is_none_or(|memory| memory > most)
    {
        let memory = asked(resources.memory_at_most().map(|memory| memory.to_string()));
        let key = if resources.memory_limit.is_unset() {
            "memory"
        } else {
            "memory_limit"
        };
        let words = format!("{memory} is more memory than the {most} allowed");
        refusals.add(&["resources", key], words, "max.memory");
    }
    if let Some(most) = max.timeout
        && definition.timeout.is_none_or(|timeout| timeout > most)
    {
        let timeout = asked(definition.timeout.map(duration::format));
        let words = format!("{timeout} is longer than the {} allowed", duration::format(most));
        refusals.add(&["timeout"], words, "max.timeout");
    }
    // Else what ignores SIGTERM would run on for as long as it likes.
    if let Some(most) = max.timeout
        && definition.grace_period > most
    {
        let grace = duration::format(definition.grace_period);
        let words = format!("{grace} is longer than the {} allowed", duration::format(most));
        refusals.add(&["grace_period"], words, "max.timeout");
    }
}

fn within(containers: &Containers, definition: &Definition, refusals: &mut Refusals<'_>) {
    let docker = &definition.docker;
    if let Some(image) = &definition.image {
        match Reference::read(image) {
            Some(reference)
                if containers
                    .images
                    .iter()
                    .any(|pattern| image_allowed(pattern, &reference)) => {}
            Some(_) => refusals.add(&["image"], format_args!("the image {image} is not allowed"), "images"),
            None => refusals.add(&["image"], format_args!("{image:?} is no image reference"), "images"),
        }
    }
    // What the level excludes, for a definition that was stored when nobody looked.
    for (path, code, message) in docker::across(definition) {
        refusals.found.push(Problem { path, code, message });
    }
    let first = docker.network.iter().map(|network| ("network", network));
    let more = docker.networks.iter().map(|network| ("networks", network));
    for (key, network) in first.chain(more) {
        if !network_allowed(&containers.networks, network) {
            let words = format!("the network {network:?} is not allowed");
            refusals.add(&["docker", key], words, "networks");
        }
    }
    outside(&docker.volumes, "volumes", refusals, |source, write| {
        let named = |allowed: &Allowed| glob(&allowed.what, source) && (allowed.write || !write);
        is_volume(source) && containers.volumes.iter().any(named)
    });
    outside(&docker.mounts, "mounts", refusals, |source, write| {
        is_path(source) && mount_allowed(&containers.mounts, source, write)
    });
    for device in &docker.devices {
        if !is_path(device) || !containers.devices.iter().any(|pattern| glob(pattern, device)) {
            refusals.add(
                &["docker", "devices"],
                format_args!("the device {device} is not allowed"),
                "devices",
            );
        }
    }
    for name in &docker.cap_add {
        let asked = capability(name);
        let listed = |allowed: &String| capability(allowed) == asked;
        if asked.as_deref() != Some(ALWAYS_ADDED) && (asked.is_none() || !containers.cap_add.iter().any(listed)) {
            let words = format!("the capability {name} is not allowed");
            refusals.add(&["docker", "cap_add"], words, "cap_add");
        }
    }
    if docker.gpus.is_some() && !containers.gpus {
        refusals.add(&["docker", "gpus"], "graphics processors are not allowed", "gpus");
    }
    if definition.security == Security::Privileged && !containers.privileged {
        refusals.add(&["security"], "security = \"privileged\" is not allowed", "privileged");
    }
}

/// What is mounted from outside the container; `allowed` is asked with the source and whether it is to be written.
fn outside(
    mounted: &BTreeMap<String, Mounted>,
    key: &str,
    refusals: &mut Refusals<'_>,
    allowed: impl Fn(&str, bool) -> bool,
) {
    for (path, Mounted { source, read_only }) in mounted {
        if allowed(source, !read_only) {
            continue;
        }
        let words = if !read_only && allowed(source, false) {
            format!("{source} is allowed read-only, and not to be written")
        } else if let Some(above) = refusals.writable_above(key, source) {
            format!("{source} may be a link to anywhere, since jobs can write to {above}: mount that itself")
        } else {
            format!("{source} is not allowed")
        };
        refusals.add(&["docker", key, path], words, key);
    }
}

/// Whether a path may be mounted: one that stands there, or is below one. But none that is below a path that jobs may write,
/// though it stands there, too: one of them may have put a symbolic link in its place, which the engine would follow to
/// anywhere on its machine.
fn mount_allowed(mounts: &[Allowed], source: &str, write: bool) -> bool {
    mounts
        .iter()
        .any(|allowed| allowed.holds(source) && (allowed.write || !write))
        && !mounts.iter().any(|allowed| links_below(allowed, source))
}

/// Whether a job that writes what is allowed could make this a link.
fn links_below(allowed: &Allowed, source: &str) -> bool {
    allowed.write && allowed.holds(source) && !allowed.is(source)
}

/// Whether a network is allowed. What is no plain name is an option of the engine (`container:x`, Podman's `ns:/path`),
/// and it and `host` are meant only where they stand in full: no `*` stands for them.
fn network_allowed(networks: &[String], network: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let name = network != "host" && !network.is_empty() && network.bytes().all(plain);
    ALWAYS.contains(&network)
        || networks
            .iter()
            .any(|pattern| pattern == network || (name && glob(pattern, network)))
}

#[cfg(test)]
mod tests;

//! From a spec to an order: what is asked for is done or refused, never silently ignored.

use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist};
use robata_core::{
    Format,
    definition::{Resources, Security},
    executor::{Prepare, Spec, label},
};

use crate::{
    cgroup::Engine,
    config::ProcessConfig,
    error::{Fault, Result},
    folder::is_name,
    order::{Ids, Order, Resource},
    thing::Thing,
};

/// The variable by which the processes of a thing are found if their supervisor is killed.
pub(crate) const MARK: &str = "ROBATA_THING";

/// Makes the order, or says what of the spec cannot be done here.
pub(crate) fn order(config: &ProcessConfig, engine: &Engine, thing: &Thing, request: &Prepare) -> Result<Order> {
    let (name, spec) = (request.name.as_str(), &request.spec);
    // As its labels say, for all of one attempt is in one format (PROTOCOL V1).
    let format = request.labels.get(label::FORMAT).and_then(|text| text.parse().ok());
    let format = format.map_or(Format::PREVIOUS, Format::new);
    let refused = |words: String| Err(Fault::Refused(words));
    if !is_name(name) {
        return refused(format!("{name:?} is no name of a thing ([a-z0-9-], at most 63)"));
    }
    if let Some(image) = &spec.image {
        return refused(format!(
            "a process has no image, and {image:?} never silently becomes one: choose another executor"
        ));
    }
    let argv: Vec<String> = [&spec.entrypoint, &spec.command]
        .into_iter()
        .flatten()
        .flatten()
        .cloned()
        .collect();
    if argv.first().is_none_or(String::is_empty) {
        return refused("there is no command to run: a process needs `command` or `entrypoint`".to_owned());
    }
    if argv.iter().any(|arg| arg.contains('\0')) {
        return refused("an argument contains a NUL byte".to_owned());
    }
    let secret = spec.secret_env.iter().map(|(name, value)| (name, value.expose()));
    let mut variables = spec
        .env
        .iter()
        .map(|(name, value)| (name, value.as_str()))
        .chain(secret);
    if let Some((name, _)) =
        variables.find(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'))
    {
        return refused(format!(
            "the variable {name:?} cannot be set: its name is empty or has a '=', or there is a NUL byte"
        ));
    }
    if let Some(folder) = spec
        .working_dir
        .as_deref()
        .filter(|folder| !Path::new(folder).is_absolute())
    {
        return refused(format!("the working folder {folder:?} is no absolute path"));
    }
    let user = user(spec)?;
    let mut environment = config.environment.clone();
    // The worker's own home is of no use to another user.
    if user.as_ref().is_some_and(|ids| ids.user != geteuid().as_raw()) {
        environment.remove("HOME");
    }
    environment
        .entry("HOME".to_owned())
        .or_insert_with(|| text(&thing.path("work")));
    environment.extend(spec.env.clone());
    let secret = spec.secret_env.iter();
    environment.extend(secret.map(|(name, value)| (name.clone(), value.expose().to_owned())));
    if let Some(name) = &spec.payload_file_env {
        environment.insert(name.clone(), text(&thing.path("payload")));
    }
    environment.insert(MARK.to_owned(), thing.handle.0.clone());
    let mut limits = Vec::new();
    limits.extend(spec.process.open_files.map(|count| (Resource::OpenFiles, count)));
    limits.extend(
        spec.process
            .cpu_time
            .map(|time| (Resource::CpuSeconds, time.as_secs().max(1))),
    );
    if let Some(memory) = spec.resources.memory_at_most().filter(|_| !engine.limits_memory()) {
        limits.push((Resource::AddressSpace, memory.bytes));
    }
    if spec.resources.cpu_at_most().is_some() && !engine.limits_cpu() {
        return refused(
            "CPU can be limited only by control groups, which cannot be written here; set `cpu_limit = \"none\"`"
                .to_owned(),
        );
    }
    if spec.resources.processes != Resources::default().processes && !engine.limits_processes() {
        return refused(
            "the number of processes can be limited only by control groups, which cannot be written here".to_owned(),
        );
    }
    Ok(Order {
        format,
        argv,
        environment,
        working_dir: spec.working_dir.as_ref().map(Into::into),
        user,
        limits,
        groups: engine.groups(&thing.handle, &spec.resources),
        grace_millis: u64::try_from(spec.grace_period.as_millis()).unwrap_or(u64::MAX),
    })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn user(spec: &Spec) -> Result<Option<Ids>> {
    let ids = spec.user.as_deref().map(ids).transpose()?;
    let will_be = ids.as_ref().map_or_else(|| geteuid().as_raw(), |ids| ids.user);
    if spec.security == Security::Privileged {
        return Err(Fault::Refused(
            "`security = \"privileged\"` is of containers: a process has what its user has".to_owned(),
        ));
    }
    if spec.security == Security::Restricted && will_be == 0 {
        return Err(Fault::Refused(
            "`security = \"restricted\"` does not run as root: set `user`".to_owned(),
        ));
    }
    match ids {
        Some(ids) if !geteuid().is_root() => {
            if ids.user == geteuid().as_raw() && ids.group == nix::unistd::getegid().as_raw() {
                return Ok(None);
            }
            Err(Fault::Refused(format!(
                "only root can run a process as another user: the worker is user {}, asked for is {}",
                geteuid(),
                spec.user.as_deref().unwrap_or_default()
            )))
        }
        ids => Ok(ids),
    }
}

/// Resolves `user[:group]`, by names or numbers.
fn ids(text: &str) -> Result<Ids> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let unknown = |what: &str, name: &str| Fault::Refused(format!("there is no {what} {name:?} on this machine"));
    let entry = match user.parse::<u32>() {
        Ok(id) => User::from_uid(Uid::from_raw(id)),
        Err(_) => User::from_name(user),
    }
    .map_err(Fault::io("look up the user", Path::new(user)))?;
    let id = match (&entry, user.parse::<u32>()) {
        (Some(entry), _) => entry.uid.as_raw(),
        // A number needs no name.
        (None, Ok(id)) => id,
        (None, Err(_)) => return Err(unknown("user", user)),
    };
    let gid = match group {
        None => entry.as_ref().map_or(id, |entry| entry.gid.as_raw()),
        Some(group) => match group.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => Group::from_name(group)
                .map_err(Fault::io("look up the group", Path::new(group)))?
                .ok_or_else(|| unknown("group", group))?
                .gid
                .as_raw(),
        },
    };
    let groups = match entry {
        Some(entry) => {
            let name = std::ffi::CString::new(entry.name).map_err(|_| unknown("user", user))?;
            getgrouplist(&name, Gid::from_raw(gid))
                .map_err(Fault::io("look up the groups of", Path::new(user)))?
                .into_iter()
                .map(Gid::as_raw)
                .collect()
        }
        None => vec![gid],
    };
    Ok(Ids {
        user: id,
        group: gid,
        groups,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let root = ids("root").unwrap();
        assert_eq!((root.user, root.group), (0, 0));
        assert_eq!(ids("0:0").unwrap().user, 0);
        let nameless = ids("54321").unwrap();
        assert_eq!(
            nameless,
            Ids {
                user: 54321,
                group: 54321,
                groups: vec![54321]
            }
        );
        assert_eq!(ids("54321:root").unwrap().group, 0);
        for wrong in ["", "no-such-user", "root:no-such-group", ":", "-1"] {
            assert!(matches!(ids(wrong), Err(Fault::Refused(_))), "{wrong}");
        }
    }
}

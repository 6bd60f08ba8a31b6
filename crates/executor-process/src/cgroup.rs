//! Control groups, version 1 or 2: limits of memory, CPU and processes, and a list of processes that none can leave.

use std::{
    fs,
    fs::{File, OpenOptions},
    io,
    io::Write,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use robata_core::{definition::Resources, executor::Handle};
use serde::{Deserialize, Serialize};

use crate::error::{Fault, Result};

/// The kernel's usual period, in microseconds; the least quota is 1 ms of it (Documentation/scheduler/sched-bwc).
const PERIOD: u64 = 100_000;
const LEAST_QUOTA: u64 = 1_000;

/// A probe takes less than a millisecond; what is so old was left.
const STALE: Duration = Duration::from_secs(60);

/// A group that is made for one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    pub(crate) path: PathBuf,
    /// File, value, and whether it must be there (a kernel without swap accounting has no file for it).
    pub(crate) settings: Vec<(String, String, bool)>,
    /// The file that counts kills for lack of memory, where memory is limited by this group.
    pub(crate) out_of_memory: Option<String>,
}

/// Where the groups of a controller are made.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Base {
    path: PathBuf,
    unified: bool,
    /// Whether it is the group that we were put into; others are somebody else's to arrange.
    own: bool,
}

/// What control groups can do here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Engine {
    processes: Option<Base>,
    memory: Option<Base>,
    cpu: Option<Base>,
}

impl Base {
    /// Whether groups below get this controller: in version 2 it has to be passed on to them. That is told to our own
    /// group alone: what the parent passes on, or the root, is for all groups of the machine, and systemd's to say.
    fn passes_on(&self, controller: &str) -> bool {
        if !self.unified {
            return true;
        }
        let control = self.path.join("cgroup.subtree_control");
        let passed_on = fs::read_to_string(&control).unwrap_or_default();
        passed_on.split_whitespace().any(|name| name == controller)
            || self.own && fs::write(&control, format!("+{controller}")).is_ok()
    }
}

impl Engine {
    /// Finds out by making a group and removing it.
    pub(crate) fn detect() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let find = |controller: &str, files: [&str; 2]| {
            candidates(&mounts, &own, controller)
                .into_iter()
                .find(|base| base.passes_on(controller) && probe(&base.path, files[usize::from(base.unified)]))
        };
        Self {
            processes: find("pids", ["pids.max", "pids.max"]),
            memory: find("memory", ["memory.limit_in_bytes", "memory.max"]),
            cpu: find("cpu", ["cpu.cfs_quota_us", "cpu.max"]),
        }
    }

    pub(crate) fn limits_memory(&self) -> bool {
        self.memory.is_some()
    }

    pub(crate) fn limits_cpu(&self) -> bool {
        self.cpu.is_some()
    }

    pub(crate) fn limits_processes(&self) -> bool {
        self.processes.is_some()
    }

    /// The groups of a thing.
    pub(crate) fn groups(&self, handle: &Handle, resources: &Resources) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut add = |base: &Base, settings: Vec<(&str, String, bool)>, out_of_memory: Option<&str>| {
            let path = base.path.join(format!("robata-{handle}"));
            let at = groups.iter().position(|group| group.path == path).unwrap_or_else(|| {
                groups.push(Group {
                    path,
                    settings: Vec::new(),
                    out_of_memory: None,
                });
                groups.len() - 1
            });
            let settings = settings
                .into_iter()
                .map(|(name, value, must)| (name.to_owned(), value, must));
            groups[at].settings.extend(settings);
            if let Some(file) = out_of_memory {
                groups[at].out_of_memory = Some(file.to_owned());
            }
        };
        if let Some(base) = &self.processes {
            add(base, vec![("pids.max", resources.processes.to_string(), true)], None);
        }
        if let (Some(base), Some(memory)) = (&self.memory, resources.memory_at_most()) {
            let bytes = memory.bytes.to_string();
            if base.unified {
                let settings = vec![("memory.max", bytes, true), ("memory.swap.max", "0".to_owned(), false)];
                add(base, settings, Some("memory.events"));
            } else {
                let settings = vec![
                    ("memory.limit_in_bytes", bytes.clone(), true),
                    ("memory.memsw.limit_in_bytes", bytes, false),
                ];
                add(base, settings, Some("memory.oom_control"));
            }
        }
        if let (Some(base), Some(cpu)) = (&self.cpu, resources.cpu_at_most()) {
            let quota = (u64::from(cpu.millis) * PERIOD / 1000).max(LEAST_QUOTA);
            if base.unified {
                add(base, vec![("cpu.max", format!("{quota} {PERIOD}"), true)], None);
            } else {
                let settings = vec![
                    ("cpu.cfs_period_us", PERIOD.to_string(), true),
                    ("cpu.cfs_quota_us", quota.to_string(), true),
                ];
                add(base, settings, None);
            }
        }
        groups
    }
}

impl Group {
    /// Makes the group with its limits, and answers the file by which a process enters it.
    pub(crate) fn make(&self) -> Result<File> {
        match fs::create_dir(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Fault::io("make the control group", &self.path)(error));
            }
            _ => {}
        }
        for (name, value, must) in &self.settings {
            let file = self.path.join(name);
            match fs::write(&file, value) {
                Err(error) if *must => return Err(Fault::io("set", &file)(error)),
                _ => {}
            }
        }
        let procs = self.path.join("cgroup.procs");
        OpenOptions::new()
            .write(true)
            .open(&procs)
            .map_err(Fault::io("open", &procs))
    }

    /// Whether the kernel killed one of its processes for lack of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let Some(file) = &self.out_of_memory else {
            return false;
        };
        let counts = fs::read_to_string(self.path.join(file)).unwrap_or_default();
        counts
            .lines()
            .filter_map(|line| line.strip_prefix("oom_kill "))
            .any(|count| count.trim().parse::<u64>().is_ok_and(|count| count > 0))
    }
}

/// The processes of a group; none where there is no such group.
pub(crate) fn members(path: &Path) -> Vec<i32> {
    let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    // A process of another pid namespace is shown as 0: it is out of our reach.
    procs
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
        .collect()
}

/// Kills all at once, where the kernel can (version 2, from Linux 5.14 on). `false` where it cannot.
pub(crate) fn kill_at_once(path: &Path) -> bool {
    let kill = OpenOptions::new().write(true).open(path.join("cgroup.kill"));
    kill.and_then(|mut file| file.write_all(b"1")).is_ok()
}

/// Removes an empty group; the kernel may take a moment to notice that it is empty.
pub(crate) fn remove(path: &Path) {
    for pause in [0, 1, 5, 20, 100] {
        sleep(Duration::from_millis(pause));
        match fs::remove_dir(path) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {}
            _ => return,
        }
    }
}

/// Where groups of this controller might be made: below our own, beside it, below the root.
fn candidates(mounts: &str, own: &str, controller: &str) -> Vec<Base> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(3);
        let (Some((_, right)), Some(root), Some(point)) = (line.split_once(" - "), fields.next(), fields.next()) else {
            continue;
        };
        let mut kind = right.split(' ');
        let (kind, options) = (kind.next().unwrap_or_default(), kind.nth(1).unwrap_or_default());
        let unified = kind == "cgroup2";
        if !(unified || kind == "cgroup" && options.split(',').any(|option| option == controller)) {
            continue;
        }
        let ours = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let this = if unified {
                controllers.is_empty()
            } else {
                controllers.split(',').any(|name| name == controller)
            };
            this.then(|| {
                path.strip_prefix(root.trim_end_matches('/'))
                    .unwrap_or(path)
                    .trim_matches('/')
            })
        });
        let point = Path::new(point);
        let own = point.join(ours.unwrap_or_default());
        let mut add = |path: &Path, own: bool| {
            if path.starts_with(point) && !found.iter().any(|base: &Base| base.path == path) {
                found.push(Base {
                    path: path.to_owned(),
                    unified,
                    own,
                });
            }
        };
        add(&own, true);
        if unified {
            own.parent().into_iter().for_each(|parent| add(parent, false));
            add(point, false);
        }
    }
    found
}

fn probe(base: &Path, file: &str) -> bool {
    const PREFIX: &str = "robata-probe-";
    // One that was killed in the middle of this left its group.
    for left in fs::read_dir(base).into_iter().flatten().flatten() {
        let age = left
            .metadata()
            .and_then(|metadata| metadata.modified())
            .map(|at| at.elapsed().unwrap_or_default());
        if left.file_name().to_string_lossy().starts_with(PREFIX) && age.is_ok_and(|age| age > STALE) {
            remove(&left.path());
        }
    }
    let path = base.join(format!("{PREFIX}{}", uuid::Uuid::new_v4().simple()));
    if fs::create_dir(&path).is_err() {
        return false;
    }
    let works = path.join(file).exists() && path.join("cgroup.procs").exists();
    remove(&path);
    works
}

#[cfg(test)]
mod tests {
    use robata_core::definition::{Cpu, Memory};

    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup rw
32 30 0:30 / /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory
33 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
";
    const OWN: &str = "9:memory:/a/b\n8:cpu,cpuacct:/\n0::/user.slice/robata.service\n";

    fn paths(found: &[Base]) -> Vec<&str> {
        found.iter().map(|base| base.path.to_str().unwrap()).collect()
    }

    #[test]
    fn groups_are_looked_for_below_our_own_then_beside_it_then_below_the_root() {
        let unified = [
            "/sys/fs/cgroup/unified/user.slice/robata.service",
            "/sys/fs/cgroup/unified/user.slice",
            "/sys/fs/cgroup/unified/",
        ];
        let memory = candidates(HYBRID, OWN, "memory");
        assert_eq!(paths(&memory)[3..], ["/sys/fs/cgroup/memory/a/b"]);
        assert_eq!(paths(&memory)[..2], unified[..2]);
        assert_eq!(
            paths(&candidates(HYBRID, OWN, "cpu"))[3..],
            ["/sys/fs/cgroup/cpu,cpuacct/"]
        );
        assert!(candidates("", "", "pids").is_empty());
    }

    #[test]
    fn only_our_own_group_is_told_to_pass_a_controller_on() {
        let root = tempfile::tempdir().unwrap();
        let point = root.path().display();
        let mounts = format!("31 30 0:27 / {point} rw - cgroup2 cgroup rw\n");
        fs::create_dir_all(root.path().join("user.slice/robata.service")).unwrap();
        let found = candidates(&mounts, OWN, "memory");
        let control = |base: &Base| base.path.join("cgroup.subtree_control");
        assert_eq!(found.len(), 3);
        assert!(found[0].passes_on("memory"));
        assert_eq!(fs::read_to_string(control(&found[0])).unwrap(), "+memory");
        for others in &found[1..] {
            assert!(!others.passes_on("memory"));
            assert!(!control(others).exists(), "{others:?}");
            // What is passed on already may be used.
            fs::write(control(others), "cpu memory\n").unwrap();
            assert!(others.passes_on("memory"));
            assert!(!others.passes_on("pids"));
            assert_eq!(fs::read_to_string(control(others)).unwrap(), "cpu memory\n");
        }
    }

    #[test]
    fn in_version_2_one_group_has_all_limits() {
        let base = Some(Base {
            path: "/base".into(),
            unified: true,
            own: true,
        });
        let engine = Engine {
            processes: base.clone(),
            memory: base.clone(),
            cpu: base,
        };
        let resources = Resources {
            memory: Some(Memory { bytes: 64 << 20 }),
            cpu: Some(Cpu { millis: 1500 }),
            processes: 7,
            ..Resources::default()
        };
        let groups = engine.groups(&Handle("h".to_owned()), &resources);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].path, Path::new("/base/robata-h"));
        let set: Vec<_> = groups[0]
            .settings
            .iter()
            .map(|(name, value, _)| (name.as_str(), value.as_str()))
            .collect();
        let expected = [
            ("pids.max", "7"),
            ("memory.max", "67108864"),
            ("memory.swap.max", "0"),
            ("cpu.max", "150000 100000"),
        ];
        assert_eq!(set, expected);
        assert_eq!(groups[0].out_of_memory.as_deref(), Some("memory.events"));
    }

    #[test]
    fn a_kill_for_lack_of_memory_is_read_from_either_versions_file() {
        let folder = tempfile::tempdir().unwrap();
        for (file, none, some) in [
            (
                "memory.events",
                "low 0\noom 3\noom_kill 0\n",
                "oom 1\noom_kill 2\noom_group_kill 0\n",
            ),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 1\noom_kill 0\n",
                "under_oom 0\noom_kill 1\n",
            ),
        ] {
            let group = Group {
                path: folder.path().into(),
                settings: Vec::new(),
                out_of_memory: Some(file.to_owned()),
            };
            fs::write(folder.path().join(file), none).unwrap();
            assert!(!group.ran_out_of_memory());
            fs::write(folder.path().join(file), some).unwrap();
            assert!(group.ran_out_of_memory());
        }
    }
}

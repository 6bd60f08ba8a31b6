//! A control group by hand: what the kernel itself takes to put a process into one, which is part of each start.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where groups are made: of version 1's controller for processes, else of version 2.
const PARENTS: [&str; 2] = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];

/// A group of the bench, removed when it is dropped.
#[derive(Debug)]
pub(super) struct Group {
    folder: PathBuf,
}

impl Group {
    /// `None` where none can be made.
    pub(super) fn new() -> Option<Self> {
        let made = |parent: &&str| {
            let folder = Path::new(parent).join(format!("robata-bench-{}", std::process::id()));
            fs::create_dir(&folder).ok()?;
            let group = Self { folder };
            group.members().exists().then_some(group)
        };
        PARENTS.iter().find_map(made)
    }

    /// A command that enters the group and then becomes `date`.
    pub(super) fn date(&self) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo 0 > \"$0\" && exec date +%s%N"])
            .arg(self.members())
            .stdin(Stdio::null());
        command
    }

    fn members(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that has not been waited for would hold it; there is none.
        let _removed = fs::remove_dir(&self.folder);
    }
}

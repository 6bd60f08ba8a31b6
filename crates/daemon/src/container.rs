//! Whether this process's end would end its jobs: processes in a container end with its first process.

use robata_settings::{ExecutorSettings, OnSigterm, Settings};

/// The machine's own PID namespace: the kernel's constant PROC_PID_INIT_INO (include/linux/proc_ns.h).
const MACHINE: &str = "pid:[4026531836]";
/// Programs that outlive what they start, so that a container goes on without us.
const OUTLIVES: [&str; 6] = ["systemd", "init", "runit", "s6-svscan", "supervisord", "openrc-init"];

/// What SIGTERM means here: as set, else leaving, but draining where our end would end our jobs.
#[must_use]
pub fn on_sigterm(settings: &Settings) -> OnSigterm {
    settings.worker.on_sigterm.unwrap_or(match end_ends_jobs(settings) {
        Some(_) => OnSigterm::Drain,
        None => OnSigterm::Leave,
    })
}

/// Why this process's end would end its jobs; `None` where it would not.
#[must_use]
pub fn end_ends_jobs(settings: &Settings) -> Option<String> {
    let mut executors = settings.executors.iter();
    let (name, _) = executors.find(|(_, chosen)| matches!(chosen, ExecutorSettings::Process(_)))?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let first = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
    judge(std::process::id(), &namespace.to_string_lossy(), first.trim())
        .map(|why| format!("the jobs of executor {name} are processes beside this one, and {why}"))
}

fn judge(pid: u32, namespace: &str, first: &str) -> Option<String> {
    if pid == 1 {
        return Some("this is the first process of its container: all others end with it".to_owned());
    }
    let ends = namespace != MACHINE && !OUTLIVES.contains(&first);
    ends.then(|| format!("this is a container that ends with `{first}`, which ends with this process"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_containers_first_process_ends_its_jobs() {
        assert!(judge(1, "pid:[4026532000]", "robata-worker").is_some());
        assert!(judge(7, "pid:[4026532000]", "tini").is_some());
    }

    #[test]
    fn on_a_machine_and_below_an_init_jobs_go_on() {
        assert_eq!(judge(700, MACHINE, "anything"), None);
        assert_eq!(judge(700, "pid:[4026532000]", "systemd"), None);
    }

    #[test]
    fn what_is_set_wins_and_containers_of_their_own_do_not_end_with_us() {
        let mut settings = Settings::default();
        assert_eq!(end_ends_jobs(&settings), None);
        assert_eq!(on_sigterm(&settings), OnSigterm::Leave);
        settings.worker.on_sigterm = Some(OnSigterm::Drain);
        assert_eq!(on_sigterm(&settings), OnSigterm::Drain);
    }
}

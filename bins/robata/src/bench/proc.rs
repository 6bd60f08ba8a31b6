//! What the kernel says of a process: memory and CPU time (proc(5)).

use std::time::Duration;

use anyhow::Context as _;

/// A process's memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Memory {
    /// Resident now, in MiB.
    pub(super) rss_mib: f64,
    /// The most that was ever resident, in MiB.
    pub(super) peak_mib: f64,
}

/// The memory of this process.
pub(super) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the server is gone")?;
    parse_memory(&text).context("/proc/PID/status does not tell the memory")
}

fn parse_memory(status: &str) -> Option<Memory> {
    let mib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kib / 1024.0)
    };
    Some(Memory {
        rss_mib: mib("VmRSS:")?,
        peak_mib: mib("VmHWM:")?,
    })
}

/// The CPU time that this process has used, all its threads together.
pub(super) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the server is gone")?;
    let ticks = parse_ticks(&text).context("/proc/PID/stat does not tell the CPU time")?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    let per_second = u32::try_from(per_second)?.max(1);
    Ok(Duration::from_secs(ticks) / per_second)
}

/// utime + stime: fields 14 and 15; the name before them is in parentheses and may hold anything.
fn parse_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 31 11 0 0 20 0 1 0 100 1 1";
        assert_eq!(parse_ticks(stat), Some(42));
        let status = "Name:\tx\nVmHWM:\t    4096 kB\nVmRSS:\t    2048 kB\n";
        assert_eq!(
            parse_memory(status),
            Some(Memory {
                rss_mib: 2.0,
                peak_mib: 4.0
            })
        );
        assert!(memory(std::process::id()).unwrap().rss_mib > 0.0);
        cpu_time(std::process::id()).unwrap();
    }
}

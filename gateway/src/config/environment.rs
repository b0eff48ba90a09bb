//! What the machine and whoever started us decide, read once.

use std::path::PathBuf;
use std::thread::available_parallelism;

/// The facts that defaults and checks depend on. Tests state their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Cores this process may run on (`sched_getaffinity`, cgroup quota).
    pub cores: usize,
    /// Memory this process may use: the machine's, or the cgroup's if that is less.
    pub memory_bytes: u64,
    /// The first directory in `$STATE_DIRECTORY`, which systemd sets for `StateDirectory=`.
    pub state_directory: Option<PathBuf>,
    /// What the kernel calls this host; may be empty.
    pub host_name: String,
}

impl Environment {
    /// Reads this machine. What cannot be read counts as one core or as unlimited memory: then
    /// a check is missing, but nothing that works is refused.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self {
            cores: available_parallelism().map_or(1, usize::from),
            memory_bytes: machine_memory_bytes().min(cgroup_memory_bytes()),
            state_directory: state_directory(std::env::var("STATE_DIRECTORY").ok().as_deref()),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }
}

fn machine_memory_bytes() -> u64 {
    std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| parse_meminfo(&text))
        .unwrap_or(u64::MAX)
}

fn cgroup_memory_bytes() -> u64 {
    std::fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(u64::MAX)
}

/// The `MemTotal` line of `/proc/meminfo`, in bytes.
fn parse_meminfo(text: &str) -> Option<u64> {
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

/// systemd separates several directories with colons.
fn state_directory(variable: Option<&str>) -> Option<PathBuf> {
    let first = variable?.split(':').next()?;
    (!first.is_empty()).then(|| PathBuf::from(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_total_memory_in_bytes() {
        let text = "MemTotal:       16384 kB\nMemFree:  1 kB\n";
        assert_eq!(parse_meminfo(text), Some(16_777_216));
        assert_eq!(parse_meminfo("MemFree: 1 kB\n"), None);
        assert_eq!(parse_meminfo("MemTotal: many kB\n"), None);
    }

    #[test]
    fn takes_the_first_state_directory() {
        assert_eq!(state_directory(Some("/var/lib/a:/var/lib/b")), Some("/var/lib/a".into()));
        assert_eq!(state_directory(Some("")), None);
        assert_eq!(state_directory(None), None);
    }

    #[test]
    fn this_machine_has_a_core_and_memory() {
        let environment = Environment::of_this_machine();
        assert!(environment.cores >= 1);
        assert!(environment.memory_bytes > 1_048_576);
    }
}

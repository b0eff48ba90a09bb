//! The machine a run was made on.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::watch::{self, Watch};

/// A machine that generated load, and what else is known of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Host {
    /// Its name.
    pub(crate) hostname: String,
    /// The kernel: release and version.
    pub(crate) kernel: String,
    /// The processor's model.
    pub(crate) cpu: String,
    /// Cores online.
    pub(crate) cores: u32,
    /// Memory, bytes.
    pub(crate) memory_bytes: u64,
    /// What the control group of loadgen may use of it, bytes; `null`: all.
    pub(crate) memory_limit_bytes: Option<u64>,
    /// File descriptors loadgen may open (`ulimit -n`).
    pub(crate) descriptors_max: u64,
    /// Memory of the kernel and work of the cores, once a second.
    pub(crate) points: Vec<HostPoint>,
}

/// What a machine used up to a moment. It is the whole machine's, with all that runs on it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct HostPoint {
    /// Seconds from the start of the run.
    pub(crate) at_s: f64,
    /// Memory of the kernel: slabs (sockets, files, inodes), stacks, page tables, TCP buffers;
    /// bytes. On loopback it has both ends of each connection.
    pub(crate) kernel_bytes: u64,
    /// Time in which cores did something, since boot, all cores together, seconds.
    pub(crate) busy_s: f64,
    /// Of that, time taken away by the hypervisor, seconds.
    pub(crate) stolen_s: f64,
}

impl Host {
    /// This machine. What cannot be read is empty or 0.
    pub(crate) fn read() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let first_line = |path| read(path).lines().next().unwrap_or_default().trim().to_owned();
        let limits = read("/proc/self/limits");
        Self {
            hostname: first_line("/proc/sys/kernel/hostname"),
            kernel: format!(
                "{} {}",
                first_line("/proc/sys/kernel/osrelease"),
                first_line("/proc/sys/kernel/version")
            ),
            cpu: cpu_model(&read("/proc/cpuinfo")),
            cores: std::thread::available_parallelism()
                .map_or(0, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX)),
            memory_bytes: watch::memory_total_bytes(),
            memory_limit_bytes: memory_limit_bytes(&read("/proc/self/cgroup")),
            descriptors_max: descriptors(&limits),
            points: Vec::new(),
        }
    }
}

impl HostPoint {
    /// What this machine used up to now, at `at_s` of the run.
    pub(crate) fn read(at_s: f64) -> Self {
        let usage = watch::machine();
        Self {
            at_s,
            kernel_bytes: usage.kernel_bytes,
            busy_s: usage.busy.as_secs_f64(),
            stolen_s: usage.stolen.as_secs_f64(),
        }
    }
}

impl super::Process {
    /// A process on the machine `hostname` or elsewhere, nothing seen of it yet.
    pub(crate) fn new(role: super::Role, watch: &Watch, hostname: &str) -> Self {
        Self {
            role,
            pid: watch.pid(),
            command: watch.command(),
            hostname: watch.elsewhere().unwrap_or(hostname).to_owned(),
            points: Vec::new(),
        }
    }
}

/// The model of the first core: `model name` on x86-64; on aarch64 there is only a part number.
fn cpu_model(cpuinfo: &str) -> String {
    let named = |key: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    named("model name").or_else(|| named("CPU part")).unwrap_or_default()
}

/// The soft limit in `/proc/PID/limits`. Source: proc_pid_limits(5).
fn descriptors(limits: &str) -> u64 {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_ascii_whitespace().next());
    soft.and_then(|limit| limit.parse().ok()).unwrap_or(0)
}

/// The limit of the control group named in `/proc/self/cgroup`, version 2 or 1.
fn memory_limit_bytes(cgroup: &str) -> Option<u64> {
    let of = |prefix: &str| cgroup.lines().find_map(|line| line.split_once(prefix)).map(|l| l.1);
    let second = of("0::").map(|group| format!("/sys/fs/cgroup{group}/memory.max"));
    let first =
        of(":memory:").map(|group| format!("/sys/fs/cgroup/memory{group}/memory.limit_in_bytes"));
    let limits = [second, first].into_iter().flatten();
    let mut limits = limits.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    // Version 1 says "all" with the highest number of whole pages.
    limits.find(|limit: &u64| *limit < u64::MAX / 2 - 4_096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: Fast (R) CPU\n"), "Fast (R) CPU");
        assert_eq!(cpu_model(""), "");
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            20000                20000                files\n";
        assert_eq!((descriptors(limits), descriptors("")), (20_000, 0));
    }

    #[test]
    fn this_machine_has_cores_memory_and_a_kernel() {
        let host = Host::read();
        assert!(host.cores > 0 && host.memory_bytes > 0 && !host.kernel.is_empty(), "{host:?}");
        assert!(host.descriptors_max > 0, "{host:?}");
        assert!(HostPoint::read(0.0).busy_s > 0.0);
    }
}

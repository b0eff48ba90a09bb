//! What a process has used so far, read from `/proc`.

use std::{fs, io, path::PathBuf, time::Duration};

use serde::Serialize;

/// Ticks a second of the times in `/proc/PID/stat`: `USER_HZ`, 100 on every Linux that runs
/// io_uring on x86-64 and aarch64. Source: proc_pid_stat(5), fields 14 and 15.
const TICKS_PER_SECOND: u64 = 100;

/// Usage of a process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    /// User and system time of all its threads, in steps of 10 ms.
    #[serde(skip)]
    pub(crate) cpu: Duration,
    /// Resident memory (VmRSS), bytes.
    pub(crate) rss_bytes: u64,
    /// Resident memory that is neither file nor shared (RssAnon), bytes.
    pub(crate) rss_anonymous_bytes: u64,
    /// Open file descriptors; 0 if we may not look.
    pub(crate) fds: u64,
    /// Context switches of its living threads, voluntary and not.
    pub(crate) context_switches: u64,
    /// Living threads.
    pub(crate) threads: u64,
}

/// A process to read the usage of.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    directory: PathBuf,
}

impl Watch {
    /// The process `pid`.
    pub(crate) fn process(pid: u32) -> Self {
        Self { directory: PathBuf::from(format!("/proc/{pid}")) }
    }

    /// This process.
    pub(crate) fn this_process() -> Self {
        Self { directory: PathBuf::from("/proc/self") }
    }

    /// Its usage now.
    ///
    /// # Errors
    ///
    /// `NotFound` when the process is gone, `InvalidData` when `/proc` is not what it was.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let stat = fs::read_to_string(self.directory.join("stat"))?;
        let status = fs::read_to_string(self.directory.join("status"))?;
        let cpu = cpu_of_stat(&stat).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "no times in /proc/PID/stat")
        })?;
        let mut usage = Usage {
            cpu,
            rss_bytes: kilobytes(&status, "VmRSS:").unwrap_or(0),
            rss_anonymous_bytes: kilobytes(&status, "RssAnon:").unwrap_or(0),
            fds: self.fds(),
            ..Usage::default()
        };
        for thread in fs::read_dir(self.directory.join("task"))?.flatten() {
            // A thread may end between the listing and the reading.
            if let Ok(status) = fs::read_to_string(thread.path().join("status")) {
                usage.threads += 1;
                usage.context_switches += number(&status, "voluntary_ctxt_switches:").unwrap_or(0)
                    + number(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
            }
        }
        Ok(usage)
    }

    /// What the process is called: its command line, else its name, else nothing.
    pub(crate) fn command(&self) -> String {
        let line = fs::read(self.directory.join("cmdline")).unwrap_or_default();
        let words: Vec<_> = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(String::from_utf8_lossy)
            .collect();
        if words.is_empty() {
            let name = fs::read_to_string(self.directory.join("comm")).unwrap_or_default();
            name.trim().to_owned()
        } else {
            words.join(" ")
        }
    }

    /// Open descriptors. Since Linux 6.2 the size of the folder says so, and nobody has to list it.
    fn fds(&self) -> u64 {
        let folder = self.directory.join("fd");
        match fs::metadata(&folder).map_or(0, |metadata| metadata.len()) {
            0 => fs::read_dir(folder).map_or(0, |fds| fds.count() as u64),
            count => count,
        }
    }
}

/// What the kernel holds and the cores do, of the whole machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MachineUsage {
    /// Memory of the kernel itself: slabs (sockets, files, inodes), stacks, page tables, and the
    /// buffers of TCP; bytes.
    pub(crate) kernel_bytes: u64,
    /// Time in which cores did something, since boot, all cores together.
    pub(crate) busy: Duration,
    /// Of that, time taken away by the hypervisor.
    pub(crate) stolen: Duration,
}

/// Memory of this machine, bytes; 0 if it cannot be read.
pub(crate) fn memory_total_bytes() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    kilobytes(&memory, "MemTotal:").unwrap_or(0)
}

/// The usage of this machine now; 0 for what cannot be read.
pub(crate) fn machine() -> MachineUsage {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let kernel = ["Slab:", "KernelStack:", "PageTables:"];
    let kernel: u64 = kernel.iter().filter_map(|key| kilobytes(&memory, key)).sum();
    let (busy, stolen) = cores_of_stat(&read("/proc/stat"));
    MachineUsage {
        kernel_bytes: kernel + tcp_pages(&read("/proc/net/sockstat")) * PAGE_BYTES,
        busy,
        stolen,
    }
}

/// Bytes of a page, in which `/proc/net/sockstat` counts. Source: proc_pid_net(5), tcp(7).
const PAGE_BYTES: u64 = 4_096;

/// Pages of TCP buffers: `mem` in the line `TCP:`.
fn tcp_pages(sockstat: &str) -> u64 {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap_or_default();
    let mut words = line.split_ascii_whitespace().skip_while(|word| *word != "mem");
    words.nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0)
}

/// Busy and stolen time from the line `cpu` of `/proc/stat`: user, nice, system, idle, iowait, irq,
/// softirq, steal. Source: proc_stat(5).
fn cores_of_stat(stat: &str) -> (Duration, Duration) {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> =
        line.split_ascii_whitespace().take(8).map(|field| field.parse().unwrap_or(0)).collect();
    let time = |ticks: u64| Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND);
    let [user, nice, system, _, _, irq, softirq, steal] = ticks[..] else {
        return Default::default();
    };
    (time(user + nice + system + irq + softirq + steal), time(steal))
}

/// Field 14 plus 15 of `/proc/PID/stat`; the name (field 2) may hold spaces and brackets.
fn cpu_of_stat(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = user.checked_add(system)?;
    Some(Duration::from_millis(ticks.checked_mul(1_000)? / TICKS_PER_SECOND))
}

/// The number in a line of `/proc/PID/status`.
fn number(status: &str, key: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

/// The bytes in a line of `/proc/PID/status` that is in kB (of 1,024 bytes).
fn kilobytes(status: &str, key: &str) -> Option<u64> {
    number(status, key)?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_times_behind_any_process_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 123 45 7 8 20 0 3 0 99 1 2 3";
        assert_eq!(cpu_of_stat(stat), Some(Duration::from_millis(1_680)));
        assert_eq!(cpu_of_stat("42 (x) S 1"), None);
    }

    #[test]
    fn reads_lines_of_status() {
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nvoluntary_ctxt_switches:\t7\n\
                      nonvoluntary_ctxt_switches:\t5\n";
        assert_eq!(kilobytes(status, "VmRSS:"), Some(2 << 20));
        assert_eq!(number(status, "voluntary_ctxt_switches:"), Some(7));
        assert_eq!(number(status, "nonvoluntary_ctxt_switches:"), Some(5));
        assert_eq!(number(status, "RssAnon:"), None);
    }

    #[test]
    fn reads_the_machine() {
        let sockstat =
            "sockets: used 27\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 3\nUDP: inuse 0 mem 9\n";
        assert_eq!((tcp_pages(sockstat), tcp_pages("")), (3, 0));
        let stat = "cpu  100 10 40 9999 9999 20 30 50 7 7\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(cores_of_stat(stat), (Duration::from_millis(2_500), Duration::from_millis(500)));
        assert_eq!(cores_of_stat("cpu 1 2"), (Duration::ZERO, Duration::ZERO));
        assert!(machine().kernel_bytes > 0);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Watch::this_process().usage().unwrap();
        assert!(usage.rss_bytes > 0 && usage.fds > 2 && usage.threads > 0, "{usage:?}");
    }

    #[test]
    fn a_process_that_is_gone_is_not_found() {
        let error = Watch::process(u32::MAX).usage().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

//! What a process has used so far: read from `/proc`, or asked for at its `/metrics`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use ureq::{Agent, http::Uri};

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

/// The broker's process, if it is to be watched.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct WatchArguments {
    /// Process whose CPU time, memory, descriptors and context switches to report
    #[arg(long, value_name = "PID", conflicts_with = "watch_metrics")]
    watch_pid: Option<u32>,

    /// The same from a broker on another machine, which tells them at this http:// address
    ///
    /// In the text format of Prometheus, by the names that all its libraries use:
    /// `process_cpu_seconds_total` and `process_resident_memory_bytes`, and where they are there
    /// `process_open_fds` and `process_threads`.
    #[arg(long, value_name = "URL", value_parser = metrics_address)]
    watch_metrics: Option<Uri>,
}

impl WatchArguments {
    /// What is to be watched.
    pub(crate) fn watch(&self) -> Option<Watch> {
        let metrics = self.watch_metrics.clone().map(Watch::metrics);
        metrics.or_else(|| self.watch_pid.map(Watch::process))
    }

    /// The same, looked at once.
    ///
    /// # Errors
    ///
    /// When there is nothing to be seen.
    pub(crate) fn reach(&self) -> anyhow::Result<Option<Watch>> {
        let watch = self.watch();
        if let Some(watch) = &watch {
            watch.usage().with_context(|| {
                format!("cannot read the usage of the process to watch, {}", watch.command())
            })?;
        }
        Ok(watch)
    }
}

fn metrics_address(text: &str) -> Result<Uri, String> {
    let address: Uri = text.parse().map_err(|fault| format!("{fault}"))?;
    if address.scheme_str() != Some("http") || address.host().is_none() {
        return Err("expected http://HOST:PORT/metrics".to_owned());
    }
    Ok(address)
}

/// A process to read the usage of.
#[derive(Clone, Debug)]
pub(crate) struct Watch(Source);

#[derive(Clone, Debug)]
enum Source {
    /// The folder of a process under `/proc`.
    Proc { pid: u32, folder: PathBuf },
    /// Where it tells.
    Metrics { agent: Agent, address: Uri },
}

/// An answer that takes longer is given up: there is one a second.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);
/// The longest answer that is read. A gateway's is some 200 kB.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

impl Watch {
    /// The process `pid` of this machine.
    pub(crate) fn process(pid: u32) -> Self {
        Self(Source::Proc { pid, folder: PathBuf::from(format!("/proc/{pid}")) })
    }

    /// This process.
    pub(crate) fn this_process() -> Self {
        Self::process(std::process::id())
    }

    fn metrics(address: Uri) -> Self {
        let agent = Agent::config_builder().timeout_global(Some(ANSWER_TIMEOUT)).build();
        Self(Source::Metrics { agent: agent.into(), address })
    }

    /// Its process id; 0 on another machine.
    pub(crate) fn pid(&self) -> u32 {
        match &self.0 {
            Source::Proc { pid, .. } => *pid,
            Source::Metrics { .. } => 0,
        }
    }

    /// The name of its machine, if that is not this one.
    pub(crate) fn elsewhere(&self) -> Option<&str> {
        match &self.0 {
            Source::Proc { .. } => None,
            Source::Metrics { address, .. } => address.host(),
        }
    }

    /// What it is called: its command line, else its name, else nothing; where it tells its metrics.
    pub(crate) fn command(&self) -> String {
        let folder = match &self.0 {
            Source::Proc { folder, .. } => folder,
            Source::Metrics { address, .. } => return address.to_string(),
        };
        let line = fs::read(folder.join("cmdline")).unwrap_or_default();
        let words: Vec<_> = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(String::from_utf8_lossy)
            .collect();
        if words.is_empty() {
            let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
            name.trim().to_owned()
        } else {
            words.join(" ")
        }
    }

    /// Its usage now.
    ///
    /// # Errors
    ///
    /// `NotFound` when the process is gone, `InvalidData` when `/proc` or its metrics are not what
    /// was expected, what the network says when it does not answer.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        match &self.0 {
            Source::Proc { folder, .. } => usage_of_proc(folder),
            Source::Metrics { agent, address } => {
                let answer = agent.get(address).call().map_err(ureq::Error::into_io)?;
                let mut body = answer.into_body();
                let text = body.with_config().limit(ANSWER_BYTES_MAX).read_to_string();
                usage_of_metrics(&text.map_err(ureq::Error::into_io)?)
            }
        }
    }
}

fn usage_of_proc(folder: &Path) -> io::Result<Usage> {
    let stat = fs::read_to_string(folder.join("stat"))?;
    let status = fs::read_to_string(folder.join("status"))?;
    let cpu = cpu_of_stat(&stat).ok_or_else(|| invalid("no times in /proc/PID/stat".to_owned()))?;
    let mut usage = Usage {
        cpu,
        rss_bytes: kilobytes(&status, "VmRSS:").unwrap_or(0),
        rss_anonymous_bytes: kilobytes(&status, "RssAnon:").unwrap_or(0),
        fds: fds(folder),
        ..Usage::default()
    };
    for thread in fs::read_dir(folder.join("task"))?.flatten() {
        // A thread may end between the listing and the reading.
        if let Ok(status) = fs::read_to_string(thread.path().join("status")) {
            usage.threads += 1;
            usage.context_switches += number(&status, "voluntary_ctxt_switches:").unwrap_or(0)
                + number(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
        }
    }
    Ok(usage)
}

/// Open descriptors. Since Linux 6.2 the size of the folder says so, and nobody has to list it.
fn fds(folder: &Path) -> u64 {
    let folder = folder.join("fd");
    match fs::metadata(&folder).map_or(0, |metadata| metadata.len()) {
        0 => fs::read_dir(folder).map_or(0, |fds| fds.count() as u64),
        count => count,
    }
}

/// From what Prometheus' libraries tell of a process. Source: Prometheus, "Writing client libraries",
/// "Process metrics".
fn usage_of_metrics(text: &str) -> io::Result<Usage> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        let value: f64 = line.split_ascii_whitespace().next()?.parse().ok()?;
        Some(value).filter(|value| value.is_finite() && *value >= 0.0)
    };
    let needed = |name: &str| {
        value(name).ok_or_else(|| invalid(format!("there is no {name} among its metrics")))
    };
    let count = |value: f64| Duration::from_secs_f64(value.min(1e15)).as_secs();
    Ok(Usage {
        cpu: Duration::from_secs_f64(needed("process_cpu_seconds_total")?.min(1e15)),
        rss_bytes: count(needed("process_resident_memory_bytes")?),
        fds: value("process_open_fds").map_or(0, count),
        threads: value("process_threads").map_or(0, count),
        ..Usage::default()
    })
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
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
    fn reads_the_metrics_of_a_process() {
        let text = "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 12.34\n\
                    process_resident_memory_bytes 1.5e6 1700000000000\nprocess_open_fds_x 9\n";
        let usage = usage_of_metrics(text).unwrap();
        assert_eq!((usage.cpu, usage.rss_bytes), (Duration::from_millis(12_340), 1_500_000));
        assert_eq!((usage.fds, usage.threads), (0, 0));
        let fault = usage_of_metrics("process_cpu_seconds_total NaN\n").unwrap_err();
        assert!(fault.to_string().contains("no process_cpu_seconds_total"), "{fault}");
    }

    #[test]
    fn only_http_is_asked_for_metrics() {
        assert!(metrics_address("http://[::1]:18083/metrics").is_ok());
        for text in ["127.0.0.1:18083", "https://gateway/metrics", "http://"] {
            assert!(metrics_address(text).is_err(), "{text}");
        }
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

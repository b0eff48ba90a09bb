//! What the kernel says of this process, under the names every Prometheus client uses.

use super::exposition::{Exposition, Kind};
use rustix::param::{clock_ticks_per_second, page_size};
use std::fs;

/// Facts from `/proc`; what cannot be read is left out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    pub(super) threads: u64,
    /// Seconds since the Unix epoch.
    pub(super) started_at_s: f64,
    pub(super) open_descriptors: Option<u64>,
    pub(super) descriptors_max: Option<u64>,
}

impl Process {
    /// Of this process.
    #[expect(clippy::cast_precision_loss, reason = "seconds and ticks")]
    pub(super) fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name, in parentheses, may hold blanks. Source: proc_pid_stat(5), fields from 3 on.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks_per_s = clock_ticks_per_second() as f64;
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let booted_at_s = boot.lines().find_map(|line| line.strip_prefix("btime "));
        let booted_at_s: f64 = booted_at_s?.trim().parse().ok()?;
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let open = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) as f64 / ticks_per_s,
            threads: field(20)?,
            started_at_s: booted_at_s + field(22)? as f64 / ticks_per_s,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_size() as u64,
            open_descriptors: open_descriptors(),
            descriptors_max: open.and_then(|line| line.split_whitespace().next()?.parse().ok()),
        })
    }

    pub(super) fn write(&self, out: &mut Exposition) {
        let gauges = [
            ("process_resident_memory_bytes", "Memory in RAM.", Some(self.resident_bytes)),
            ("process_virtual_memory_bytes", "Address space.", Some(self.virtual_bytes)),
            ("process_threads", "Threads.", Some(self.threads)),
            ("process_open_fds", "Open file descriptors.", self.open_descriptors),
            ("process_max_fds", "File descriptors that may be open.", self.descriptors_max),
        ];
        out.family("process_cpu_seconds_total", Kind::Counter, "User and system CPU time.");
        out.sample(&[], self.cpu_seconds);
        let help = "When the process started, seconds since the Unix epoch.";
        out.family("process_start_time_seconds", Kind::Gauge, help);
        out.sample(&[], self.started_at_s);
        for (name, help, value) in gauges {
            if let Some(value) = value {
                out.family(name, Kind::Gauge, help);
                out.sample(&[], value);
            }
        }
    }
}

/// From 6.2 on the size of the directory is their number; before, it is 0, and with a million of them
/// counting would hold this thread up.
fn open_descriptors() -> Option<u64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    (size > 0).then_some(size)
}

//! Judges facts of a host for one configuration.

use super::host::{Disk, Host, Nic};
use super::{Examination, Finding, Severity};
use crate::config::{Config, Durability, Environment};
use crate::shard::requirements::{
    KERNEL_MIN, LOCKED_BYTES_PER_SHARD, RESERVED_DESCRIPTORS, version,
};
use std::time::Duration;

/// Fewer connections than this need nothing of the host's network settings.
const FEW_CONNECTIONS: u64 = 4_096;
/// A sync that takes longer is what clients wait for.
const SLOW_SYNC: Duration = Duration::from_millis(10);
/// Clocks that are read without a system call or a device.
const FAST_CLOCKS: &[&str] =
    &["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "xen"];
/// Where the package has it, and where the repository does.
const HOST_SH: &str =
    "/usr/share/doc/mqtt-gateway/examples/host.sh --apply (tuning/ in the repository)";

/// Everything but what servers say.
pub(super) fn judge(host: &Host, config: &Config, environment: &Environment) -> Examination {
    let mut judge = Judge {
        host,
        config,
        environment,
        out: Examination { findings: Vec::new(), good: Vec::new() },
    };
    judge.kernel();
    judge.open_files();
    judge.locked_memory();
    judge.memory();
    judge.cores();
    judge.queues();
    judge.conntrack();
    judge.clock();
    judge.clock_synchronisation();
    judge.governor();
    for nic in &host.nics {
        judge.nic(nic);
    }
    if let Some(disk) = &host.disk {
        judge.disk(disk);
    }
    judge.out
}

struct Judge<'a> {
    host: &'a Host,
    config: &'a Config,
    environment: &'a Environment,
    out: Examination,
}

impl Judge<'_> {
    fn connections(&self) -> u64 {
        self.config.limits.connections_max.into()
    }

    fn find(
        &mut self,
        severity: Severity,
        subject: &'static str,
        [found, wanted, why, change]: [String; 4],
    ) {
        self.out.findings.push(Finding { subject, severity, found, wanted, why, change });
    }

    fn good(&mut self, text: String) {
        self.out.good.push(text);
    }

    fn kernel(&mut self) {
        let (major, minor) = KERNEL_MIN;
        let kernel = &self.host.kernel;
        match version(kernel) {
            Some(found) if found < KERNEL_MIN => self.find(
                Severity::Must,
                "kernel",
                [
                    format!("Linux {kernel}"),
                    format!("{major}.{minor} or later is needed"),
                    "the engine receives with io_uring in ways older kernels do not have"
                        .to_owned(),
                    "install a newer kernel (Debian 12 has 6.1)".to_owned(),
                ],
            ),
            _ => self.good(format!("kernel: Linux {kernel}")),
        }
        match &self.host.io_uring_fault {
            Some(fault) => self.find(
                Severity::Must,
                "io_uring",
                [
                    fault.clone(),
                    "it has to be available".to_owned(),
                    "the gateway does not start without it".to_owned(),
                    "as said; in a container its seccomp profile, too".to_owned(),
                ],
            ),
            None => self.good("io_uring: available".to_owned()),
        }
    }

    fn open_files(&mut self) {
        let needed = self.connections() + RESERVED_DESCRIPTORS;
        let Some(limit) = self.host.open_files else {
            return self.good("open files: no limit".to_owned());
        };
        if limit >= needed {
            return self.good(format!("open files: {limit}, {needed} are enough"));
        }
        let taken = limit.saturating_sub(RESERVED_DESCRIPTORS);
        let mut change = format!(
            "LimitNOFILE={needed} in the systemd unit, or `ulimit -Hn {needed}` before the start; or \
             lower limits.connections_max to {taken}"
        );
        if let Some(nr_open) = self.host.nr_open.filter(|nr_open| *nr_open < needed) {
            change += &format!("; and first `sysctl fs.nr_open={needed}` (it is {nr_open})");
        }
        self.find(
            Severity::Should,
            "open_files",
            [
                format!("hard limit {limit}"),
                format!("{needed} are needed for limits.connections_max = {}", self.connections()),
                format!("each connection is a descriptor: more than {taken} are refused"),
                change,
            ],
        );
    }

    fn locked_memory(&mut self) {
        let needed = u64::from(self.config.shards) * LOCKED_BYTES_PER_SHARD;
        match self.host.locked_bytes {
            Some(limit) if limit < needed => self.find(
                Severity::Must,
                "locked_memory",
                [
                    format!("hard limit {limit} bytes"),
                    format!("{needed} bytes are needed for {} shards", self.config.shards),
                    "rings are locked memory, 512 KiB a shard: the gateway does not start"
                        .to_owned(),
                    format!(
                        "LimitMEMLOCK={needed} in the systemd unit, or `ulimit -Hl {}`",
                        needed / 1_024
                    ),
                ],
            ),
            Some(limit) => self.good(format!("locked memory: {limit} bytes, {needed} are enough")),
            None => self.good("locked memory: no limit".to_owned()),
        }
    }

    fn memory(&mut self) {
        let bounds = self.config.memory_bounds();
        let needed = bounds.fixed_bytes.saturating_add(bounds.idle_connections_bytes);
        let has = self.environment.memory_bytes;
        if has == u64::MAX {
            return;
        }
        if needed <= has {
            return self.good(format!(
                "memory: {} MiB of {} MiB when all are connected and idle",
                needed >> 20,
                has >> 20
            ));
        }
        let per_connection = bounds.idle_connections_bytes / self.connections().max(1);
        let fits = has.saturating_sub(bounds.fixed_bytes) / per_connection.max(1);
        self.find(
            Severity::Should,
            "memory",
            [
                format!("{} MiB", has >> 20),
                format!(
                    "{} MiB for limits.connections_max idle connections and the buffers",
                    needed >> 20
                ),
                format!(
                    "an idle connection takes some {per_connection} bytes, most of it in the kernel"
                ),
                format!("add memory, or lower limits.connections_max to {fits}"),
            ],
        );
    }

    fn cores(&mut self) {
        let (shards, cores) = (usize::from(self.config.shards), self.environment.cores);
        if shards <= cores {
            return self.good(format!("cores: {cores} for {shards} shards"));
        }
        self.find(
            Severity::Should,
            "cores",
            [
                format!("{cores} cores"),
                format!("{shards} for as many shards"),
                "shards that share a core wait for each other, and none is pinned".to_owned(),
                format!("shards = {cores}, or allow the process more cores"),
            ],
        );
    }

    fn queues(&mut self) {
        if self.connections() <= FEW_CONNECTIONS {
            return;
        }
        let backlog = u64::from(self.config.limits.backlog);
        let accept = "in a reconnect storm handshakes that find the accept queue full are dropped, and \
                      tried again a second later";
        let handshakes = "beyond it the kernel answers with SYN cookies, which lose TCP options such as \
                          window scaling";
        let settings = [
            ("accept_queue", "net.core.somaxconn", self.host.somaxconn, accept),
            ("syn_queue", "net.ipv4.tcp_max_syn_backlog", self.host.syn_backlog, handshakes),
        ];
        for (subject, key, value, why) in settings {
            match value {
                Some(value) if value < backlog => self.find(
                    Severity::Should,
                    subject,
                    [
                        format!("{key} = {value}"),
                        format!("{backlog}, as limits.backlog"),
                        why.to_owned(),
                        format!("`sysctl {key}={backlog}`; {HOST_SH} does it for good"),
                    ],
                ),
                Some(value) => self.good(format!("{key}: {value}")),
                None => {}
            }
        }
    }

    /// A table that nothing fills is no limit.
    fn conntrack(&mut self) {
        let (Some(max), Some(count)) = (self.host.conntrack_max, self.host.conntrack_count) else {
            return;
        };
        let wanted = self.connections() + self.connections() / 5;
        if count == 0 || max >= wanted {
            return self.good(format!("conntrack: {count} of {max} tracked"));
        }
        self.find(Severity::Should, "conntrack", [
            format!("net.netfilter.nf_conntrack_max = {max}, {count} in use"),
            format!("{wanted}, a fifth more than limits.connections_max"),
            "this host's firewall tracks connections; the table full, new ones are dropped".to_owned(),
            format!("`sysctl net.netfilter.nf_conntrack_max={wanted}`, or do not track the MQTT ports"),
        ]);
    }

    fn clock(&mut self) {
        let Some(clock) = &self.host.clocksource else { return };
        if FAST_CLOCKS.contains(&clock.as_str()) {
            return self.good(format!("clock: {clock}"));
        }
        self.find(
            Severity::Should,
            "clock",
            [
                format!("clock source {clock}"),
                "tsc, or the hypervisor's own (kvm-clock)".to_owned(),
                "each turn of a shard's loop reads the clock; this one takes microseconds"
                    .to_owned(),
                "see `dmesg | grep -i clocksource` for why the kernel gave up tsc".to_owned(),
            ],
        );
    }

    /// What compares this clock with that of another machine needs it right: tokens, and JetStream.
    fn clock_synchronisation(&mut self) {
        match self.host.clock_is_synchronised {
            None => {}
            Some(true) => self.good("clock synchronisation: on".to_owned()),
            Some(false) => {
                let is_compared = self.config.auth.knows_tokens() || !self.config.nats.is_empty();
                let severity = if is_compared { Severity::Should } else { Severity::Consider };
                self.find(severity, "clock_synchronisation", [
                    "the kernel says that nothing keeps its clock right (adjtimex: STA_UNSYNC)".to_owned(),
                    "synchronised by NTP, PTP or the hypervisor".to_owned(),
                    "sessions and messages that expire while the gateway is down, tokens (exp), certificates \
                     and what several gateways say of one session are judged by this clock"
                        .to_owned(),
                    "`apt-get install chrony`, or `timedatectl set-ntp true` for systemd-timesyncd".to_owned(),
                ]);
            }
        }
    }

    fn governor(&mut self) {
        let slow: Vec<&str> = self.host.governors.iter().map(String::as_str).collect();
        if slow.is_empty() {
            return;
        }
        if slow == ["performance"] {
            return self.good("governor: performance".to_owned());
        }
        self.find(
            Severity::Consider,
            "governor",
            [
                format!("CPU frequency governors: {}", slow.join(", ")),
                "performance".to_owned(),
                "shards sleep between messages, and a core that has slowed down wakes late"
                    .to_owned(),
                format!("`cpupower frequency-set --governor performance`; {HOST_SH} does it"),
            ],
        );
    }

    fn nic(&mut self, nic: &Nic) {
        let (name, queues, shards) = (&nic.name, nic.receive_queues, self.config.shards);
        if shards > 1 && queues == 1 && !nic.is_steered {
            return self.find(Severity::Consider, "nic", [
                format!("{name} has one receive queue, and packets are not steered"),
                "a queue a core, or Receive Packet Steering".to_owned(),
                "one core does the network work for all shards".to_owned(),
                format!("`ethtool -L {name} combined N` if it can have more, else write the mask of the \
                         cores to /sys/class/net/{name}/queues/rx-0/rps_cpus; {HOST_SH} does it"),
            ]);
        }
        if queues > 1 && nic.interrupt_cores.len() == 1 {
            return self.find(
                Severity::Consider,
                "nic",
                [
                    format!("all interrupts of {name} go to core {}", nic.interrupt_cores.concat()),
                    "its queues spread over the cores".to_owned(),
                    "one core does the network work for all shards".to_owned(),
                    "run irqbalance, or set /proc/irq/*/smp_affinity_list".to_owned(),
                ],
            );
        }
        self.good(format!("nic: {name} has {queues} receive queues"));
    }

    fn disk(&mut self, disk: &Disk) {
        if self.config.durability == Durability::Memory {
            return;
        }
        let directory = disk.directory.display();
        if disk.is_read_only {
            return self.find(
                Severity::Must,
                "disk",
                [
                    format!("{directory} is mounted read-only"),
                    "a disk that can be written".to_owned(),
                    "the log and the session store are there".to_owned(),
                    "choose another data directory (--data)".to_owned(),
                ],
            );
        }
        let volatile = ["tmpfs", "ramfs"].contains(&disk.filesystem.as_str());
        if volatile && self.config.durability == Durability::Fsync {
            self.find(Severity::Must, "disk", [
                format!("{directory} is on {}", disk.filesystem),
                "a disk".to_owned(),
                "durability = \"fsync\" promises what is acknowledged to survive a power cut, and \
                 memory does not".to_owned(),
                "choose another data directory (--data), or durability = \"memory\"".to_owned(),
            ]);
        }
        if disk.filesystem.starts_with("nfs") || disk.filesystem == "cifs" {
            self.find(
                Severity::Should,
                "disk",
                [
                    format!("{directory} is on {}", disk.filesystem),
                    "a local disk".to_owned(),
                    "acknowledgements wait for the network, and locks may not hold".to_owned(),
                    "choose another data directory (--data)".to_owned(),
                ],
            );
        }
        let retention = self.config.limits.retention_bytes;
        if disk.available_bytes < retention {
            self.find(Severity::Should, "disk_space", [
                format!("{} MiB free in {directory}", disk.available_bytes >> 20),
                format!("{} MiB, limits.retention_bytes", retention >> 20),
                "with the disk full nothing is acknowledged; at retention_bytes only what nobody needs \
                 any more goes".to_owned(),
                format!("free some, or lower limits.retention_bytes to {}", disk.available_bytes / 10 * 9),
            ]);
        } else {
            self.good(format!(
                "disk space: {} MiB free in {directory}",
                disk.available_bytes >> 20
            ));
        }
        if self.config.durability == Durability::Fsync
            && let Some(sync) = disk.sync
        {
            let took = format!("{:.1} ms for 4 KiB and fdatasync", sync.as_secs_f64() * 1_000.0);
            match sync > SLOW_SYNC {
                true => self.find(Severity::Consider, "disk_sync", [
                    took,
                    "below 10 ms; a disk with power-loss protection takes less than 1 ms".to_owned(),
                    "each QoS 1 and 2 acknowledgement waits for a sync".to_owned(),
                    match disk.is_rotational {
                        Some(true) => {
                            "it calls itself a rotating disk, which a virtual one does on whatever it \
                             is: use a solid one"
                        }
                        _ => "use a faster disk, or durability = \"interval\" if its promise will do",
                    }
                    .to_owned(),
                ]),
                false => self.good(format!("disk sync: {took}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::super::config::Request;
    use super::*;

    fn environment() -> Environment {
        Environment {
            cores: 4,
            memory_bytes: 64 << 30,
            state_directory: None,
            host_name: "host".to_owned(),
        }
    }

    fn config(flags: &[&str]) -> Config {
        let arguments = std::iter::once("gateway").chain(flags.iter().copied());
        match Request::from_command_line(arguments, &environment()) {
            Request::Run(config) => *config,
            other => panic!("{other:?}"),
        }
    }

    /// A host that lacks nothing.
    fn fit() -> Host {
        Host {
            kernel: "6.1.0-18-amd64".to_owned(),
            open_files: Some(1_048_576),
            locked_bytes: Some(64 << 20),
            nr_open: Some(1_048_576),
            somaxconn: Some(65_535),
            syn_backlog: Some(65_535),
            clocksource: Some("tsc".to_owned()),
            clock_is_synchronised: Some(true),
            governors: vec!["performance".to_owned()],
            nics: vec![Nic {
                name: "eth0".to_owned(),
                receive_queues: 4,
                is_steered: false,
                interrupt_cores: vec!["0".to_owned(), "1".to_owned()],
            }],
            disk: Some(Disk {
                directory: "/var/lib/gateway".into(),
                filesystem: "ext4".to_owned(),
                available_bytes: 1 << 40,
                is_read_only: false,
                is_rotational: Some(false),
                sync: Some(Duration::from_micros(500)),
            }),
            ..Host::default()
        }
    }

    #[track_caller]
    fn check(
        flags: &[&str],
        change: impl FnOnce(&mut Host),
        expected: &[(&str, Severity)],
    ) -> String {
        let mut host = fit();
        change(&mut host);
        let examination = judge(&host, &config(flags), &environment());
        let found: Vec<_> =
            examination.findings.iter().map(|one| (one.subject, one.severity)).collect();
        assert_eq!(found, expected, "{}", examination.to_text());
        examination.to_text()
    }

    fn disk_of(host: &mut Host) -> &mut Disk {
        host.disk.as_mut().expect("a fit host has one")
    }

    #[test]
    fn a_fit_host_has_nothing_to_change() {
        let text = check(&[], |_| {}, &[]);
        assert!(text.ends_with("0 must, 0 should, 0 consider\n"), "{text}");
    }

    #[test]
    fn each_shortcoming_is_named_once_with_what_to_do() {
        use Severity::{Consider, Must, Should};
        let text = check(&[], |host| host.open_files = Some(20_000), &[("open_files", Should)]);
        assert!(
            text.contains("hard limit 20000") && text.contains("LimitNOFILE=1000256"),
            "{text}"
        );
        assert!(text.contains("limits.connections_max to 19744"), "{text}");
        check(&[], |host| host.kernel = "5.15.0".to_owned(), &[("kernel", Must)]);
        let fault = "io_uring is not available";
        check(&[], |host| host.io_uring_fault = Some(fault.to_owned()), &[("io_uring", Must)]);
        check(&[], |host| host.locked_bytes = Some(1 << 20), &[("locked_memory", Must)]);
        check(&["--shards", "5"], |_| {}, &[("cores", Should)]);
        check(&[], |host| host.somaxconn = Some(4_096), &[("accept_queue", Should)]);
        check(&[], |host| host.syn_backlog = Some(2_048), &[("syn_queue", Should)]);
        check(&[], |host| host.clocksource = Some("hpet".to_owned()), &[("clock", Should)]);
        let drifts = |host: &mut Host| host.clock_is_synchronised = Some(false);
        check(&[], drifts, &[("clock_synchronisation", Consider)]);
        check(&["--nats", "a=nats://127.0.0.1"], drifts, &[("clock_synchronisation", Should)]);
        check(&[], |host| host.clock_is_synchronised = None, &[]);
        check(&[], |host| host.governors = vec!["powersave".to_owned()], &[("governor", Consider)]);
        check(&[], |host| disk_of(host).filesystem = "tmpfs".to_owned(), &[("disk", Must)]);
        check(&[], |host| disk_of(host).is_read_only = true, &[("disk", Must)]);
        check(&[], |host| disk_of(host).available_bytes = 1 << 30, &[("disk_space", Should)]);
        let slow = Some(Duration::from_millis(30));
        check(&[], |host| disk_of(host).sync = slow, &[("disk_sync", Consider)]);
        let many = ["--limit", "connections_max=16000000"];
        let enough = |host: &mut Host| host.open_files = None;
        check(&many, enough, &[("memory", Should)]);
    }

    #[test]
    fn a_table_of_connections_counts_only_where_it_is_used() {
        let tracking = |count| {
            move |host: &mut Host| {
                (host.conntrack_max, host.conntrack_count) = (Some(262_144), Some(count));
            }
        };
        check(&[], tracking(0), &[]);
        check(&[], tracking(12), &[("conntrack", Severity::Should)]);
        check(&["--limit", "connections_max=100000"], tracking(12), &[]);
    }

    #[test]
    fn one_queue_matters_only_to_several_shards() {
        let single = |host: &mut Host| host.nics[0].receive_queues = 1;
        check(&[], single, &[("nic", Severity::Consider)]);
        check(&["--shards", "1"], single, &[]);
        let steered = |host: &mut Host| {
            (host.nics[0].receive_queues, host.nics[0].is_steered) = (1, true);
        };
        check(&[], steered, &[]);
        let on_one = |host: &mut Host| host.nics[0].interrupt_cores.truncate(1);
        check(&[], on_one, &[("nic", Severity::Consider)]);
    }

    #[test]
    fn what_is_not_configured_is_not_asked_for() {
        let few = ["--limit", "connections_max=1000"];
        let small = |host: &mut Host| {
            (host.open_files, host.somaxconn) = (Some(20_000), Some(4_096));
        };
        check(&few, small, &[]);
        check(&["--durability", "memory"], |host| disk_of(host).available_bytes = 0, &[]);
    }
}

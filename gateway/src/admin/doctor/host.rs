//! Facts of a host, read from below a root that a test can make up. `None` and empty: not there, or
//! cannot be read; nothing is concluded from that.

use crate::config::Config;
use crate::shard::{clock_status, requirements};
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{Resource, getrlimit};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    pub(super) kernel: String,
    /// Why io_uring cannot be used, with what to change.
    pub(super) io_uring_fault: Option<String>,
    /// Hard limits; `None` for no limit.
    pub(super) open_files: Option<u64>,
    pub(super) locked_bytes: Option<u64>,
    pub(super) nr_open: Option<u64>,
    pub(super) somaxconn: Option<u64>,
    pub(super) syn_backlog: Option<u64>,
    pub(super) conntrack_max: Option<u64>,
    /// Connections tracked now; 0 where the module is there and has nothing to do.
    pub(super) conntrack_count: Option<u64>,
    pub(super) clocksource: Option<String>,
    /// Something keeps the clock right.
    pub(super) clock_is_synchronised: Option<bool>,
    /// Of cores that have one, each once.
    pub(super) governors: Vec<String>,
    pub(super) nics: Vec<Nic>,
    pub(super) disk: Option<Disk>,
}

/// A network interface that is up and has a device behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Nic {
    pub(super) name: String,
    pub(super) receive_queues: usize,
    /// Receive Packet Steering spreads packets of a queue over cores.
    pub(super) is_steered: bool,
    /// Cores that its interrupts go to, as the kernel writes sets; empty where that is not known.
    pub(super) interrupt_cores: Vec<String>,
}

/// Where the data directory is, or would be.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) directory: PathBuf,
    /// As in /proc/mounts.
    pub(super) filesystem: String,
    pub(super) available_bytes: u64,
    pub(super) is_read_only: bool,
    pub(super) is_rotational: Option<bool>,
    /// The middle one of a few.
    pub(super) sync: Option<Duration>,
}

impl Host {
    /// Reads everything; the limits of this process are those of whoever starts it.
    pub(super) fn read(root: &Path, config: &Config) -> Self {
        let number = |path: &str| read(root, path)?.parse::<u64>().ok();
        let uname = rustix::system::uname();
        Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            io_uring_fault: requirements::io_uring().err().map(|error| error.to_string()),
            open_files: getrlimit(Resource::Nofile).maximum,
            locked_bytes: getrlimit(Resource::Memlock).maximum,
            nr_open: number("proc/sys/fs/nr_open"),
            somaxconn: number("proc/sys/net/core/somaxconn"),
            syn_backlog: number("proc/sys/net/ipv4/tcp_max_syn_backlog"),
            conntrack_max: number("proc/sys/net/netfilter/nf_conntrack_max"),
            conntrack_count: number("proc/sys/net/netfilter/nf_conntrack_count"),
            clocksource: read(
                root,
                "sys/devices/system/clocksource/clocksource0/current_clocksource",
            ),
            clock_is_synchronised: clock_status::is_synchronised(),
            governors: governors(root),
            nics: nics(root),
            disk: disk(root, &config.data),
        }
    }
}

fn read(root: &Path, path: &str) -> Option<String> {
    Some(fs::read_to_string(root.join(path)).ok()?.trim().to_owned())
}

fn names(folder: PathBuf) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn governors(root: &Path) -> Vec<String> {
    let folder = "sys/devices/system/cpu";
    let governor = |core: &String| read(root, &format!("{folder}/{core}/cpufreq/scaling_governor"));
    let mut governors: Vec<String> = names(root.join(folder)).iter().filter_map(governor).collect();
    governors.sort();
    governors.dedup();
    governors
}

fn nics(root: &Path) -> Vec<Nic> {
    let nic = |name: String| {
        let folder = format!("sys/class/net/{name}");
        let is_real = root.join(&folder).join("device").exists();
        if !is_real || read(root, &format!("{folder}/operstate"))? != "up" {
            return None;
        }
        let queues = names(root.join(&folder).join("queues"));
        let receive: Vec<&String> =
            queues.iter().filter(|queue| queue.starts_with("rx-")).collect();
        let is_steered = receive.iter().any(|queue| {
            let cores = read(root, &format!("{folder}/queues/{queue}/rps_cpus"));
            cores.is_some_and(|cores| {
                cores.contains(|digit: char| digit.is_ascii_hexdigit() && digit != '0')
            })
        });
        let interrupts = names(root.join(&folder).join("device/msi_irqs"));
        let cores = interrupts.iter().filter_map(|interrupt| {
            read(root, &format!("proc/irq/{interrupt}/effective_affinity_list"))
        });
        let mut interrupt_cores: Vec<String> = cores.filter(|cores| !cores.is_empty()).collect();
        interrupt_cores.sort();
        interrupt_cores.dedup();
        Some(Nic { receive_queues: receive.len(), name, is_steered, interrupt_cores })
    };
    names(root.join("sys/class/net")).into_iter().filter_map(nic).collect()
}

/// Of the data directory, or of the nearest folder above that exists.
fn disk(root: &Path, data: &Path) -> Option<Disk> {
    let data = std::path::absolute(data).ok()?;
    let directory = data.ancestors().find(|folder| folder.is_dir())?.to_owned();
    let filesystem = statvfs(&directory).ok()?;
    let device = fs::metadata(&directory).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let of_disk = format!("sys/dev/block/{major}:{minor}/queue/rotational");
    // A partition has no queue of its own.
    let of_parent = format!("sys/dev/block/{major}:{minor}/../queue/rotational");
    let rotational = read(root, &of_disk).or_else(|| read(root, &of_parent));
    Some(Disk {
        filesystem: filesystem_of(&read(root, "proc/mounts").unwrap_or_default(), &directory),
        available_bytes: filesystem.f_bavail.saturating_mul(filesystem.f_frsize),
        is_read_only: filesystem.f_flag.contains(StatVfsMountFlags::RDONLY),
        is_rotational: rotational.map(|text| text == "1"),
        sync: sync_time(&directory),
        directory,
    })
}

/// The type of the last mount that is the longest prefix of `directory`.
fn filesystem_of(mounts: &str, directory: &Path) -> String {
    let mount = |line: &str| {
        let mut fields = line.split(' ');
        let (place, kind) = (fields.nth(1)?, fields.next()?);
        directory.starts_with(place).then(|| (place.len(), kind.to_owned()))
    };
    mounts
        .lines()
        .filter_map(mount)
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind)
        .unwrap_or_default()
}

/// How long the middle one of a few small writes with `fdatasync` takes.
#[expect(clippy::disallowed_methods, reason = "a measurement of the disk, not of a message")]
fn sync_time(directory: &Path) -> Option<Duration> {
    const WRITES: usize = 15;
    let path = directory.join(format!(".gateway-doctor-{}", std::process::id()));
    let mut file = File::options().write(true).create_new(true).open(&path).ok()?;
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let begun = Instant::now();
        let written = file.write_all(&[0; 4_096]).and_then(|()| file.sync_data());
        if written.is_err() {
            break;
        }
        times.push(begun.elapsed());
    }
    // What cannot be removed is a small file, named for what it was.
    let _ = fs::remove_file(&path);
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("doctor-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn network_interfaces_are_read_with_their_queues_and_interrupts() {
        let root = Root::new(
            "nics",
            &[
                ("sys/class/net/eth0/operstate", "up\n"),
                ("sys/class/net/eth0/device/msi_irqs/31", ""),
                ("sys/class/net/eth0/device/msi_irqs/32", ""),
                ("sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,00000000\n"),
                ("sys/class/net/eth0/queues/rx-1/rps_cpus", "0\n"),
                ("sys/class/net/eth0/queues/tx-0/x", ""),
                ("proc/irq/31/effective_affinity_list", "0\n"),
                ("proc/irq/32/effective_affinity_list", "0\n"),
                ("sys/class/net/eth1/operstate", "down\n"),
                ("sys/class/net/eth1/device/x", ""),
                ("sys/class/net/lo/operstate", "unknown\n"),
            ],
        );
        let expected = Nic {
            name: "eth0".to_owned(),
            receive_queues: 2,
            is_steered: false,
            interrupt_cores: vec!["0".to_owned()],
        };
        assert_eq!(nics(&root.0), [expected]);
    }

    #[test]
    fn governors_are_named_once() {
        let path = |core: u8| format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
        let (first, second, third) = (path(0), path(1), path(2));
        let files =
            [(first.as_str(), "schedutil"), (&second, "performance"), (&third, "schedutil")];
        let root = Root::new("governors", &files);
        assert_eq!(governors(&root.0), ["performance", "schedutil"]);
    }

    #[test]
    fn the_nearest_mount_decides() {
        let mounts =
            "/dev/sda / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n/dev/sdb /run/data xfs rw 0 0\n";
        for (directory, expected) in
            [("/var/lib", "ext4"), ("/run/x", "tmpfs"), ("/run/data/y", "xfs"), ("/runner", "ext4")]
        {
            assert_eq!(filesystem_of(mounts, Path::new(directory)), expected, "{directory}");
        }
    }
}

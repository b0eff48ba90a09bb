//! What an append costs: wall time and CPU time a message of 256 bytes, in groups.
//!
//! `cargo bench -p gateway --bench log [-- MESSAGES]`. Runs in the system's temporary directory
//! (`TMPDIR`); with tiny counts it is a test that the log still works.

use gateway::proto::mqtt::QoS;
use gateway::proto::partition::PartitionId;
use gateway::proto::record::Message;
use gateway::proto::time::Timestamp;
use gateway::upstream::embedded::log::files::{Files, RealFiles, perform};
use gateway::upstream::embedded::log::{Durability, Log, LogLimits, recover, topic_hash};
use std::time::Instant;

const PARTITION: PartitionId = PartitionId(0);
const TOPIC_COUNT: usize = 1_000;
/// Linux reports process times in units of 10 ms on every architecture it is used on here.
const TICK_S: f64 = 0.01;

fn main() {
    let count = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(400_000);
    let directory = std::env::temp_dir().join(format!("log-bench-{}", std::process::id()));
    for group in [1, 64, 512] {
        let limits = LogLimits::default();
        let log = Log::in_memory(PARTITION, limits, Timestamp(1));
        measure("memory", log, None, count, group);
        let mut files = RealFiles::new(&directory).expect("the temporary directory is writable");
        let recovered = recover(&mut files, PARTITION, Durability::Fsync, limits, Timestamp(1));
        let log = recovered.expect("a log can be created there").log;
        // A lone message costs a sync, so fewer will do.
        let count = if group == 1 { count / 50 } else { count };
        measure("fsync", log, Some(&mut files), count, group);
        std::fs::remove_dir_all(&directory).expect("this process created it");
    }
}

fn measure(
    name: &str,
    mut log: Log,
    mut files: Option<&mut dyn Files>,
    count: usize,
    group: usize,
) {
    let topics: Vec<String> = (0..TOPIC_COUNT).map(|n| format!("plant/{n}/temperature")).collect();
    let payload = [b'x'; 256];
    let (mut requests, mut committed, mut committed_bytes) = (Vec::new(), Vec::new(), 0);
    let (cpu, start) = (cpu_s(), now());
    for (at, topic) in topics.iter().cycle().take(count).enumerate() {
        let message = Message {
            publisher: "device-000017",
            qos: QoS::AtLeastOnce,
            retain: false,
            ledger: false,
            received_at: Timestamp(1),
            expiry_interval_s: None,
            packet_id: None,
            topic,
            properties: &[],
            payload: &payload,
        };
        log.append(Some(topic_hash(topic)), |out| message.encode(out));
        if at % group == group - 1 || at + 1 == count {
            log.flush(Timestamp(1), &mut requests, &mut committed);
            while let (Some(request), Some(files)) = (requests.pop(), files.as_deref_mut()) {
                let (token, result) = perform(files, &request);
                log.handle_io(token, result, &mut requests, &mut committed);
            }
            committed_bytes += committed.drain(..).map(|chunk| chunk.bytes.len()).sum::<usize>();
        }
    }
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_s() - cpu);
    assert_eq!(log.uncommitted_bytes(), 0, "everything is committed");
    println!(
        "{name:7} group {group:4}: {:8.0} ns wall, {:5.2} us CPU a message; {count} messages, {} MB",
        wall * 1e9 / count as f64,
        cpu * 1e6 / count as f64,
        committed_bytes / 1_000_000,
    );
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

/// User and system time of the process so far, to 10 ms. Source: proc_pid_stat(5).
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 * TICK_S
}

//! Subscription tree and interest table: time a match, memory a filter, at three sizes.
//!
//! `cargo bench -p gateway --bench routing` prints a table; with `--test` the sizes are tiny and
//! only the answers are checked. Memory is what a process of its own gained (`/proc/self/statm`), so it includes the
//! allocator's overhead; the tree's own count is printed beside it.
#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

use gateway::proto::mqtt::{QoS, RetainHandling, SubscriptionOptions};
use gateway::proto::output::ShardIndex;
use gateway::proto::routing::interest::INTEREST_SLOTS_DEFAULT;
use gateway::proto::routing::{
    InterestOwner, InterestTable, PackedOptions, Subscriber, SubscriberKind, SubscriptionTree,
};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SEED: u64 = 42;
/// Matches timed at each size; the fastest of [`ROUNDS`] counts, since the machine is shared.
const LOOKUPS: usize = 200_000;
const ROUNDS: usize = 5;

/// Wildcard filters beside the literal ones, at most one a device.
const WILDCARDS_MAX: u32 = 10_000;
const SIZES: [u32; 3] = [1_000, 100_000, 1_000_000];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--test") {
        for part in PARTS {
            (part.run)(100, 200);
        }
        return;
    }
    if let [name, devices] = arguments.as_slice()
        && let Some(part) = PARTS.iter().find(|part| part.name == name)
    {
        (part.run)(devices.parse().expect("a number of devices"), LOOKUPS);
        return;
    }
    for part in PARTS {
        println!("{}", part.title);
        SIZES.iter().for_each(|&devices| run_alone(part.name, devices));
    }
}

/// In a process of its own, so that memory freed by the run before does not hide what this takes.
fn run_alone(name: &str, devices: u32) {
    let program = std::env::current_exe().expect("a running program has a path");
    let status = std::process::Command::new(program)
        .args([name, &devices.to_string()])
        .status()
        .expect("this program can be started again");
    assert!(status.success(), "{name} with {devices} devices failed");
}

struct Part {
    name: &'static str,
    title: &'static str,
    /// Devices, lookups.
    run: fn(u32, usize),
}

const PARTS: [Part; 3] = [
    Part {
        name: "tree",
        title: "literal filters of 24 bytes; then up to 10,000 filters with `+` beside them",
        run: bench_tree,
    },
    Part { name: "prefixes", title: "`#` filters, one prefix a device", run: bench_prefixes },
    Part { name: "interest", title: "interest table with default slots", run: bench_interest },
];

/// Each device has a literal filter; every `devices / wildcards`th also a wildcard one.
fn bench_tree(devices: u32, lookups: usize) {
    let wildcards = devices.min(WILDCARDS_MAX);
    let before_bytes = resident_bytes();
    let mut tree = SubscriptionTree::new(SEED);
    let slowest = fill(&mut tree, (0..devices).map(literal));
    let gained_bytes = resident_bytes().saturating_sub(before_bytes);
    let counted_bytes = tree.memory_bytes();

    let topics: Vec<String> = picks(devices, lookups).map(literal).collect();
    let (literal_ns, found) = time_matches(&tree, &topics);
    assert_eq!(found, lookups, "each topic has its literal filter");

    let step = devices / wildcards;
    fill(&mut tree, (0..wildcards).map(|index| wildcard(index * step)));
    let (both_ns, found) = time_matches(&tree, &topics);
    let expected: usize = picks(devices, lookups)
        .map(|device| 1 + usize::from(device % step == 0 && device / step < wildcards))
        .sum();
    assert_eq!(found, expected, "the wildcard filters match their device's topics too");
    println!(
        "{devices:>9} filters  {literal_ns:>6.1} ns a match, with wildcards {both_ns:>6.1} ns  \
         {:>6.1} B a filter resident, {:>6.1} B counted  slowest subscribe {:>7.1} us",
        per(gained_bytes, devices),
        per(counted_bytes, devices),
        slowest.as_secs_f64() * 1e6,
    );
}

fn bench_prefixes(devices: u32, lookups: usize) {
    let before_bytes = resident_bytes();
    let mut tree = SubscriptionTree::new(SEED);
    let slowest = fill(&mut tree, (0..devices).map(|device| format!("dev/{device:08}/#")));
    let gained_bytes = resident_bytes().saturating_sub(before_bytes);
    let counted_bytes = tree.memory_bytes();
    let topics: Vec<String> =
        picks(devices, lookups).map(|device| format!("dev/{device:08}/state")).collect();
    let (match_ns, found) = time_matches(&tree, &topics);
    assert_eq!(found, lookups, "each topic has its device's filter");
    println!(
        "{devices:>9} filters  {match_ns:>6.1} ns a match  \
         {:>6.1} B a filter resident, {:>6.1} B counted  slowest subscribe {:>7.1} us",
        per(gained_bytes, devices),
        per(counted_bytes, devices),
        slowest.as_secs_f64() * 1e6,
    );
}

fn bench_interest(devices: u32, lookups: usize) {
    let table = Arc::new(InterestTable::new(2, INTEREST_SLOTS_DEFAULT, SEED));
    let before_bytes = resident_bytes();
    let mut owner = InterestOwner::new(Arc::clone(&table), ShardIndex(0));
    for device in 0..devices {
        owner.add(&literal(device));
    }
    let gained_bytes = resident_bytes().saturating_sub(before_bytes);
    let topics: Vec<String> = picks(devices, lookups).map(literal).collect();
    let (look_ns, found) = fastest(lookups, || {
        topics.iter().filter(|topic| black_box(table.interested(topic)) == 1).count()
    });
    assert_eq!(found, lookups, "interest never misses");
    let in_vain = (0..lookups)
        .filter(|other| table.interested(&format!("other/{other:08}/state")) != 0)
        .count();
    println!(
        "{devices:>9} filters  {look_ns:>6.1} ns a look  {:>6.1} B a filter resident, owner and \
         touched slots  {:>5.1} % in vain for other topics",
        per(gained_bytes, devices),
        in_vain as f64 / lookups as f64 * 100.0,
    );
}

/// Subscribes a session to each filter; returns the slowest of them.
fn fill(tree: &mut SubscriptionTree, filters: impl Iterator<Item = String>) -> Duration {
    let options = options();
    let mut slowest = Duration::ZERO;
    for (session, filter) in (0..).zip(filters) {
        let subscriber =
            Subscriber { session, identifier: 0, kind: SubscriberKind::Session, options };
        let start = Instant::now();
        tree.subscribe(&filter, subscriber);
        slowest = slowest.max(start.elapsed());
    }
    slowest
}

/// Nanoseconds a match, and how many subscribers all the topics found.
fn time_matches(tree: &SubscriptionTree, topics: &[String]) -> (f64, usize) {
    let mut out = Vec::new();
    fastest(topics.len(), || {
        let mut found = 0;
        for topic in topics {
            out.clear();
            tree.matches(topic, &mut out);
            found += black_box(&out).len();
        }
        found
    })
}

/// Nanoseconds the fastest of [`ROUNDS`] runs took for one of `count` items, and its result.
fn fastest(count: usize, mut run: impl FnMut() -> usize) -> (f64, usize) {
    let mut best = Duration::MAX;
    let mut result = 0;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        result = run();
        best = best.min(start.elapsed());
    }
    (best.as_secs_f64() * 1e9 / count as f64, result)
}

fn options() -> PackedOptions {
    PackedOptions::from(SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::SendAtSubscribe,
    })
}

/// 24 bytes.
fn literal(device: u32) -> String {
    format!("site/unit{device:08}/status")
}

fn wildcard(device: u32) -> String {
    format!("site/unit{device:08}/+")
}

/// Devices in an order that no cache can foresee.
fn picks(devices: u32, lookups: usize) -> impl Iterator<Item = u32> {
    let mut state = u64::from(SEED_OF_PICKS);
    (0..lookups).map(move |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(devices)) as u32
    })
}

const SEED_OF_PICKS: u32 = 7;

fn per(bytes: usize, count: u32) -> f64 {
    bytes as f64 / f64::from(count)
}

/// Resident memory of this process, from the second field of `/proc/self/statm`, in 4 KiB pages.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages: usize = statm
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("the second field is a number");
    pages * 4_096
}

use super::*;
use crate::result::{
    Distributions, Group, Host, HostPoint, LedgerRecord, Outcome, Phase, Point, Process,
    ProcessPoint, Role, Run, RunResult, SCHEMA_VERSION, Series, Totals, VerdictRecord,
};

/// What work truly costs in the synthetic runs: cores, then CPU-seconds.
const IDLE: f64 = 0.01;
const CONNECT: f64 = 20e-6;
const PING: f64 = 3e-6;
const IN: f64 = 8e-6;
const OUT: f64 = 5e-6;
/// And memory: bytes.
const EMPTY: f64 = 7e6;
const CONNECTION: f64 = 400.0;
const SUBSCRIPTION: f64 = 150.0;
const KERNEL: f64 = 3_000.0;

/// How long a phase of a synthetic run takes, seconds.
const LENGTH: u32 = 20;

/// A run of two measured phases: all connect, then they do what is said, a second.
#[derive(Clone, Copy, Default)]
struct Synthetic {
    connections: u32,
    subscribed: bool,
    pings: u32,
    published: u32,
    delivered: u32,
    /// What is measured is off by this share.
    noise: f64,
}

impl Synthetic {
    fn result(self) -> RunResult {
        let length = f64::from(LENGTH);
        let connections = f64::from(self.connections);
        let connect_cores = IDLE + CONNECT * connections / length;
        let load_cores = IDLE
            + PING * f64::from(self.pings)
            + IN * f64::from(self.published)
            + OUT * f64::from(self.delivered);
        let subscriptions = if self.subscribed { connections } else { 0.0 };
        let noisy = |value: f64| value * (1.0 + self.noise);
        let rss = noisy(EMPTY + CONNECTION * connections + SUBSCRIPTION * subscriptions);
        let sample = |at_s: f64, cpu_s: f64, rss: f64| ProcessPoint {
            at_s,
            cpu_s,
            rss_bytes: bytes(rss),
            rss_anonymous_bytes: 0,
            fds: 0,
            context_switches: 0,
            threads: 1,
        };
        let kernel = |at_s: f64, bytes_: f64| HostPoint {
            at_s,
            kernel_bytes: bytes(1e8 + bytes_),
            busy_s: 0.0,
            stolen_s: 0.0,
        };
        let total = |rate: u32| u64::from(rate) * u64::from(LENGTH);
        let connect = Phase {
            end_s: length,
            connects: self.connections.into(),
            ..Phase::new("connect", 0.0, true)
        };
        let measure = Phase {
            end_s: 2.0 * length,
            published: total(self.published),
            delivered: total(self.delivered),
            pings: total(self.pings),
            ..Phase::new("measure", length, true)
        };
        let point = |second: u32| Point {
            connected: if second < LENGTH { 0 } else { self.connections.into() },
            ..Point::default()
        };
        let publishes = self.published > 0;
        RunResult {
            schema_version: SCHEMA_VERSION,
            run: Run {
                groups: vec![Group {
                    devices: self.connections.into(),
                    qos: Some(1),
                    subscriptions_each: self.subscribed.into(),
                    publish_rate_per_s: publishes.then_some(1.0),
                    payload_bytes: publishes.then_some(256),
                    ..Group::default()
                }],
                ..Run::default()
            },
            verdict: VerdictRecord { outcome: Outcome::Held, reasons: Vec::new() },
            totals: Totals {
                measured_s: length,
                published: total(self.published),
                ..Totals::default()
            },
            times: Distributions::default(),
            ledger: LedgerRecord::default(),
            storms: Vec::new(),
            phases: vec![connect, measure],
            series: Series { interval_s: 1, points: (0..2 * LENGTH).map(point).collect() },
            processes: vec![Process {
                role: Role::Broker,
                pid: 1,
                command: String::new(),
                hostname: "here".to_owned(),
                points: vec![
                    sample(0.0, 1.0, EMPTY),
                    sample(length, 1.0 + noisy(connect_cores) * length, rss),
                    sample(
                        2.0 * length,
                        1.0 + (noisy(connect_cores) + noisy(load_cores)) * length,
                        rss,
                    ),
                ],
            }],
            fleet: None,
            hosts: vec![Host {
                hostname: "here".to_owned(),
                points: vec![
                    kernel(0.0, 0.0),
                    kernel(length, noisy(2.0 * KERNEL * connections)),
                    kernel(2.0 * length, noisy(2.0 * KERNEL * connections)),
                ],
                ..Host::default()
            }],
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes of a test")]
fn bytes(value: f64) -> u64 {
    value as u64
}

/// Runs that tell everything apart, off by `noise` one way and the other in turn.
fn all_kinds(noise: f64) -> Vec<Synthetic> {
    let one = Synthetic::default();
    let kinds = [
        Synthetic { connections: 1_000, ..one },
        Synthetic { connections: 5_000, subscribed: true, ..one },
        Synthetic { connections: 20_000, ..one },
        Synthetic { connections: 10_000, subscribed: true, pings: 5_000, ..one },
        Synthetic { connections: 10_000, pings: 20_000, ..one },
        Synthetic {
            connections: 100,
            subscribed: true,
            published: 10_000,
            delivered: 10_000,
            ..one
        },
        Synthetic { connections: 100, published: 30_000, delivered: 30_000, ..one },
        Synthetic { connections: 100, published: 400, delivered: 40_000, ..one },
        Synthetic { connections: 100, subscribed: true, published: 20_000, ..one },
    ];
    let signs = [noise, -noise].into_iter().cycle();
    kinds.into_iter().zip(signs).map(|(run, noise)| Synthetic { noise, ..run }).collect()
}

fn measured(runs: &[Synthetic]) -> Measured {
    let mut measured = Measured::default();
    for run in runs {
        measured.add(&run.result()).unwrap();
    }
    measured
}

fn fleet(text: &str) -> Fleet {
    Fleet { devices: vec![Devices::parse(text).unwrap()], ..Fleet::default() }
}

fn value_of<'p>(plan: &'p Plan, name: &str) -> &'p Coefficient {
    plan.cpu.iter().chain(&plan.memory).find(|coefficient| coefficient.of == name).unwrap()
}

/// Few connections that publish much have more memory than many that do not.
#[test]
fn what_messages_take_is_not_taken_for_a_connections() {
    let buffers = 30e6;
    let mut measured = measured(&all_kinds(0.0));
    for point in measured.memory.iter_mut().filter(|point| point.had_messages) {
        point.user_bytes += buffers;
    }
    let plan = Plan::of(fleet("1000000:tracker-ltem"), &measured).unwrap();
    let value = |name| value_of(&plan, name).value;
    assert!((value("a connection, resident") / CONNECTION - 1.0).abs() < 0.01, "{plan}");
    assert!((value("buffers and caches of messages") / buffers - 1.0).abs() < 0.01, "{plan}");
}

#[test]
fn the_costs_that_made_the_runs_are_found() {
    let plan = Plan::of(fleet("1000000:tracker-ltem"), &measured(&all_kinds(0.0))).unwrap();
    let truths = [
        ("a gateway that idles", IDLE),
        ("a connect", CONNECT * 1e6),
        ("a ping", PING * 1e6),
        ("a message in, QoS 1", IN * 1e6),
        ("a message out, QoS 1", OUT * 1e6),
        ("a gateway, empty", EMPTY),
        ("a connection, resident", CONNECTION),
        ("a subscription, resident", SUBSCRIPTION),
        ("a connection, kernel", KERNEL),
    ];
    for (name, truth) in truths {
        let found = value_of(&plan, name);
        assert!((found.value - truth).abs() < truth * 0.01, "{name}: {found:?}, not {truth}");
    }
}

#[test]
fn with_noise_the_truth_is_in_the_interval() {
    let plan = Plan::of(fleet("1000000:tracker-ltem"), &measured(&all_kinds(0.04))).unwrap();
    let truths = [
        ("a connect", CONNECT * 1e6),
        ("a message in, QoS 1", IN * 1e6),
        ("a connection, resident", CONNECTION),
    ];
    for (name, truth) in truths {
        let found = value_of(&plan, name);
        assert!((found.value - truth).abs() <= found.half_width, "{name}: {found:?}, not {truth}");
        assert!(found.half_width < truth, "{name}: an interval that says nothing: {found:?}");
    }
}

#[test]
fn the_size_follows_from_the_costs() {
    // A million cars: 100,000 messages a second in and out, 1.3 cores.
    let plan = Plan::of(fleet("1000000:car-lte"), &measured(&all_kinds(0.0))).unwrap();
    let messages = 1e6 / 10.0 + 1e6 / 600.0;
    let connects = 1e6 / 1_800.0;
    let cores = IDLE + (IN + OUT) * messages + CONNECT * connects;
    let cpu = plan.size.resources.iter().find(|resource| resource.name == "CPU").unwrap();
    let working = plan.size.gateways - 1;
    let expected = IDLE + (cores - IDLE) / f64::from(working);
    assert!((cpu.expected - expected).abs() < expected * 0.01, "{cpu:?}, not {expected}");
    assert!(cpu.beyond().is_some_and(|times| times > 1.0), "more than was measured is marked");
    // 900,000 connections at 3,000 + 400 + 150 bytes are 3 GiB: one gateway but for the spare.
    assert_eq!(plan.size.gateways, 2);
    let free = 8.0 - expected;
    let storm_s = 900_000.0 * CONNECT / free;
    assert!(
        (plan.size.storm_s - storm_s).abs() < storm_s * 0.05,
        "{} {storm_s}",
        plan.size.storm_s
    );
}

#[test]
fn what_binds_is_what_decides() {
    let runs = measured(&all_kinds(0.0));
    let mut small = fleet("1000000:car-lte");
    small.machine.connections_max = 100_000;
    let plan = Plan::of(small, &runs).unwrap();
    assert_eq!((plan.size.bound_by, plan.size.gateways), ("connections", 10));

    let mut hasty = fleet("1000000:tracker-ltem");
    hasty.demand.storm_s = 0.5;
    let plan = Plan::of(hasty, &runs).unwrap();
    assert_eq!(plan.size.bound_by, "storm, all back");
    assert!(plan.size.storm_s <= 0.5);

    let mut stored = fleet("600000:car-lte");
    stored.demand.sub_cluster_messages_per_s = Some(20_000.0);
    // 61,000 messages a second with 30 % to spare.
    assert_eq!(Plan::of(stored, &runs).unwrap().size.sub_clusters, Some(5));
}

#[track_caller]
fn check_refused(runs: &[Synthetic], devices: &str, what: &str, run: &str) {
    let missing = Plan::of(fleet(devices), &measured(runs)).unwrap_err();
    let text = refusal(&missing, &[]);
    assert!(text.contains(what) && text.contains(run), "{text}");
}

#[test]
fn runs_that_do_not_tell_are_refused_with_what_to_run() {
    let all = all_kinds(0.0);
    let without_pings: Vec<_> = all.iter().copied().filter(|run| run.pings == 0).collect();
    check_refused(&without_pings, "1000:home-wifi", "CPU of a ping", "--keep-alive-s");
    // Only one to one: whatever is taken is delivered.
    let in_step: Vec<_> =
        all.iter().copied().filter(|run| run.published == run.delivered).collect();
    check_refused(&in_step, "1000:tracker-ltem", "same proportion", "--pattern fan-out");
    check_refused(&all[..1], "1000:meter-nbiot", "memory of a connection", "loadgen idle");
    let fleet = Fleet {
        devices: vec![Devices { qos: 2, ..Devices::parse("10:car-lte").unwrap() }],
        ..Fleet::default()
    };
    let text = refusal(&Plan::of(fleet, &measured(&all)).unwrap_err(), &[]);
    assert!(text.contains("QoS 2") && text.contains("--qos 2"), "{text}");
}

#[test]
fn runs_of_what_the_fleet_does_not_do_are_not_in_the_way() {
    let mut measured = measured(&all_kinds(0.0));
    // QoS 0 in and out go together, and nobody asks what they cost.
    for rate in [1_000.0, 2_000.0] {
        let rates = vec![
            (coefficients::Work::Idle, 1.0),
            (coefficients::Work::MessageIn(0), rate),
            (coefficients::Work::MessageOut(0), rate),
        ];
        measured.cpu.push(coefficients::CpuWindow { rates, cores: 0.1, seconds: 20.0 });
    }
    let plan = Plan::of(fleet("1000:car-lte"), &measured).unwrap();
    assert!((value_of(&plan, "a message in, QoS 1").value - IN * 1e6).abs() < 0.1);
}

#[test]
fn a_run_that_did_not_hold_says_nothing() {
    let mut broken = all_kinds(0.0).first().unwrap().result();
    broken.verdict =
        VerdictRecord { outcome: Outcome::Invalid, reasons: vec!["it was late".to_owned()] };
    assert!(Measured::default().add(&broken).unwrap_err().contains("it was late"));
    let mut unwatched = all_kinds(0.0).first().unwrap().result();
    unwatched.processes.clear();
    assert!(Measured::default().add(&unwatched).unwrap_err().contains("--watch-pid"));
}

#[test]
fn the_example_is_a_fleet() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/fleet.toml");
    let fleet = Fleet::read(&path).unwrap();
    fleet.validate().unwrap();
    assert_eq!(fleet.devices.len(), 2);
    assert_eq!(fleet.machine, Fleet::default().machine, "the example shows the defaults");
    assert_eq!(fleet.demand, Fleet::default().demand, "the example shows the defaults");
}

#[test]
fn a_fleet_that_makes_no_sense_is_refused() {
    assert!(Devices::parse("many:car-lte").unwrap_err().contains("no number"));
    assert!(Devices::parse("5:tractor").unwrap_err().contains("car-lte"));
    assert!(Fleet::default().validate().is_err());
    let mut eager = fleet("5:car-lte");
    eager.demand.headroom = 1.0;
    assert!(eager.validate().is_err());
}

#[test]
fn the_plan_can_be_read_in_every_form() {
    let plan = Plan::of(fleet("1000000:car-lte"), &measured(&all_kinds(0.02))).unwrap();
    let text = plan.to_string();
    assert!(text.starts_with("1,000,000 devices take 2 gateways of 8 cores"), "{text}");
    assert!(text.contains("extrapolated"), "{text}");
    let page = show::page(&plan);
    assert!(page.contains("Extrapolated") && page.matches("<figure").count() == 3);
    crate::page::tests::check_drawn("plan", &page);
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["size"]["gateways"], 2);
}

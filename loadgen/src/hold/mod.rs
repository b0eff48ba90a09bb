//! `loadgen idle` and `loadgen storm`: many connections that do nothing once they stand.

mod crowd;

use std::{
    fmt::{self, Display, Formatter},
    io,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use gateway::proto::mqtt::QoS;
use serde::Serialize;

use crowd::{Crowd, Handshakes, wrap};

use crate::{
    args::{IdleArguments, IdleSubscription, StormArguments, TargetArguments},
    client::{Client, ClientOptions, Scratch},
    clock::{Clock, duration_ns},
    engine::Engine,
    progress::Progress,
    report::{as_f64, line},
    result::{
        Distributions, Findings, Group, LedgerRecord, Outcome, Recorder, Run, RunResult, Storm,
        Totals, VerdictRecord,
    },
    schedule::Schedule,
    stats::Times,
    transport::{self, Broker, BrokerArguments, Layers},
    watch::{Usage, Watch},
};

/// How long a sweep waits at most.
const NAP: Duration = Duration::from_millis(10);
/// How often the Keep Alive of all devices is looked at, and the second's books are closed.
const KEEP_ALIVE_LOOK_NS: u64 = 1_000_000_000;
/// After all connections are closed, the broker gets this long to free what it held.
const SETTLE: Duration = Duration::from_secs(1);
/// Faults of connections kept by name.
const FAULTS_KEPT: usize = 5;

/// The result of `idle` or `storm`, a round each.
#[derive(Debug, Serialize)]
pub(crate) struct HoldReport {
    /// Connections of each round.
    pub(crate) connections: u32,
    /// In the order they were run.
    pub(crate) rounds: Vec<Round>,
}

/// One round: connect all, hold them, disconnect all. Memory and CPU are the watched process's.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Round {
    /// From the first connect to the last CONNACK (or SUBACK), seconds.
    pub(crate) connect_s: f64,
    /// Connections a second over that time.
    pub(crate) connects_per_s: f64,
    /// CPU-seconds per 1,000 connections made.
    pub(crate) cpu_s_per_1000_connects: f64,
    /// Before the first connection.
    pub(crate) before: Usage,
    /// With all connections, after holding them.
    pub(crate) held: Usage,
    /// After all were closed.
    pub(crate) after: Usage,
    /// Growth of resident memory per connection, bytes.
    pub(crate) rss_bytes_per_connection: f64,
    /// CPU while holding, in per cent of one core.
    pub(crate) idle_cpu_percent: f64,
    /// TLS handshakes with certificates.
    pub(crate) tls_full: u64,
    /// TLS handshakes that resumed a session.
    pub(crate) tls_resumed: u64,
    /// Connections that were refused or ended early.
    pub(crate) connections_lost: u64,
    /// The first of them by name.
    pub(crate) faults: Vec<String>,
}

/// Runs `idle`.
///
/// # Errors
///
/// When the process to watch or the broker cannot be reached, or descriptors or ports run out.
pub(crate) fn idle(arguments: &IdleArguments) -> anyhow::Result<(HoldReport, RunResult)> {
    let broker = broker_of(&arguments.broker, &arguments.target)?;
    let own = arguments.subscribe == IdleSubscription::Own;
    let group = Group {
        name: "idle devices".to_owned(),
        qos: own.then_some(QoS::AtLeastOnce as u8),
        subscriptions_each: own.into(),
        keep_alive_s: arguments.keep_alive_s,
        transport: broker.transport_name().to_owned(),
        ..Group::of(arguments.target.mqtt, arguments.connections.into())
    };
    let mut holder = Holder::new(&arguments.target, &broker, arguments.connections, |index| {
        let filter = || (format!("idle/{index}").into(), QoS::AtLeastOnce);
        (own.then(filter), arguments.keep_alive_s)
    })?;
    let pace = Pace { rate: Some(arguments.connect_rate), concurrency: arguments.concurrency };
    let report = holder.rounds(arguments.rounds, pace, Duration::from_secs(arguments.seconds))?;
    let run = run_against(&broker, Run::of_this_process("idle", &arguments.target, vec![group]));
    let result = holder.result(run, &report);
    Ok((report, result))
}

/// Runs `storm`.
///
/// # Errors
///
/// As [`idle`].
pub(crate) fn storm(arguments: &StormArguments) -> anyhow::Result<(HoldReport, RunResult)> {
    let broker = broker_of(&arguments.broker, &arguments.target)?;
    let group = Group {
        name: "devices".to_owned(),
        transport: broker.transport_name().to_owned(),
        ..Group::of(arguments.target.mqtt, arguments.connections.into())
    };
    let connections = arguments.connections;
    let mut holder = Holder::new(&arguments.target, &broker, connections, |_| (None, 0))?;
    let pace = Pace { rate: None, concurrency: arguments.concurrency };
    let report = holder.rounds(arguments.rounds, pace, Duration::ZERO)?;
    let run = run_against(&broker, Run::of_this_process("storm", &arguments.target, vec![group]));
    let result = holder.result(run, &report);
    Ok((report, result))
}

/// The broker, reached once.
fn broker_of(arguments: &BrokerArguments, target: &TargetArguments) -> anyhow::Result<Broker> {
    let broker = arguments.or_at(target.target).map_err(|faults| anyhow!(faults.join("\n")))?;
    transport::reach(&broker).map_err(|fault| anyhow!(fault))?;
    Ok(broker)
}

fn run_against(broker: &Broker, run: Run) -> Run {
    Run { broker_url: broker.url.to_string(), tls: broker.tls.clone(), ..run }
}

/// How fast connections are made.
#[derive(Clone, Copy)]
struct Pace {
    /// So many a second; none: as fast as they come.
    rate: Option<u64>,
    /// At most so many in the making.
    concurrency: u32,
}

/// All connections, on one thread.
struct Holder {
    engine: Engine,
    crowd: Crowd,
    clock: Clock,
    watch: Option<Watch>,
    connect_timeout: Duration,
    recorder: Recorder,
    storms: Vec<Storm>,
}

impl Holder {
    fn new(
        target: &TargetArguments,
        broker: &Broker,
        connections: u32,
        options: impl Fn(u32) -> (Option<(Box<str>, QoS)>, u16),
    ) -> anyhow::Result<Self> {
        let clock = Clock::start();
        let epoch = std::process::id();
        let devices = (0..connections).map(|index| {
            let (subscription, keep_alive_s) = options(index);
            Client::new(ClientOptions {
                version: target.mqtt.into(),
                client_id: format!("h{epoch:08x}-{index}").into(),
                clean_start: true,
                session_expiry_interval_s: 0,
                keep_alive_s,
                subscription,
                publication: None,
                will: None,
            })
        });
        let watch = target.watch.reach()?;
        let recorder = Recorder::start(clock, watch.clone(), Progress::new(target.quiet))
            .context("cannot start a thread")?;
        let crowd = Crowd {
            devices: devices.collect(),
            layers: broker.transport.as_ref().map_or_else(Vec::new, |transport| {
                let layers = |index| Layers::new(Arc::clone(transport), u64::from(index));
                (0..connections).map(layers).collect()
            }),
            handshakes: Handshakes::default(),
            ready: 0,
            open: 0,
            closing: false,
            lost: 0,
            faults: Vec::new(),
            started_ns: vec![0; connections as usize],
            round_ns: 0,
            connect: Times::new(),
            recovery: Times::new(),
            tally: recorder.tally(clock),
        };
        Ok(Self {
            engine: Engine::new(broker.address, connections as usize, 0, clock)
                .context("cannot set up io_uring")?,
            crowd,
            clock,
            watch,
            connect_timeout: target.connect_timeout(),
            recorder,
            storms: Vec::new(),
        })
    }

    /// What is kept of all rounds.
    fn result(self, run: Run, report: &HoldReport) -> RunResult {
        let lost: u64 = report.rounds.iter().map(|round| round.connections_lost).sum();
        let faults = report.rounds.iter().flat_map(|round| round.faults.iter().cloned());
        let faults: Vec<_> = faults.take(FAULTS_KEPT).collect();
        let Crowd { tally, connect, handshakes, .. } = self.crowd;
        let Handshakes { tls_full, tls_resumed, upgrade, connack } = handshakes;
        // What the second at hand had is recorded when its books are closed.
        drop(tally);
        let recorded = self.recorder.finish(self.clock);
        let measured = recorded.phases.iter().filter(|phase| phase.measured);
        let mut recovery = Times::new();
        for storm in &self.storms {
            recovery.merge(&storm.recovery);
        }
        let findings = Findings {
            verdict: report.verdict(lost, &faults),
            totals: Totals {
                measured_s: measured.map(|phase| phase.end_s - phase.start_s).sum(),
                connections_lost: lost,
                faults,
                ..Totals::default()
            },
            times: Distributions {
                connect,
                tls_full,
                tls_resumed,
                upgrade,
                connack,
                recovery,
                ..Distributions::default()
            },
            ledger: LedgerRecord::default(),
            storms: self.storms,
            fleet: None,
        };
        RunResult::new(run, recorded, findings)
    }

    fn rounds(&mut self, rounds: u32, pace: Pace, hold: Duration) -> anyhow::Result<HoldReport> {
        let connections = u32::try_from(self.crowd.devices.len()).unwrap_or(u32::MAX);
        let mut report = HoldReport { connections, rounds: Vec::new() };
        for _ in 0..rounds {
            report.rounds.push(self.round(connections, pace, hold)?);
        }
        Ok(report)
    }

    fn round(&mut self, connections: u32, pace: Pace, hold: Duration) -> anyhow::Result<Round> {
        let before = self.usage()?;
        let handshakes_before = self.crowd.handshakes.counts();
        let start_ns = self.clock.now_ns();
        self.crowd.begin(start_ns);
        self.phase("connect", start_ns, true);
        self.connect(connections, pace, start_ns)?;
        if pace.rate.is_none() {
            let start_s = Duration::from_nanos(start_ns).as_secs_f64();
            let recovery = self.crowd.recovery.clone();
            self.storms.push(Storm::new(start_s, connections.into(), recovery));
        }
        self.phase("hold", self.clock.now_ns(), true);
        let connect_s = Duration::from_nanos(self.clock.now_ns() - start_ns).as_secs_f64();
        let connected = self.usage()?;
        self.sweep_for(hold)?;
        let held = self.usage()?;
        self.phase("disconnect", self.clock.now_ns(), false);
        self.disconnect()?;
        self.phase("settle", self.clock.now_ns(), false);
        self.sweep_for(SETTLE)?;
        let after = self.usage()?;

        let handshakes = self.crowd.handshakes.counts();
        let made = f64::from(self.crowd.ready.max(1));
        let hold_s = hold.as_secs_f64();
        let idle_s = held.cpu.saturating_sub(connected.cpu).as_secs_f64();
        let connect_cpu_s = connected.cpu.saturating_sub(before.cpu).as_secs_f64();
        Ok(Round {
            connect_s,
            connects_per_s: f64::from(self.crowd.ready) / connect_s.max(f64::MIN_POSITIVE),
            cpu_s_per_1000_connects: connect_cpu_s * 1_000.0 / made,
            rss_bytes_per_connection: (as_f64(held.rss_bytes) - as_f64(before.rss_bytes)) / made,
            idle_cpu_percent: if hold_s > 0.0 { idle_s / hold_s * 100.0 } else { 0.0 },
            before,
            held,
            after,
            tls_full: handshakes.0 - handshakes_before.0,
            tls_resumed: handshakes.1 - handshakes_before.1,
            connections_lost: self.crowd.lost,
            faults: std::mem::take(&mut self.crowd.faults),
        })
    }

    /// Ends a phase and begins the next.
    fn phase(&mut self, name: &'static str, at_ns: u64, measured: bool) {
        self.crowd.tally.cut(at_ns);
        self.recorder.phase(name, at_ns, measured);
    }

    /// Connects all devices at the given pace and waits until each is ready or lost.
    fn connect(&mut self, connections: u32, pace: Pace, start_ns: u64) -> anyhow::Result<()> {
        let mut schedule = pace.rate.map(|rate| Schedule::new(start_ns, rate, 0, 1));
        let deadline_ns = start_ns + duration_ns(self.connect_timeout);
        let mut started = 0;
        while u64::from(self.crowd.ready) + self.crowd.lost < u64::from(connections) {
            let now_ns = self.clock.now_ns();
            ensure!(
                now_ns < deadline_ns,
                "{} of {connections} connections ready after {:?}: {:?}",
                self.crowd.ready,
                self.connect_timeout,
                self.crowd.faults
            );
            let done = u64::from(self.crowd.ready) + self.crowd.lost;
            let room_until = (done + u64::from(pace.concurrency)).min(connections.into());
            while u64::from(started) < room_until {
                if let Some(schedule) = &mut schedule
                    && schedule.take_due(now_ns).is_none()
                {
                    break;
                }
                let connected = self.engine.connect(started);
                connected.with_context(|| format!("cannot make connection {started}"))?;
                self.crowd.started(started, now_ns);
                started += 1;
            }
            // Without room it is an answer that wakes.
            let room = u64::from(started) < room_until;
            let wait = schedule.as_ref().filter(|_| room).map_or(NAP, |schedule| {
                Duration::from_nanos(schedule.next_due_ns().saturating_sub(now_ns)).min(NAP)
            });
            self.engine.sweep(wait, &mut self.crowd)?;
            self.crowd.tally.tick(self.clock.now_ns());
        }
        Ok(())
    }

    /// Handles what happens, and Keep Alive, for so long.
    fn sweep_for(&mut self, duration: Duration) -> io::Result<()> {
        let mut now_ns = self.clock.now_ns();
        let end_ns = now_ns + duration_ns(duration);
        let mut look_ns = now_ns;
        while now_ns < end_ns {
            if now_ns >= look_ns {
                self.keep_alive(now_ns);
                look_ns = (now_ns / KEEP_ALIVE_LOOK_NS + 1) * KEEP_ALIVE_LOOK_NS;
            }
            let wait = Duration::from_nanos(end_ns.min(look_ns) - now_ns);
            self.engine.sweep(wait, &mut self.crowd)?;
            now_ns = self.clock.now_ns();
            self.crowd.tally.tick(now_ns);
        }
        Ok(())
    }

    fn keep_alive(&mut self, now_ns: u64) {
        let (mut scratch, mut packets) = (Scratch::default(), Vec::new());
        for (index, device) in (0..).zip(&mut self.crowd.devices) {
            if device.next_timeout_ns().is_some_and(|due_ns| due_ns <= now_ns)
                && let Some(outbox) = self.engine.outbox(index)
            {
                let handled = device.handle_timeout(now_ns, &mut scratch, &mut packets);
                wrap(self.crowd.layers.get_mut(index as usize), &mut packets, outbox);
                match handled {
                    Ok(()) => self.crowd.tally.point.pings += 1,
                    Err(_) => self.engine.close(index),
                }
            }
        }
    }

    /// Says DISCONNECT everywhere and waits until all connections are gone.
    fn disconnect(&mut self) -> anyhow::Result<()> {
        self.crowd.closing = true;
        let mut packets = Vec::new();
        for (index, device) in (0..).zip(&mut self.crowd.devices) {
            if let Some(outbox) = self.engine.outbox(index) {
                device.disconnect(false, &mut packets);
                let layers = self.crowd.layers.get_mut(index as usize);
                if let Some(layers) = wrap(layers, &mut packets, outbox) {
                    layers.end(outbox);
                }
                self.engine.close(index);
            }
        }
        let deadline_ns = self.clock.now_ns() + duration_ns(self.connect_timeout);
        while self.crowd.open > 0 {
            ensure!(
                self.clock.now_ns() < deadline_ns,
                "{} connections do not close",
                self.crowd.open
            );
            self.engine.sweep(NAP, &mut self.crowd)?;
            self.crowd.tally.tick(self.clock.now_ns());
        }
        Ok(())
    }

    fn usage(&self) -> anyhow::Result<Usage> {
        let usage = self.watch.as_ref().map(Watch::usage).transpose();
        Ok(usage.context("cannot read the usage of the watched process")?.unwrap_or_default())
    }
}

impl HoldReport {
    /// Invalid when connections were lost: the figures per connection are then of fewer.
    fn verdict(&self, lost: u64, faults: &[String]) -> VerdictRecord {
        if lost == 0 {
            return VerdictRecord { outcome: Outcome::Held, reasons: Vec::new() };
        }
        let first = faults.first().map_or("no reason is known", String::as_str);
        let all = u64::from(self.connections) * self.rounds.len() as u64;
        let reason = format!(
            "{lost} of {all} connections were refused or ended before they should: {first}"
        );
        VerdictRecord { outcome: Outcome::Invalid, reasons: vec![reason] }
    }
}

impl Display for HoldReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (number, round) in self.rounds.iter().enumerate() {
            writeln!(f, "round {}: {} connections", number + 1, self.connections)?;
            write!(f, "{round}")?;
        }
        Ok(())
    }
}

impl Display for Round {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (rate, cpu) = (self.connects_per_s, self.cpu_s_per_1000_connects);
        line(
            f,
            "connect",
            format_args!("{:.2} s, {rate:.0}/s, {cpu:.4} CPU-s per 1,000", self.connect_s),
        )?;
        if self.tls_full + self.tls_resumed > 0 {
            line(f, "TLS", format_args!("{} full, {} resumed", self.tls_full, self.tls_resumed))?;
        }
        let kib = |usage: &Usage| usage.rss_bytes / 1024;
        let (before, held, after) = (kib(&self.before), kib(&self.held), kib(&self.after));
        line(f, "RSS", format_args!("{before} -> {held} -> {after} KiB"))?;
        line(f, "per connection", format_args!("{:.0} B", self.rss_bytes_per_connection))?;
        line(f, "idle CPU", format_args!("{:.2} % of a core", self.idle_cpu_percent))?;
        if self.connections_lost > 0 {
            line(f, "lost", format_args!("{} {:?}", self.connections_lost, self.faults))?;
        }
        Ok(())
    }
}

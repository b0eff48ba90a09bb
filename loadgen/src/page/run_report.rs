//! The report of one run: verdict first, then what it rests on.

use super::{Band, Cell, Chart, Line, Mark, Page, XAxis, XKind, YAxis};
use super::{bytes, figure, grouped, time_us};
use crate::{
    report::as_f64,
    result::{FleetRecord, Host, LedgerRecord, Outcome, Point, Process, Role, RunResult},
    stats::Times,
};

/// Points of a percentile curve: as many for each further nine.
const STEPS_A_NINE: u32 = 20;

/// The page of a run.
pub(crate) fn run_report(result: &RunResult) -> String {
    let run = &result.run;
    let broker = run.broker_name.as_deref().unwrap_or(&run.broker_url);
    let title = format!("{} against {broker}", run.scenario);
    let mut page = Page::new(&title);
    let workers =
        if run.workers == 1 { String::new() } else { format!(", {} workers", run.workers) };
    page.head(
        &title,
        &format!(
            "{}, {} s{workers}, loadgen {}, seed {}, broker at {}",
            date(run.started_unix_ms),
            figure(run.duration_s),
            run.loadgen_version,
            run.seed,
            run.broker_url
        ),
    );
    let (kind, label) = match result.verdict.outcome {
        Outcome::Held => ("held", "Held"),
        Outcome::Invalid => ("invalid", "Says nothing"),
        Outcome::Broken => ("broken", "Broken"),
    };
    page.verdict(kind, label, &sentence(result));
    page.tiles(&tiles(result));

    page.section("Messages and connections");
    let charts = [
        latency_over_time(result),
        latency_by_percentile(result),
        rate(result),
        connections(result),
        backlog(result),
        storm_recovery(result),
        connect_by_percentile(result),
        handshakes_by_percentile(result),
        lag(result),
    ];
    page.charts(charts.into_iter().flatten());
    page.section("What it cost");
    page.charts([cpu(result), memory(result)].into_iter().flatten());
    if result.broker().is_none() {
        page.note("The broker's process was not watched: give its pid with --watch-pid.");
    }

    page.section("Ledger");
    ledger(&mut page, &result.ledger);
    if let Some(record) = &result.fleet {
        fleet(&mut page, record);
    }
    page.section("The run");
    devices(&mut page, result);
    phases(&mut page, result);
    page.section("Machine");
    machines(&mut page, result);
    page.section("To repeat it");
    page.code(&command(&run.command));
    page.finish()
}

/// What the run says, in one sentence.
pub(crate) fn sentence(result: &RunResult) -> String {
    if result.verdict.outcome != Outcome::Held {
        let reasons = result.verdict.reasons.join("; ");
        return upper_first(if reasons.is_empty() { "no reason was given" } else { &reasons })
            + ".";
    }
    let (ledger, latency) = (&result.ledger, &result.times.latency);
    if ledger.owed > 0 {
        let lost = match ledger.lost {
            0 => format!("All {} messages owed arrived", grouped(ledger.owed)),
            lost => format!(
                "{} of {} messages owed arrived ({} lost, which QoS 0 allows)",
                grouped(ledger.delivered),
                grouped(ledger.owed),
                grouped(lost)
            ),
        };
        return format!(
            "{lost}; in the measured {} s, 99 % within {} of when they were due, the last after {}.",
            figure(result.totals.measured_s),
            time_us(latency.at_quantile_us(0.99)),
            time_us(latency.max_us())
        );
    }
    let devices: u64 = result.run.groups.iter().map(|group| group.devices).sum();
    let devices = grouped(devices);
    let slowest = result.storms.iter().max_by(|a, b| f64::total_cmp(&back(a), &back(b)));
    if slowest.is_some_and(|storm| storm.t100_s.is_none()) {
        return format!("Not all of {devices} devices were back before the run ended.");
    }
    if let Some(last) = slowest {
        return format!(
            "All {devices} devices were back {} after a storm began{}.",
            time_us(back(last) * 1e6),
            if result.storms.len() > 1 { ", in the slowest of its rounds" } else { "" }
        );
    }
    match memory_a_connection(result) {
        Some(each) => format!(
            "{devices} connections stood all the time, at {} of the broker's memory each.",
            bytes(each)
        ),
        None => format!("{devices} connections stood all the time."),
    }
}

fn back(storm: &crate::result::Storm) -> f64 {
    storm.t100_s.unwrap_or(f64::INFINITY)
}

fn upper_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Growth of the broker's resident memory up to the most connections, a connection.
fn memory_a_connection(result: &RunResult) -> Option<f64> {
    let points = &result.series.points;
    let most = points.iter().map(|point| point.connected).max().filter(|most| *most > 0)?;
    let index = points.iter().position(|point| point.connected == most)?;
    let at_s = as_f64(index as u64 + 1) * f64::from(result.series.interval_s);
    let process = &result.broker()?.points;
    let start = process.first()?;
    let full = process.iter().find(|point| point.at_s >= at_s)?;
    Some((as_f64(full.rss_bytes) - as_f64(start.rss_bytes)) / as_f64(most))
}

fn tiles(result: &RunResult) -> Vec<(String, String, String)> {
    let (totals, times) = (&result.totals, &result.times);
    let mut tiles = Vec::new();
    let mut tile = |name: &str, value: String, note: String| {
        tiles.push((name.to_owned(), value, note));
    };
    let a_second = |count: u64| figure(as_f64(count) / totals.measured_s.max(f64::MIN_POSITIVE));
    if totals.published > 0 {
        tile("published/s", a_second(totals.published), grouped(totals.published));
        tile("delivered/s", a_second(totals.delivered), grouped(totals.delivered));
    }
    if times.latency.count() > 0 {
        for (name, quantile) in
            [("median latency", 0.5), ("99 % within", 0.99), ("99.9 % within", 0.999)]
        {
            let note = format!(
                "{} from the send",
                time_us(times.latency_uncorrected.at_quantile_us(quantile))
            );
            tile(name, time_us(times.latency.at_quantile_us(quantile)), note);
        }
    }
    let devices: u64 = result.run.groups.iter().map(|group| group.devices).sum();
    tile("devices", grouped(devices), format!("{} lost", grouped(totals.connections_lost)));
    if times.connect.count() > 0 {
        let note = format!("99 % within {}", time_us(times.connect.at_quantile_us(0.99)));
        tile("median connect", time_us(times.connect.at_quantile_us(0.5)), note);
    }
    let resumed = times.tls_resumed.count();
    let handshakes = times.tls_full.count() + resumed;
    if handshakes > 0 {
        let unchecked = result.run.tls.as_ref().is_some_and(|tls| !tls.verified);
        let note = if unchecked { ", certificates not checked" } else { "" };
        tile("TLS handshakes", grouped(handshakes), format!("{} resumed{note}", grouped(resumed)));
    }
    if let Some((cpu_s, delivered)) = measured_cpu(result)
        && delivered > 0.0
    {
        let note = format!("{} deliveries/CPU-s", figure(delivered / cpu_s));
        tile("CPU a delivery", format!("{} us", figure(cpu_s * 1e6 / delivered)), note);
    }
    if totals.published == 0
        && result.storms.is_empty()
        && let Some(each) = memory_a_connection(result)
    {
        tile("memory a connection", bytes(each), "resident, of the broker".to_owned());
    }
    tiles
}

/// CPU-seconds of the broker in the measured phases, and what was delivered in the same time, as
/// far as samples a second apart tell.
fn measured_cpu(result: &RunResult) -> Option<(f64, f64)> {
    let points = &result.broker()?.points;
    let interval_s = f64::from(result.series.interval_s);
    let (mut cpu_s, mut delivered) = (0.0, 0.0);
    for phase in result.phases.iter().filter(|phase| phase.measured) {
        let inside = |at_s: f64| at_s >= phase.start_s && at_s <= phase.end_s;
        let mut within = points.iter().filter(|point| inside(point.at_s));
        let (first, last) = (within.next()?, within.next_back()?);
        cpu_s += last.cpu_s - first.cpu_s;
        for (index, point) in (0_u32..).zip(&result.series.points) {
            let start_s = f64::from(index) * interval_s;
            let overlap = last.at_s.min(start_s + interval_s) - first.at_s.max(start_s);
            delivered += as_f64(point.delivered) * (overlap / interval_s).clamp(0.0, 1.0);
        }
    }
    (cpu_s > 0.0).then_some((cpu_s, delivered))
}

/// A chart over the time of the run, with its phases, unless nothing ever happened on it.
fn over_time(
    result: &RunResult,
    title: &str,
    label: &str,
    unit: &str,
    lines: Vec<Line>,
) -> Option<Chart> {
    let lines: Vec<_> = lines
        .into_iter()
        .filter(|line| line.points.iter().any(|(_, y)| y.is_some_and(|y| y != 0.0)))
        .collect();
    if lines.is_empty() {
        return None;
    }
    let bands = result.phases.iter().map(|phase| Band {
        name: phase.name.clone(),
        from: phase.start_s,
        to: phase.end_s,
    });
    Some(Chart {
        title: title.to_owned(),
        x: XAxis { label: "time of the run".to_owned(), kind: XKind::Time, ..XAxis::default() },
        y: YAxis { label: label.to_owned(), unit: unit.to_owned(), ..YAxis::default() },
        bands: bands.collect(),
        lines,
        ..Chart::default()
    })
}

/// A line of what the points of the series say, at the middle of each interval.
fn line_of(
    result: &RunResult,
    name: &str,
    color: &'static str,
    value: impl Fn(&Point) -> f64,
) -> Line {
    let interval_s = f64::from(result.series.interval_s);
    let points = (0_u32..).zip(&result.series.points);
    Line::new(
        name,
        color,
        points.map(|(index, point)| ((f64::from(index) + 0.5) * interval_s, value(point))),
    )
}

fn latency_over_time(result: &RunResult) -> Option<Chart> {
    let line = |name, color, quantile| {
        line_of(result, name, color, move |point| {
            let none = point.latency.count() == 0;
            if none { f64::NAN } else { point.latency.at_quantile_us(quantile) / 1e3 }
        })
    };
    let lines = vec![
        line("median", "o1", 0.5),
        line("99 %", "o2", 0.99),
        line("99.9 %", "o3", 0.999),
        line("longest", "grey", 1.0).dashed(),
    ];
    let chart = over_time(result, "Latency over time", "ms", "ms", lines)?;
    Some(Chart {
        note: "From when a message was due to its delivery, in the second of the delivery."
            .to_owned(),
        wide: true,
        y: YAxis { log: true, ..chart.y },
        ..chart
    })
}

/// The curve of `times` over the percentile axis, milliseconds.
fn percentiles(times: &Times) -> Vec<(f64, f64)> {
    let count = as_f64(times.count());
    let nines = count.max(10.0).log10();
    let mut points = Vec::new();
    let mut step = 0;
    loop {
        let nine = f64::from(step) / f64::from(STEPS_A_NINE);
        if nine > nines {
            return points;
        }
        let share = 1.0 - 10_f64.powf(-nine);
        points.push((share, times.at_quantile_us(share) / 1e3));
        step += 1;
    }
}

fn by_percentile(title: &str, note: &str, kinds: &[(&str, &'static str, &Times)]) -> Option<Chart> {
    let some = kinds.iter().filter(|(_, _, times)| times.count() > 0);
    let lines: Vec<_> =
        some.map(|(name, color, times)| Line::new(name, color, percentiles(times))).collect();
    if lines.is_empty() {
        return None;
    }
    Some(Chart {
        title: title.to_owned(),
        note: note.to_owned(),
        x: XAxis { label: "percentile".to_owned(), kind: XKind::Percentile, ..XAxis::default() },
        y: YAxis { label: "ms".to_owned(), unit: "ms".to_owned(), log: true, ..YAxis::default() },
        lines,
        ..Chart::default()
    })
}

fn latency_by_percentile(result: &RunResult) -> Option<Chart> {
    let times = &result.times;
    by_percentile(
        "Latency by percentile",
        "Where the first two part, messages waited behind others before they could be sent.",
        &[
            ("from when due", "c1", &times.latency),
            ("from the send", "c2", &times.latency_uncorrected),
            ("acknowledgement", "c3", &times.acknowledgement),
        ],
    )
}

fn connect_by_percentile(result: &RunResult) -> Option<Chart> {
    by_percentile(
        "Connect and recovery by percentile",
        "Connect: from a connection's start until it is ready. Recovery: from the loss, or the \
         storm's beginning.",
        &[("connect", "c1", &result.times.connect), ("recovery", "c2", &result.times.recovery)],
    )
}

/// What connecting takes apart, where there is TLS or WebSocket in it.
fn handshakes_by_percentile(result: &RunResult) -> Option<Chart> {
    let times = &result.times;
    let layers = [&times.tls_full, &times.tls_resumed, &times.upgrade];
    if layers.iter().all(|times| times.count() == 0) {
        return None;
    }
    by_percentile(
        "Handshakes by percentile",
        "TLS: from a TCP connection to the end of the handshake, with certificates or by a session \
         resumed. WebSocket: from the request to its answer. CONNACK: from CONNECT.",
        &[
            ("TLS, full", "c1", &times.tls_full),
            ("TLS, resumed", "c2", &times.tls_resumed),
            ("WebSocket", "c3", &times.upgrade),
            ("CONNACK", "c4", &times.connack),
        ],
    )
}

fn rate(result: &RunResult) -> Option<Chart> {
    let interval_s = f64::from(result.series.interval_s);
    let line = |name, color, count: fn(&Point) -> u64| {
        let mut line = line_of(result, name, color, move |point| as_f64(count(point)) / interval_s);
        // The run ended somewhere in the last interval, which says nothing about a rate.
        line.points.pop();
        line
    };
    let lines = vec![
        line("delivered", "c1", |point| point.delivered),
        line("published", "c2", |point| point.published),
        line("acknowledged", "c3", |point| point.acknowledged).dashed(),
    ];
    over_time(result, "Messages", "a second", "/s", lines)
}

fn backlog(result: &RunResult) -> Option<Chart> {
    let missing = std::cell::Cell::new((0_u64, 0_u64));
    let line = line_of(result, "owed and not delivered", "c1", |point| {
        let (owed, delivered) = missing.get();
        missing.set((owed + point.owed, delivered + point.delivered));
        let (owed, delivered) = missing.get();
        as_f64(owed.saturating_sub(delivered))
    });
    let chart = over_time(result, "Under way or lost", "messages", "", vec![line])?;
    Some(Chart { note: "Deliveries owed so far that have not come.".to_owned(), ..chart })
}

fn connections(result: &RunResult) -> Option<Chart> {
    let line = |name, color, count: fn(&Point) -> u64| {
        line_of(result, name, color, move |point| as_f64(count(point)))
    };
    let lines = vec![
        line("connected", "c1", |point| point.connected),
        line("connecting", "c4", |point| point.connecting),
        line("lost so far", "c2", |point| point.connections_lost),
    ];
    over_time(result, "Connections", "at the end of the second", "", lines)
}

fn lag(result: &RunResult) -> Option<Chart> {
    let line = line_of(result, "longest delay", "c1", |point| as_f64(point.lag_max_us) / 1e3);
    let chart = over_time(result, "The generator's own delay", "ms", "ms", vec![line])?;
    let note = "How late loadgen itself was with a message that was due; part of the latency.";
    Some(Chart { note: note.to_owned(), ..chart })
}

fn storm_recovery(result: &RunResult) -> Option<Chart> {
    const COLORS: [&str; 6] = ["c1", "c2", "c3", "c4", "c5", "c6"];
    let storms = result.storms.iter().filter(|storm| storm.devices > 0).take(COLORS.len());
    let lines: Vec<_> = (1..)
        .zip(storms)
        .zip(COLORS)
        .map(|((number, storm), color)| {
            let mut back = 0;
            let bins = storm.recovery.histogram().iter_recorded().map(|bin| {
                back += bin.count_since_last_iteration();
                let at_s = as_f64(bin.value_iterated_to()) / 1e9;
                (at_s, as_f64(back) * 100.0 / as_f64(storm.devices))
            });
            Line::new(&format!("storm {number}"), color, thinned(bins.collect()))
        })
        .collect();
    if lines.is_empty() {
        return None;
    }
    let slowest = result.storms.iter().max_by(|a, b| f64::total_cmp(&back(a), &back(b)))?;
    let marks = [("50 %", slowest.t50_s), ("99 %", slowest.t99_s)];
    let marks =
        marks.into_iter().filter_map(|(name, at)| Some(Mark { x: at?, name: name.to_owned() }));
    Some(Chart {
        title: "Recovery from a storm".to_owned(),
        note: "Devices that are back, by the time since the storm began.".to_owned(),
        x: XAxis {
            label: "seconds since it began".to_owned(),
            unit: "s".to_owned(),
            from_zero: true,
            ..XAxis::default()
        },
        y: YAxis {
            label: "% back".to_owned(),
            unit: "%".to_owned(),
            top: Some(100.0),
            ..YAxis::default()
        },
        marks: marks.collect(),
        lines,
        ..Chart::default()
    })
}

/// At most some 300 of the points of a curve, the last among them.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let step = points.len().div_ceil(300).max(1);
    let last = points.len().saturating_sub(1);
    let kept = |index: &usize| index.is_multiple_of(step) || *index == last;
    points
        .into_iter()
        .enumerate()
        .filter(|(index, _)| kept(index))
        .map(|(_, point)| point)
        .collect()
}

/// The differences of a sum that was sampled, a second.
fn slope(samples: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let samples: Vec<_> = samples.collect();
    samples
        .windows(2)
        .filter_map(|pair| match pair {
            [(from_s, from), (to_s, to)] if to_s - from_s > 0.1 => {
                Some(((from_s + to_s) / 2.0, (to - from) / (to_s - from_s)))
            }
            _ => None,
        })
        .collect()
}

fn cpu(result: &RunResult) -> Option<Chart> {
    let of =
        |process: &Process| slope(process.points.iter().map(|point| (point.at_s, point.cpu_s)));
    let mut lines = Vec::new();
    for process in &result.processes {
        match process.role {
            Role::Broker => lines.insert(0, Line::new("broker", "c1", of(process))),
            Role::Generator => lines.push(Line::new("loadgen", "c2", of(process))),
        }
    }
    if let [host] = &result.hosts[..] {
        let busy = slope(host.points.iter().map(|point| (point.at_s, point.busy_s)));
        lines.push(Line::new("the whole machine", "grey", busy).dashed());
    }
    let chart = over_time(result, "CPU", "cores", "cores", lines)?;
    let cores = result.hosts.first().map_or(0, |host| host.cores);
    Some(Chart {
        note: format!(
            "Cores busy, of {cores}. What the machine does beyond the two is others' work."
        ),
        ..chart
    })
}

fn memory(result: &RunResult) -> Option<Chart> {
    let growth = |samples: Vec<(f64, u64)>| {
        let first = samples.first().map_or(0, |(_, first)| *first);
        let mebibytes = move |count: u64| (as_f64(count) - as_f64(first)) / 1_048_576.0;
        samples.into_iter().map(move |(at_s, count)| (at_s, mebibytes(count)))
    };
    let mut lines = Vec::new();
    let mut note = "Growth since the run began.".to_owned();
    if let Some(broker) = result.broker() {
        let rss = broker.points.iter().map(|point| (point.at_s, point.rss_bytes));
        lines.push(Line::new("broker, resident", "c1", growth(rss.collect())));
        if let Some(first) = broker.points.first() {
            note += &format!(" The broker began with {}.", bytes(as_f64(first.rss_bytes)));
        }
    }
    if let [host] = &result.hosts[..] {
        let kernel = host.points.iter().map(|point| (point.at_s, point.kernel_bytes));
        lines.push(Line::new("kernel, whole machine", "grey", growth(kernel.collect())).dashed());
    }
    let chart = over_time(result, "Memory", "MiB more", "MiB", lines)?;
    Some(Chart { note, ..chart })
}

fn ledger(page: &mut Page, ledger: &LedgerRecord) {
    let faults = [
        ledger.foreign,
        ledger.corrupted,
        ledger.sessions_lost,
        ledger.wills_missing,
        ledger.wills_unexpected,
        ledger.retained_wrong,
    ];
    if ledger.owed == 0 && faults.iter().all(|count| *count == 0) {
        page.paragraph("No messages were owed in this run.");
        return;
    }
    let count = |count: u64| Cell::Number(grouped(count));
    let fault = |count: u64| {
        if count > 0 { Cell::Bad(grouped(count)) } else { Cell::Number("0".to_owned()) }
    };
    let row = |name: &str, cell: Cell, meaning: &str| {
        vec![Cell::Head(name.to_owned()), cell, Cell::Text(meaning.to_owned())]
    };
    page.table(
        &["", "messages", ""],
        &[
            row(
                "owed",
                count(ledger.owed),
                "published, once for each subscription that should get it",
            ),
            row("delivered", count(ledger.delivered), "of those, came at least once"),
            row("lost", fault(ledger.lost), "of those, never came"),
            row(
                "acknowledged, then lost",
                fault(ledger.acknowledged_then_lost),
                "lost although the broker had taken responsibility",
            ),
            row(
                "duplicated",
                count(ledger.duplicated),
                "deliveries of what had come before; QoS 1 allows them",
            ),
            row("reordered", fault(ledger.reordered), "came after a later one of the same stream"),
            row("corrupted", fault(ledger.corrupted), "wrong checksum"),
            row("foreign", fault(ledger.foreign), "not published in this run, or not asked for"),
            row("sessions lost", fault(ledger.sessions_lost), "that the broker had to keep"),
            row("wills missing", fault(ledger.wills_missing), "owed and not come"),
            row("wills unexpected", fault(ledger.wills_unexpected), "come and not owed"),
            row(
                "retained messages wrong",
                fault(ledger.retained_wrong),
                "missing, or not the last",
            ),
        ],
    );
    if ledger.examples.is_empty() {
        return;
    }
    page.note("The first streams in which something was wrong:");
    let rows: Vec<_> = ledger
        .examples
        .iter()
        .map(|example| {
            vec![
                Cell::Head(example.stream.clone()),
                fault(example.lost),
                Cell::Number(example.first_lost.map_or_else(|| "-".to_owned(), grouped)),
                count(example.duplicated),
                fault(example.reordered),
            ]
        })
        .collect();
    page.table(&["stream", "lost", "first lost", "duplicated", "reordered"], &rows);
}

/// What became of a fleet of simulated devices, phase by phase and all together.
fn fleet(page: &mut Page, fleet: &FleetRecord) {
    page.section("The fleet");
    let within_99 = |times: &Times| {
        let none = times.count() == 0;
        Cell::Number(if none { "-".to_owned() } else { time_us(times.at_quantile_us(0.99)) })
    };
    let rows: Vec<_> = fleet
        .phases
        .iter()
        .map(|phase| {
            let counts = &phase.counts;
            let away = counts.hit.saturating_sub(counts.recovered);
            vec![
                Cell::Head(phase.name.clone()),
                Cell::Number(format!("{:.1} s", phase.start_s)),
                Cell::Number(grouped(counts.due)),
                Cell::Number(grouped(counts.published)),
                Cell::Number(grouped(counts.delivered)),
                within_99(&phase.latency),
                within_99(&phase.probe),
                Cell::Number(grouped(counts.connects)),
                Cell::Number(grouped(counts.hit)),
                if away > 0 { Cell::Bad(grouped(away)) } else { Cell::Number("0".to_owned()) },
                within_99(&phase.recovery),
            ]
        })
        .collect();
    page.table(
        &[
            "phase",
            "from",
            "due",
            "published",
            "delivered",
            "99 % within",
            "probes, 99 %",
            "connects",
            "hit",
            "not back",
            "99 % back",
        ],
        &rows,
    );
    page.note(
        "Latency has the outages of the devices in it; probes are clients on a wire, and say what the \
         broker alone takes.",
    );
    if (fleet.compress - 1.0).abs() > f64::EPSILON {
        page.note(&format!(
            "What happens to a device now and then happened {} times as often as its profile says.",
            figure(fleet.compress)
        ));
    }
    let counts = &fleet.counts;
    let rows = [
        ("sessions resumed", counts.sessions_resumed),
        ("connections ended with DISCONNECT", counts.ended_gracefully),
        ("connections the device or its network ended without a word", counts.ended_ungracefully),
        ("connections the broker ended", counts.ended_by_broker),
        ("connections refused", counts.refused),
        ("connections given up because TLS or WebSocket failed", counts.layer_faults),
        ("handshakes, CONNECT or SUBSCRIBE not answered in time", counts.unanswered),
        ("messages given up by full devices", counts.given_up),
        ("wills that had to come", counts.wills_owed),
        ("devices away at the end", counts.away_at_the_end),
        ("messages unfinished at the end", counts.unfinished),
    ];
    let rows: Vec<_> = rows
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| vec![Cell::Head(name.to_owned()), Cell::Number(grouped(count))])
        .collect();
    if !rows.is_empty() {
        page.table(&[], &rows);
    }
}

fn devices(page: &mut Page, result: &RunResult) {
    let rows: Vec<_> = result
        .run
        .groups
        .iter()
        .map(|group| {
            let publishes = match (group.saturating, group.publish_rate_per_s) {
                (true, _) => "as fast as it goes".to_owned(),
                (false, Some(rate)) => format!("{}/s together", figure(rate)),
                (false, None) => "-".to_owned(),
            };
            let payload = group.payload_bytes.map_or_else(|| "-".to_owned(), |b| format!("{b} B"));
            let keep_alive = match group.keep_alive_s {
                0 => "off".to_owned(),
                seconds => format!("{seconds} s"),
            };
            vec![
                Cell::Head(group.profile.as_ref().map_or_else(
                    || group.name.clone(),
                    |profile| format!("{} ({profile})", group.name),
                )),
                Cell::Number(grouped(group.devices)),
                Cell::Text(format!("MQTT {} over {}", group.mqtt, group.transport)),
                Cell::Text(group.qos.map_or_else(|| "-".to_owned(), |qos| qos.to_string())),
                Cell::Text(publishes),
                Cell::Text(payload),
                Cell::Text(group.subscriptions_each.to_string()),
                Cell::Text(keep_alive),
                Cell::Text(if group.persistent { "kept" } else { "clean" }.to_owned()),
            ]
        })
        .collect();
    page.table(
        &[
            "devices",
            "number",
            "protocol",
            "QoS",
            "publish",
            "payload",
            "subscriptions each",
            "Keep Alive",
            "session",
        ],
        &rows,
    );
}

fn phases(page: &mut Page, result: &RunResult) {
    page.note(
        "Phases, in seconds from the start of the run; figures are those of the measured ones.",
    );
    let rows: Vec<_> = result
        .phases
        .iter()
        .map(|phase| {
            vec![
                Cell::Head(phase.name.clone()),
                Cell::Number(format!("{:.2}", phase.start_s)),
                Cell::Number(format!("{:.2}", phase.end_s)),
                Cell::Number(format!("{:.2}", phase.end_s - phase.start_s)),
                Cell::Number(grouped(phase.connects)),
                Cell::Number(grouped(phase.published)),
                Cell::Number(grouped(phase.delivered)),
                Cell::Text(if phase.measured { "measured" } else { "" }.to_owned()),
            ]
        })
        .collect();
    page.table(&["phase", "from", "to", "takes", "connects", "published", "delivered", ""], &rows);
    let faults = &result.totals.faults;
    if !faults.is_empty() {
        page.note("The first faults of connections:");
        page.code(&faults.join("\n"));
    }
}

fn machines(page: &mut Page, result: &RunResult) {
    let row = |host: &Host| {
        let limit =
            host.memory_limit_bytes.map(|limit| format!(", limited to {}", bytes(as_f64(limit))));
        vec![
            Cell::Head(host.hostname.clone()),
            Cell::Text(host.cpu.clone()),
            Cell::Number(host.cores.to_string()),
            Cell::Number(bytes(as_f64(host.memory_bytes)) + &limit.unwrap_or_default()),
            Cell::Number(grouped(host.descriptors_max)),
            Cell::Text(host.kernel.clone()),
        ]
    };
    let rows: Vec<_> = result.hosts.iter().map(row).collect();
    page.table(&["machine", "processor", "cores", "memory", "descriptors", "Linux"], &rows);
    let rows: Vec<_> = result
        .processes
        .iter()
        .map(|process| {
            let role = match process.role {
                Role::Broker => "broker",
                Role::Generator => "loadgen",
            };
            vec![
                Cell::Head(role.to_owned()),
                Cell::Text(process.hostname.clone()),
                Cell::Number(process.pid.to_string()),
                Cell::Text(process.command.clone()),
            ]
        })
        .collect();
    if !rows.is_empty() {
        page.note("Processes that were watched:");
        page.table(&["process", "machine", "pid", "command"], &rows);
    }
}

/// A command line that a shell takes as it is.
fn command(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    let quoted = words.iter().map(|word| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// The date of a time since 1970, UTC. Source: the days-to-civil algorithm of H. Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms".
pub(crate) fn date(unix_ms: u64) -> String {
    let (days, seconds) = (unix_ms / 86_400_000, unix_ms / 1_000 % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (seconds / 3_600, seconds / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400_000), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_795_675_770_123), "2026-11-26 06:49 UTC");
    }

    #[test]
    fn a_command_can_be_pasted() {
        let words = ["loadgen", "bench", "--note", "it's me", "--rate=5", ""].map(str::to_owned);
        assert_eq!(command(&words), r"loadgen bench --note 'it'\''s me' --rate=5 ''");
    }

    #[test]
    fn a_slope_is_the_difference_a_second() {
        let samples = [(0.0, 1.0), (2.0, 2.0), (2.05, 9.0), (3.0, 10.0)];
        let slopes = slope(samples.into_iter());
        assert_eq!(slopes.first(), Some(&(1.0, 0.5)));
        assert_eq!(slopes.len(), 2, "samples that are too close say nothing");
    }
}

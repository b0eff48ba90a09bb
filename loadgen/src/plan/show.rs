//! A plan as text and as a page.

use std::fmt::{self, Formatter};

use super::{
    Plan,
    coefficients::{Coefficient, Measured, Model, Work},
    fleet::Fleet,
    size::{self, Ground, Load, Resource, Size},
};
use crate::page::{Cell, Chart, Line, Mark, Page, XAxis, YAxis, figure};

/// What the page draws.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    memory: Option<Chart>,
    cpu: Option<Chart>,
    storm: Option<Chart>,
}

const MEBIBYTE: f64 = 1_048_576.0;
/// Steps of a drawn line.
const STEPS: u32 = 40;

impl Drawn {
    /// The charts of a plan, made where the model is at hand.
    pub(super) fn of(
        fleet: &Fleet,
        load: &Load,
        model: &Model,
        measured: &Measured,
        size: &Size,
    ) -> Self {
        Self {
            memory: Some(memory(model, measured)),
            cpu: Some(cpu(model, measured)),
            storm: Some(storm(fleet, load, model, size)),
        }
    }
}

/// What it takes, in a sentence.
fn sentence(plan: &Plan) -> String {
    let (size, machine) = (&plan.size, &plan.fleet.machine);
    let spare = match plan.fleet.demand.spare_gateways {
        0 => String::new(),
        spare => format!(" ({spare} of them to spare)"),
    };
    let sub_clusters = match size.sub_clusters {
        None => String::new(),
        Some(1) => ", and 1 sub-cluster".to_owned(),
        Some(number) => format!(", and {number} sub-clusters"),
    };
    format!(
        "{} devices take {} gateway{} of {} cores and {} GiB{spare}{sub_clusters}; {} decides. After \
         a storm all are back in {} s.",
        figure_whole(plan.load.devices),
        size.gateways,
        if size.gateways == 1 { "" } else { "s" },
        machine.cores,
        machine.memory_gib,
        size.bound_by,
        figure(size.storm_s)
    )
}

fn figure_whole(value: f64) -> String {
    if value < 1_000.0 { format!("{value:.0}") } else { figure(value) }
}

fn interval(coefficient: &Coefficient) -> String {
    if coefficient.taken_as_zero {
        return "not told from 0".to_owned();
    }
    format!("{} ± {}", figure(coefficient.value), figure(coefficient.half_width))
}

fn measured_range(coefficient: &Coefficient) -> String {
    let (low, high) = coefficient.measured;
    format!("{} to {}", figure_whole(low), figure_whole(high))
}

fn mark(resource: &Resource) -> String {
    match resource.ground {
        Ground::Extrapolated(times) => format!("extrapolated, {times:.1}x beyond"),
        Ground::Measured => "within what was measured".to_owned(),
        Ground::Calculated => "calculated".to_owned(),
    }
}

/// The plan for a terminal.
pub(super) fn text(plan: &Plan, f: &mut Formatter<'_>) -> fmt::Result {
    writeln!(f, "{}", sentence(plan))?;
    writeln!(f, "\nof one gateway, spare ones away:")?;
    writeln!(
        f,
        "  {:<24}{:>12}{:>12}{:>12}{:>10}  measured",
        "", "expected", "planned", "available", "gateways"
    )?;
    for resource in &plan.size.resources {
        let name = format!("{} {}", resource.name, resource.unit);
        writeln!(
            f,
            "  {:<24}{:>12}{:>12}{:>12}{:>10}  {}",
            name.trim_end(),
            figure(resource.expected),
            figure(resource.planned),
            figure(resource.available),
            resource.gateways,
            mark(resource)
        )?;
    }
    writeln!(f, "\nwhat work and connections cost (95 % interval; measured range):")?;
    for coefficient in plan.cpu.iter().chain(&plan.memory) {
        writeln!(
            f,
            "  {:<28}{:>24} {:<7} {}",
            coefficient.of,
            interval(coefficient),
            coefficient.unit,
            measured_range(coefficient)
        )?;
    }
    writeln!(
        f,
        "  the CPU fit is typically {:.1} % off, {} degrees of freedom",
        plan.cpu_typical_error * 100.0,
        plan.cpu_freedom
    )?;
    writeln!(f, "\nwhat to know:")?;
    for caveat in &plan.caveats {
        writeln!(f, "  - {caveat}")?;
    }
    Ok(())
}

/// The plan as a page.
pub(super) fn page(plan: &Plan) -> String {
    let mut page = Page::new("Capacity plan");
    page.head(
        "Capacity plan",
        &format!("from {} runs, loadgen {}", plan.runs.len(), env!("CARGO_PKG_VERSION")),
    );
    let beyond: Vec<_> =
        plan.size.resources.iter().filter(|resource| resource.beyond().is_some()).collect();
    let (kind, label) = match beyond.is_empty() {
        true => ("held", "Within what was measured"),
        false => ("invalid", "Extrapolated"),
    };
    let far: Vec<_> = beyond
        .iter()
        .filter_map(|resource| Some(format!("{} {:.1}x", resource.name, resource.beyond()?)))
        .collect();
    let note = if far.is_empty() {
        String::new()
    } else {
        format!(" This goes beyond what was measured: {}.", far.join(", "))
    };
    page.verdict(kind, label, &(sentence(plan) + &note));
    let tile = |name: &str, value: String, note: String| (name.to_owned(), value, note);
    let size = &plan.size;
    let mut tiles = vec![
        tile(
            "gateways",
            size.gateways.to_string(),
            format!("{} to spare", plan.fleet.demand.spare_gateways),
        ),
        tile("cores", size.cores.to_string(), "of all gateways".to_owned()),
        tile("connections", figure_whole(plan.load.connections), "at a time".to_owned()),
        tile("messages stored/s", figure_whole(plan.load.stored_per_s), "QoS 1 and 2".to_owned()),
        tile(
            "network",
            format!("{} Gbit/s", figure(plan.load.in_bit_s.max(plan.load.out_bit_s) / 1e9)),
            "the busier way, all gateways".to_owned(),
        ),
        tile(
            "storm",
            format!("{} s", figure(size.storm_s)),
            format!("{} connects/s a gateway", figure_whole(size.storm_connects_per_s)),
        ),
    ];
    let sub_clusters =
        size.sub_clusters.map_or_else(|| "?".to_owned(), |number| number.to_string());
    let why = match size.sub_clusters {
        Some(_) => "by the rate given",
        None => "give --sub-cluster-messages-per-s",
    };
    tiles.push(tile("sub-clusters", sub_clusters, why.to_owned()));
    page.tiles(&tiles);

    page.section("One gateway, while the spare ones are away");
    page.note(
        "Planned is the upper end of the 95 % interval. Available is what the machine has less the \
         headroom. The last number of gateways is what each line alone would take.",
    );
    let rows: Vec<_> = size
        .resources
        .iter()
        .map(|resource| {
            let number = |value: f64| Cell::Number(format!("{} {}", figure(value), resource.unit));
            vec![
                Cell::Head(resource.name.to_owned()),
                number(resource.expected),
                number(resource.planned),
                number(resource.available),
                Cell::Number(resource.gateways.to_string()),
                match resource.beyond() {
                    Some(_) => Cell::Flag(mark(resource)),
                    None => Cell::Text(mark(resource)),
                },
            ]
        })
        .collect();
    page.table(&["", "expected", "planned", "available", "gateways", "measured"], &rows);
    let drawn = [&plan.drawn.storm, &plan.drawn.memory, &plan.drawn.cpu];
    page.section("Fits and what follows from them");
    page.charts(drawn.into_iter().flatten().cloned());

    costs(&mut page, plan);
    fleet(&mut page, plan);
    page.section("What to know before believing it");
    for caveat in &plan.caveats {
        page.paragraph(caveat);
    }
    page.section("Method");
    page.paragraph(
        "CPU: cores = idle + Σ cost × rate, one observation for each measured phase of a run, by \
         weighted least squares. An observation's deviation is the 10 ms step of CPU time over its \
         length together with 5 % of what was measured. Memory: resident = empty + connection × \
         number (+ subscription × number, where runs tell it apart); kernel = connection × number. \
         Intervals are Student's at 95 % from the residuals. A cost that would come out below 0 is \
         taken as 0.",
    );
    page.section("Runs");
    page.code(&plan.runs.join("\n"));
    page.finish()
}

fn costs(page: &mut Page, plan: &Plan) {
    page.section("What work and connections cost");
    page.note(&format!(
        "With 95 % intervals. The CPU fit is typically {:.1} % off what was measured, with {} degrees of \
         freedom.",
        plan.cpu_typical_error * 100.0,
        plan.cpu_freedom
    ));
    let rows: Vec<_> = plan
        .cpu
        .iter()
        .chain(&plan.memory)
        .map(|coefficient| {
            vec![
                Cell::Head(coefficient.of.clone()),
                Cell::Number(interval(coefficient)),
                Cell::Text(coefficient.unit.to_owned()),
                Cell::Number(measured_range(coefficient)),
                Cell::Number(coefficient.observations.to_string()),
            ]
        })
        .collect();
    page.table(&["", "cost", "in", "measured at (a second, or number)", "observations"], &rows);
}

fn fleet(page: &mut Page, plan: &Plan) {
    page.section("The fleet");
    let every = |seconds: f64| match seconds {
        0.0 => "never".to_owned(),
        seconds => format!("{seconds} s"),
    };
    let rows: Vec<_> = plan
        .fleet
        .devices
        .iter()
        .map(|devices| {
            vec![
                Cell::Head(devices.name.clone()),
                Cell::Number(crate::page::grouped(devices.count)),
                Cell::Number(format!("{} %", figure(devices.connected * 100.0))),
                Cell::Number(every(devices.publish_every_s)),
                Cell::Number(every(devices.receive_every_s)),
                Cell::Number(figure(devices.deliveries)),
                Cell::Number(devices.qos.to_string()),
                Cell::Number(format!("{} B", devices.payload_bytes)),
                Cell::Number(every(devices.keep_alive_s)),
                Cell::Number(every(devices.connect_every_s)),
            ]
        })
        .collect();
    page.table(
        &[
            "devices",
            "number",
            "connected",
            "publishes every",
            "gets one every",
            "subscribers a message",
            "QoS",
            "payload",
            "Keep Alive",
            "connects every",
        ],
        &rows,
    );
    page.note("All together, a second:");
    let rows: Vec<_> = plan
        .load
        .rates
        .iter()
        .map(|(work, rate)| vec![Cell::Head(plural(*work)), Cell::Number(figure(*rate))])
        .collect();
    page.table(&[], &rows);
}

fn plural(work: Work) -> String {
    match work {
        Work::Idle => "idling".to_owned(),
        Work::Connect => "connects".to_owned(),
        Work::Ping => "pings".to_owned(),
        Work::MessageIn(qos) => format!("messages in, QoS {qos}"),
        Work::MessageOut(qos) => format!("messages out, QoS {qos}"),
    }
}

fn steps(low: f64, high: f64) -> impl Iterator<Item = f64> {
    (0..=STEPS).map(move |step| low + (high - low) * f64::from(step) / f64::from(STEPS))
}

fn memory(model: &Model, measured: &Measured) -> Chart {
    let most = measured.connections_max();
    let dots = measured.memory.iter().map(|point| (point.connections, point.user_bytes / MEBIBYTE));
    let predicted = |connections: f64| model.user_bytes(connections, 0.0);
    let line = steps(0.0, most).map(|x| (x, predicted(x).value / MEBIBYTE));
    let spread = steps(0.0, most).map(|x| {
        let estimate = predicted(x);
        let half = estimate.half_width;
        (x, (estimate.value - half).max(0.0) / MEBIBYTE, (estimate.value + half) / MEBIBYTE)
    });
    let fitted =
        Line { spread: spread.collect(), ..Line::new("fit, with its interval", "c1", line) };
    let seen = Line { dots: true, ..Line::new("measured", "c2", dots) };
    Chart {
        title: "Memory over connections".to_owned(),
        note: "Resident memory of the broker; the line is without subscriptions.".to_owned(),
        x: XAxis { label: "connections".to_owned(), from_zero: true, ..XAxis::default() },
        y: YAxis { label: "MiB".to_owned(), unit: "MiB".to_owned(), ..YAxis::default() },
        lines: vec![fitted, seen],
        ..Chart::default()
    }
}

fn cpu(model: &Model, measured: &Measured) -> Chart {
    let said =
        |window: &super::coefficients::CpuWindow| (model.cores(&window.rates).value, window.cores);
    let dots: Vec<_> = measured.cpu.iter().map(said).collect();
    let most = dots.iter().map(|(said, seen)| said.max(*seen)).fold(0.0, f64::max);
    let equal = steps(0.0, most).map(|x| (x, x));
    Chart {
        title: "CPU: measured against the fit".to_owned(),
        note: "A dot for each measured phase; on the line the fit says what was measured."
            .to_owned(),
        x: XAxis { label: "cores by the fit".to_owned(), from_zero: true, ..XAxis::default() },
        y: YAxis {
            label: "cores measured".to_owned(),
            unit: "cores".to_owned(),
            ..YAxis::default()
        },
        lines: vec![
            Line::new("equal", "grey", equal).dashed(),
            Line { dots: true, ..Line::new("measured", "c1", dots) },
        ],
        ..Chart::default()
    }
}

fn storm(fleet: &Fleet, load: &Load, model: &Model, size: &Size) -> Chart {
    let working = size.gateways - fleet.demand.spare_gateways;
    let most = (working * 2).max(working + 4);
    let points = (1..=most).filter_map(|gateways| {
        let seconds = size::storm(fleet, load, model, f64::from(gateways)).0;
        seconds.is_finite().then_some((f64::from(gateways), seconds))
    });
    Chart {
        title: "Storm recovery over gateways".to_owned(),
        note: "Seconds until every device is back, with what steady operation leaves of the cores."
            .to_owned(),
        x: XAxis {
            label: "gateways at work".to_owned(),
            unit: "gateways".to_owned(),
            from_zero: false,
            ..XAxis::default()
        },
        y: YAxis {
            label: "seconds".to_owned(),
            unit: "s".to_owned(),
            log: true,
            ..YAxis::default()
        },
        lines: vec![Line::new("all back after", "c1", points)],
        marks: vec![Mark { x: f64::from(working), name: "planned, spare away".to_owned() }],
        ..Chart::default()
    }
}

//! `loadgen plan`: from measured runs to the gateways, cores, memory and sub-clusters of a fleet.
//!
//! ```text
//! result.json ─▶ Measured ─▶ Model ─┐
//! (runs that held)  (fits with       ├─▶ Size ─▶ plan.html, plan.json, text
//!                    intervals)      │
//! --fleet, TOML ──▶ Fleet ─▶ Load ───┘
//! ```
//!
//! CPU is linear in the rates of work: cores = idle + Σ cost × rate, one observation a measured phase
//! of a run, weighted by how exactly it was measured. Memory is linear in connections and
//! subscriptions. Everything is planned with the upper end of the 95 % interval, and what lies
//! beyond the measured range is marked. Where the runs do not tell what the fleet needs there is no
//! plan, but the commands to run.

mod coefficients;
mod fit;
mod fleet;
mod show;
mod size;

use std::fmt::{self, Display, Formatter, Write as _};

use anyhow::Context as _;
use serde::Serialize;

use crate::{args::PlanArguments, result};
use coefficients::{Coefficient, Measured, Missing, Model};
pub(crate) use fleet::{Devices, Fleet};
use size::{Load, Size};

/// A plan with all that it rests on, as in `plan.json`.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    /// What was asked for.
    fleet: Fleet,
    /// What the fleet does.
    load: Load,
    /// What it takes.
    size: Size,
    /// What work costs.
    cpu: Vec<Coefficient>,
    /// What connections take.
    memory: Vec<Coefficient>,
    /// The typical error of the CPU fit on what was measured, as a share.
    cpu_typical_error: f64,
    /// Observations of the CPU fit less its coefficients.
    cpu_freedom: usize,
    /// The fastest storm that was measured: connects a second until 99 % were back.
    storm_connects_measured_per_s: f64,
    /// What to know before believing it.
    caveats: Vec<String>,
    /// The runs, and what each was.
    runs: Vec<String>,
    /// Not for the file: what pages draw.
    #[serde(skip)]
    drawn: show::Drawn,
}

/// Makes the plan, writes it into a folder if one was named, and returns it to be printed.
///
/// # Errors
///
/// When the fleet makes no sense, a run cannot be read, or the runs do not support a plan: then
/// with all that is missing.
pub(crate) fn run(arguments: &PlanArguments) -> anyhow::Result<Plan> {
    let mut fleet = match &arguments.spec {
        Some(path) => Fleet::read(path)?,
        None => Fleet::default(),
    };
    fleet.devices.extend(arguments.fleet.iter().cloned());
    let demand = &mut fleet.demand;
    demand.headroom = arguments.headroom.unwrap_or(demand.headroom);
    demand.storm_s = arguments.storm_s.unwrap_or(demand.storm_s);
    demand.sub_cluster_messages_per_s =
        arguments.sub_cluster_messages_per_s.or(demand.sub_cluster_messages_per_s);
    let machine = &mut fleet.machine;
    machine.cores = arguments.cores.unwrap_or(machine.cores);
    machine.memory_gib = arguments.memory_gib.unwrap_or(machine.memory_gib);
    fleet.validate()?;

    let mut measured = Measured::default();
    let (mut runs, mut brokers, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    for path in &arguments.runs {
        let result = result::read(path)?;
        let what = format!("{}: {}", path.display(), result.run.command.join(" "));
        if let Err(why) = measured.add(&result) {
            left_out.push(format!("Left out: {}: {why}.", path.display()));
            continue;
        }
        let host = result.hosts.first().map(|host| host.cpu.clone()).unwrap_or_default();
        brokers.push((result.broker().map(|broker| broker.hostname.clone()), host));
        runs.push(what);
    }
    brokers.dedup();
    let refused = |missing: Vec<Missing>| anyhow::Error::msg(refusal(&missing, &left_out));
    let mut plan = Plan::of(fleet, &measured).map_err(refused)?;
    plan.caveats.extend(left_out);
    if brokers.len() > 1 {
        plan.caveats.push(
            "The runs are of different machines, which one model cannot describe.".to_owned(),
        );
    }
    plan.runs = runs;
    if let Some(folder) = &arguments.out {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let json = serde_json::to_vec_pretty(&plan).context("cannot write a plan as JSON")?;
        result::write_file(&folder.join("plan.json"), &json)?;
        result::write_file(&folder.join("plan.html"), show::page(&plan).as_bytes())?;
        result::write_file(&folder.join("plan.txt"), plan.to_string().as_bytes())?;
    }
    Ok(plan)
}

impl Plan {
    fn of(fleet: Fleet, measured: &Measured) -> Result<Self, Vec<Missing>> {
        let load = Load::of(&fleet);
        let model = Model::fit(measured, &load.works())?;
        let Some(size) = Size::of(&fleet, &load, &model, measured) else {
            return Err(vec![Missing {
                what: "a number of gateways".to_owned(),
                why: "not even 10,000 of this machine do it".to_owned(),
                run: "the same with a larger machine, or less headroom".to_owned(),
            }]);
        };
        let (cpu_typical_error, cpu_freedom) = model.cpu_quality();
        Ok(Self {
            caveats: caveats(&fleet, measured, &model, cpu_freedom),
            drawn: show::Drawn::of(&fleet, &load, &model, measured, &size),
            cpu: model.cpu_coefficients,
            memory: model.memory_coefficients,
            storm_connects_measured_per_s: measured.storm_connects_max,
            runs: Vec::new(),
            fleet,
            load,
            size,
            cpu_typical_error,
            cpu_freedom,
        })
    }
}

/// What to know before believing a plan.
fn caveats(fleet: &Fleet, measured: &Measured, model: &Model, freedom: usize) -> Vec<String> {
    let mut caveats = vec![
        "CPU is that of the machine of the runs; a core of another kind does more or less."
            .to_owned(),
        "Network is calculated, every packet in a segment of its own, not measured.".to_owned(),
    ];
    caveats.push(
        "The storm is counted by CPU alone: the listener's backlog, and whoever checks who connects, \
         may make it longer; devices that back off certainly do."
            .to_owned(),
    );
    if freedom < 3 {
        caveats.push(format!(
            "The CPU fit has {freedom} observations to spare: its intervals are wide. More runs narrow them."
        ));
    }
    if model.kernel_bytes(1.0).is_none() {
        caveats.push("The kernel's memory was not measured and is not in the plan.".to_owned());
    } else {
        caveats.push(
            "The kernel's memory is half of the machine's growth: broker and generator each had one end \
             of every connection. It holds buffers of idle connections; slow readers need more."
                .to_owned(),
        );
    }
    let sizes = || fleet.devices.iter().map(|devices| devices.payload_bytes);
    if let (Some(low), Some(high)) = (measured.payload_bytes.first(), measured.payload_bytes.last())
        && sizes().any(|size| size > high * 2 || size * 2 < *low)
    {
        caveats.push(format!(
            "Payloads of {low} to {high} bytes were measured, the fleet's are {} to {}: a message is \
             counted as one of those measured.",
            sizes().min().unwrap_or(0),
            sizes().max().unwrap_or(0)
        ));
    }
    if measured.transports.len() > 1 {
        let transports: Vec<_> = measured.transports.iter().map(String::as_str).collect();
        caveats.push(format!(
            "The runs mix {}: what a connection and a message cost is something in between.",
            transports.join(" and ")
        ));
    }
    if fleet.demand.tls {
        caveats.push(
            "TLS is in the network's figures; its CPU and memory only if the runs used it."
                .to_owned(),
        );
    }
    if fleet.demand.sub_cluster_messages_per_s.is_some() {
        caveats.push("What a sub-cluster stores a second was given, not measured here.".to_owned());
    }
    caveats
}

/// Why there is no plan, and what to run.
fn refusal(missing: &[Missing], left_out: &[String]) -> String {
    let mut text = "the runs do not support a plan:".to_owned();
    for line in left_out {
        write!(text, "\n  {line}").expect("a String takes everything");
    }
    for Missing { what, why, run } in missing {
        write!(text, "\n  {what}: {why}\n    run: {run}").expect("a String takes everything");
    }
    text
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        show::text(self, f)
    }
}

#[cfg(test)]
mod tests;

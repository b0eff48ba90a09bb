//! `loadgen compare`: the same scenarios against several brokers in turn.
//!
//! Each run is a loadgen of its own with a result folder of its own, so that no run inherits
//! anything, and a broker that is started for it runs alone. Repetitions are interleaved, and begin
//! with another broker each time: what changes on the machine meanwhile hits all alike. Ratios are
//! of runs of the same repetition.

mod broker;
mod figures;
mod show;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

use crate::{
    args::CompareArguments,
    result::{self, Outcome, RunResult},
};
pub(crate) use broker::Broker;
use figures::{Comparison, RunFigures};

/// What came of all runs.
pub(crate) struct Compared {
    comparison: Comparison,
    worst: Outcome,
}

impl Compared {
    /// That of the worst run.
    pub(crate) fn exit_code(&self) -> u8 {
        self.worst.exit_code()
    }
}

impl std::fmt::Display for Compared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&show::markdown(&self.comparison))
    }
}

/// Runs everything and writes tables and page into the folder.
///
/// # Errors
///
/// When a broker cannot be started or the folder not be written. A run that could not be made is
/// counted as one that says nothing.
pub(crate) fn run(arguments: &CompareArguments) -> anyhow::Result<Compared> {
    let scenarios: Vec<Vec<String>> =
        arguments.scenario.iter().map(|text| words(named(text).1)).collect();
    ensure!(scenarios.iter().all(|words| !words.is_empty()), "a scenario is empty");
    let mut names: Vec<&str> = arguments.broker.iter().map(|broker| broker.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    ensure!(names.len() == arguments.broker.len(), "two brokers have the same name");
    fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot make {}", arguments.out.display()))?;

    let mut comparison = Comparison::new(
        arguments.broker.iter().map(|broker| broker.name.clone()).collect(),
        arguments.scenario.iter().map(|text| named(text).0.to_owned()).collect(),
        arguments.repetitions,
    );
    let mut worst = Outcome::Held;
    let mut raw = Vec::new();
    let count = arguments.broker.len();
    for repetition in 0..arguments.repetitions {
        for (number, scenario) in scenarios.iter().enumerate() {
            for turn in 0..count {
                let index = (turn + repetition as usize) % count;
                let Some(broker) = arguments.broker.get(index) else { continue };
                eprintln!(
                    "repetition {} of {}: {} against {}",
                    repetition + 1,
                    arguments.repetitions,
                    scenario.join(" "),
                    broker.name
                );
                let folder = run_folder(&arguments.out, number, &broker.name, repetition);
                let made = one(broker, scenario, &folder)?;
                worst = worst.max(made.outcome());
                if let Some(result) = &made.result {
                    comparison.describe(result);
                    raw.push(line_of(broker, scenario, repetition, result)?);
                }
                comparison.add(number, index, repetition, made.figures());
            }
        }
        // What there is so far can be looked at while the rest runs.
        write(&arguments.out, &comparison, &raw)?;
    }
    Ok(Compared { comparison, worst })
}

/// A run that was made, or why not.
struct Made {
    result: Option<RunResult>,
    why_not: String,
}

impl Made {
    fn outcome(&self) -> Outcome {
        self.result.as_ref().map_or(Outcome::Invalid, |result| result.verdict.outcome)
    }

    fn figures(&self) -> RunFigures {
        match &self.result {
            Some(result) => RunFigures::of(result),
            None => RunFigures::failed(&self.why_not),
        }
    }
}

fn run_folder(out: &Path, scenario: usize, broker: &str, repetition: u32) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    let broker: String = broker.chars().map(plain).collect();
    out.join("runs").join(format!("{}-{broker}-{}", scenario + 1, repetition + 1))
}

/// One run: the broker up, loadgen, the broker down.
fn one(broker: &Broker, scenario: &[String], folder: &Path) -> anyhow::Result<Made> {
    // What an earlier comparison left there is not this run's.
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    let running = broker.start()?;
    let program = std::env::current_exe().context("cannot find my own program")?;
    let mut command = Command::new(program);
    let address = if scenario.first().is_some_and(|name| name == "run") {
        ["--broker".to_owned(), format!("mqtt://{}", broker.address)]
    } else {
        ["--target".to_owned(), broker.address.to_string()]
    };
    command.args(scenario).args(address).arg("--quiet");
    command.arg("--out").arg(folder);
    if let Some(pid) = running.pid() {
        command.args(["--watch-pid", &pid.to_string()]);
    }
    let output = command.stdout(Stdio::null()).output().context("cannot start loadgen")?;
    running.stop()?;
    if output.status.code().is_some_and(|code| [0, 2, 3].contains(&code)) {
        let result = result::read(folder)?;
        return Ok(Made { result: Some(result), why_not: String::new() });
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    eprintln!("  not made: {said}");
    Ok(Made { result: None, why_not: said })
}

/// A line of `raw.jsonl`: the result without what happened second by second.
fn line_of(
    broker: &Broker,
    scenario: &[String],
    repetition: u32,
    result: &RunResult,
) -> anyhow::Result<Vec<u8>> {
    let mut result = result.clone();
    result.run.broker_name = Some(broker.name.clone());
    result.series.points.clear();
    result.processes.iter_mut().for_each(|process| process.points.clear());
    result.hosts.iter_mut().for_each(|host| host.points.clear());
    let fields: BTreeMap<&str, serde_json::Value> = [
        ("broker", broker.name.as_str().into()),
        ("scenario", scenario.join(" ").into()),
        ("repetition", (repetition + 1).into()),
        ("result", serde_json::to_value(&result).context("cannot write a result as JSON")?),
    ]
    .into();
    let mut line = serde_json::to_vec(&fields).context("cannot write a result as JSON")?;
    line.push(b'\n');
    Ok(line)
}

fn write(out: &Path, comparison: &Comparison, raw: &[Vec<u8>]) -> anyhow::Result<()> {
    let json = serde_json::to_vec_pretty(comparison).context("cannot write figures as JSON")?;
    let mut lines = Vec::new();
    for line in raw {
        lines.write_all(line)?;
    }
    result::write_file(&out.join("raw.jsonl"), &lines)?;
    result::write_file(&out.join("compare.json"), &json)?;
    result::write_file(&out.join("summary.md"), show::markdown(comparison).as_bytes())?;
    result::write_file(&out.join("report.html"), show::page(comparison).as_bytes())
}

/// The name of a scenario, which may stand before a colon, and its command.
fn named(text: &str) -> (&str, &str) {
    text.split_once(": ").unwrap_or((text, text))
}

/// The words of a scenario: apart by blanks, but for those in single or double quotes.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None::<String>;
    let mut quote = None;
    for letter in text.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, _) if letter.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(words("  bench --qos 1 "), ["bench", "--qos", "1"]);
        assert_eq!(
            words(r#"run 'my file.toml' --x="a b" ''"#),
            ["run", "my file.toml", "--x=a b", ""]
        );
    }

    #[test]
    fn a_scenario_may_have_a_name() {
        assert_eq!(named("fan-in, QoS 1: bench --qos 1"), ("fan-in, QoS 1", "bench --qos 1"));
        assert_eq!(named("bench --qos 1"), ("bench --qos 1", "bench --qos 1"));
    }

    #[test]
    fn a_folder_name_has_nothing_of_a_path() {
        let folder = run_folder(Path::new("out"), 0, "../a b", 2);
        assert_eq!(folder, Path::new("out/runs/1----a-b-3"));
    }
}

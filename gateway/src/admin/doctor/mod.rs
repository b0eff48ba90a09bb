//! `gateway doctor`: reads the host and says what to change for this configuration, by how much and
//! why. It changes nothing, but for a small file in the data directory to see how fast its disk is.
//!
//! `host` reads facts, `checks` judges them without looking at anything, so that tests can state a
//! host; `nats` asks the servers that are configured.

mod checks;
mod host;
mod nats;

use crate::config::{Config, Environment};
use serde::Serialize;
use std::fmt::Write as _;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The gateway does not start, or does not do what the configuration promises.
    Must,
    /// It carries less than is configured.
    Should,
    /// It could do better.
    Consider,
}

/// Something to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about, in one word.
    pub subject: &'static str,
    /// See [`Severity`].
    pub severity: Severity,
    /// What was found.
    pub found: String,
    /// What it should be.
    pub wanted: String,
    /// Why.
    pub why: String,
    /// How to change it.
    pub change: String,
}

/// Everything that was looked at.
#[derive(Debug, Serialize)]
pub struct Examination {
    /// What to change, what matters most first.
    pub findings: Vec<Finding>,
    /// What is as it should be, in words.
    pub good: Vec<String>,
}

impl Examination {
    /// Nothing has to be changed for what is configured.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity == Severity::Consider)
    }

    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let severity = match finding.severity {
                Severity::Must => "MUST",
                Severity::Should => "SHOULD",
                Severity::Consider => "CONSIDER",
            };
            let Finding { subject, found, wanted, why, change, .. } = finding;
            let written = write!(
                text,
                "{severity} {subject}: {found}; {wanted}\n    why:    {why}\n    change: {change}\n"
            );
            written.expect("a string takes it");
        }
        for line in &self.good {
            writeln!(text, "good {line}").expect("a string takes it");
        }
        let count = |severity| self.findings.iter().filter(|one| one.severity == severity).count();
        let (must, should) = (count(Severity::Must), count(Severity::Should));
        let consider = count(Severity::Consider);
        writeln!(text, "{must} must, {should} should, {consider} consider")
            .expect("a string takes it");
        text
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain values");
        text.push('\n');
        text
    }
}

/// Looks at this machine and at the servers `config` names. Blocks for a few seconds at most.
#[must_use]
pub fn examine(config: &Config, environment: &Environment) -> Examination {
    let host = host::Host::read("/".as_ref(), config);
    let mut examination = checks::judge(&host, config, environment);
    nats::ask(config, &mut examination);
    examination.findings.sort_by_key(|finding| finding.severity);
    examination
}

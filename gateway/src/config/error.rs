//! What an operator got wrong, in one line.

use std::fmt;

/// Where a value came from, in the order in which faults are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A flag on the command line.
    Flag,
    /// The configuration file, at this line (from 1).
    File {
        /// The line the value or key stands on.
        line: usize,
    },
    /// Nobody gave it: the default, or a fault of the whole.
    Default,
}

/// One fault in what was configured. All faults are collected and reported together.
///
/// Displayed as one line: `shards = "many" (flag): expected a whole number from 1 to 64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key as a file would write it: `shards`, `limits.segment_bytes`.
    pub key: String,
    /// What was given, on one line, as it was written; empty for a key that should not be there.
    pub value: String,
    /// What would have been right, or what to do about it.
    pub expected: String,
    /// Where it was given.
    pub origin: Origin,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if !self.value.is_empty() {
            write!(f, " = {}", self.value)?;
        }
        match self.origin {
            Origin::Flag => f.write_str(" (flag)")?,
            Origin::File { line } => write!(f, " (file, line {line})")?,
            Origin::Default => {}
        }
        write!(f, ": expected {}", self.expected)
    }
}

impl std::error::Error for ConfigError {}

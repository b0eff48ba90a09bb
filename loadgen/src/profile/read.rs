//! Reads TOML strictly: every fault is kept with its key, its value and what was expected.

use std::{
    fmt::{self, Display, Formatter},
    ops::RangeInclusive,
};

use toml::{Table, Value};

use super::law::{Law, Shape};

/// The most a time may be cut to when its law says nothing: a year of seconds.
const LONGEST: f64 = 31_536_000.0;

/// Something wrong in a file of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileFault {
    /// The key, with its section: `outage.every_s`.
    pub(crate) key: String,
    /// What is there.
    pub(crate) value: String,
    /// What should be.
    pub(crate) expected: String,
}

impl Display for FileFault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: expected {}", self.key, self.value, self.expected)
    }
}

/// A table of a file, from which every key has to be taken.
pub(crate) struct Section<'f> {
    path: String,
    table: Table,
    faults: &'f mut Vec<FileFault>,
}

impl<'f> Section<'f> {
    /// The whole file; a fault of syntax leaves it empty.
    pub(crate) fn file(text: &str, faults: &'f mut Vec<FileFault>) -> Self {
        let table = text.parse().unwrap_or_else(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| {
                text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1)
            });
            faults.push(FileFault {
                key: format!("line {line}"),
                value: text.lines().nth(line - 1).unwrap_or_default().trim().to_owned(),
                expected: format!("TOML ({})", error.message()),
            });
            Table::new()
        });
        Self { path: String::new(), table, faults }
    }

    /// Whether the key is there.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A table in this one, `None` if it is not there.
    pub(crate) fn section(&mut self, key: &str) -> Option<Section<'_>> {
        let path = self.key(key);
        match self.table.remove(key)? {
            Value::Table(table) => Some(Section { path, table, faults: self.faults }),
            other => {
                self.fault(key, &other, "a table");
                None
            }
        }
    }

    /// Calls `read` with each table of an array of tables.
    pub(crate) fn each(&mut self, key: &str, mut read: impl FnMut(Section<'_>)) {
        let Some(value) = self.table.remove(key) else { return };
        let Value::Array(items) = value else {
            self.fault(key, &value, "an array of tables");
            return;
        };
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{}[{index}]", self.key(key));
            match item {
                Value::Table(table) => read(Section { path, table, faults: self.faults }),
                other => self.fault(key, &other, "a table"),
            }
        }
    }

    /// A number in `range`; `missing` if it is not there, a fault without that.
    pub(crate) fn number(
        &mut self,
        key: &str,
        range: RangeInclusive<f64>,
        missing: Option<f64>,
    ) -> f64 {
        let expected = || format!("a number from {} to {}", range.start(), range.end());
        let otherwise = missing.unwrap_or_else(|| *range.start());
        match self.take(key, missing.is_some(), &expected()) {
            None => otherwise,
            Some(value) => match as_number(&value) {
                Some(number) if range.contains(&number) => number,
                _ => {
                    self.fault(key, &value, &expected());
                    otherwise
                }
            },
        }
    }

    /// A whole number in `range`; `missing` if it is not there, a fault without that.
    pub(crate) fn whole(
        &mut self,
        key: &str,
        range: RangeInclusive<u64>,
        missing: Option<u64>,
    ) -> u64 {
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        let otherwise = missing.unwrap_or_else(|| *range.start());
        match self.take(key, missing.is_some(), &expected()) {
            None => otherwise,
            Some(value) => {
                match value.as_integer().and_then(|integer| u64::try_from(integer).ok()) {
                    Some(whole) if range.contains(&whole) => whole,
                    _ => {
                        self.fault(key, &value, &expected());
                        otherwise
                    }
                }
            }
        }
    }

    /// A probability or share; required.
    pub(crate) fn share(&mut self, key: &str) -> f64 {
        self.number(key, 0.0..=1.0, None)
    }

    /// A text; required unless `missing` is given.
    pub(crate) fn text(&mut self, key: &str, missing: Option<&str>) -> String {
        match self.take(key, missing.is_some(), "a text") {
            None => missing.unwrap_or_default().to_owned(),
            Some(Value::String(text)) => text,
            Some(other) => {
                self.fault(key, &other, "a text");
                String::new()
            }
        }
    }

    /// True or false; `missing` if it is not there.
    pub(crate) fn flag(&mut self, key: &str, missing: bool) -> bool {
        match self.take(key, true, "") {
            None => missing,
            Some(Value::Boolean(flag)) => flag,
            Some(other) => {
                self.fault(key, &other, "true or false");
                missing
            }
        }
    }

    /// One of several names; `missing` if it is not there, a fault without that.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        key: &str,
        choices: &[(&str, T)],
        missing: Option<T>,
    ) -> Option<T> {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let expected = format!("one of {}", names.join(", "));
        let Some(value) = self.take(key, missing.is_some(), &expected) else { return missing };
        let found = value.as_str().and_then(|text| choices.iter().find(|(name, _)| *name == text));
        if found.is_none() {
            self.fault(key, &value, &expected);
        }
        found.map(|(_, choice)| *choice)
    }

    /// A [`Law`] with no time above `most`: a number, or a table; required.
    pub(crate) fn law(&mut self, key: &str, most: f64) -> Law {
        let most = most.min(LONGEST);
        let expected =
            format!("a number from 0 to {most} or {{ law = \"exponential\", mean = 60.0 }}");
        match self.take(key, false, &expected) {
            None => Law::ZERO,
            Some(Value::Table(table)) => {
                let path = self.key(key);
                Section { path, table, faults: self.faults }.whole_law(most)
            }
            Some(value) => match as_number(&value) {
                Some(number) if (0.0..=most).contains(&number) => {
                    Law { shape: Shape::Fixed(number), most }
                }
                _ => {
                    self.fault(key, &value, &expected);
                    Law::ZERO
                }
            },
        }
    }

    /// Faults every key that nobody took.
    pub(crate) fn finish(mut self) {
        for (key, value) in std::mem::take(&mut self.table) {
            self.fault(&key, &value, "no such key here");
        }
    }

    /// Adds a fault of the value of `key`.
    pub(crate) fn fault(&mut self, key: &str, value: &Value, expected: &str) {
        let fault = FileFault {
            key: self.key(key),
            value: value.to_string(),
            expected: expected.to_owned(),
        };
        self.faults.push(fault);
    }

    fn whole_law(mut self, most: f64) -> Law {
        #[derive(Clone, Copy)]
        enum Name {
            Uniform,
            Exponential,
            LogNormal,
            Weibull,
        }
        let names = [
            ("uniform", Name::Uniform),
            ("exponential", Name::Exponential),
            ("log-normal", Name::LogNormal),
            ("weibull", Name::Weibull),
        ];
        let most = self.number("most", 0.0..=most, Some(most));
        let shape = match self.choice("law", &names, None) {
            None => return Law::ZERO,
            Some(Name::Uniform) => {
                let from = self.number("from", 0.0..=most, None);
                Shape::Uniform { from, to: self.number("to", from..=most, None) }
            }
            Some(Name::Exponential) => Shape::Exponential { mean: self.positive("mean") },
            Some(Name::LogNormal) => Shape::LogNormal {
                median: self.positive("median"),
                sigma: self.number("sigma", 0.0..=5.0, None),
            },
            Some(Name::Weibull) => Shape::Weibull {
                scale: self.positive("scale"),
                shape: self.number("shape", 0.1..=20.0, None),
            },
        };
        self.finish();
        Law { shape, most }
    }

    fn positive(&mut self, key: &str) -> f64 {
        self.number(key, 1e-6..=LONGEST, None)
    }

    fn take(&mut self, key: &str, may_miss: bool, expected: &str) -> Option<Value> {
        let value = self.table.remove(key);
        if value.is_none() && !may_miss {
            let fault = FileFault {
                key: self.key(key),
                value: "(nothing)".to_owned(),
                expected: expected.to_owned(),
            };
            self.faults.push(fault);
        }
        value
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "what people write is far below 2^53")]
fn as_number(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|integer| integer as f64))
}

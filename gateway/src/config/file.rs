//! The configuration file, exactly as it was given.
//!
//! TOML is read into a table with the place of each value, and every entry is looked at: a file
//! with five faults gets five lines, each with its line number. (A derived deserializer would
//! stop at the first.)

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};
use super::given::{Given, GivenTable, Kind, LISTS, SETTINGS, Written};
use super::limits::LIMITS;
use super::nats::{self, GivenSubCluster};
use super::tenant::TENANT_KEYS;
use super::tls::CERTIFICATE_KEYS;

/// Reads `text` as a configuration file; faults go to `faults`, what is sound is returned.
pub(super) fn parse(text: &str, faults: &mut Vec<ConfigError>) -> Given {
    let (table, errors) = DeTable::parse_recoverable(text);
    faults.extend(errors.iter().map(|error| syntax_fault(text, error)));
    let broken = faults.iter().map(|fault| fault.origin).collect();
    let mut reader = Reader { text, broken, faults, given: Given::default() };
    for (key, value) in table.get_ref() {
        reader.top_level(key, value);
    }
    reader.given
}

fn syntax_fault(text: &str, error: &toml::de::Error) -> ConfigError {
    let line = error.span().map_or(1, |span| line_of(text, span.start));
    ConfigError {
        key: "config".to_owned(),
        value: String::new(),
        expected: format!("TOML, but: {}", error.message().replace('\n', ", ")),
        origin: Origin::File { line },
    }
}

/// The line, from 1, on which byte `offset` of `text` stands.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    1 + memchr::memchr_iter(b'\n', before).count()
}

struct Reader<'a> {
    text: &'a str,
    /// Lines that are no TOML: what recovery made of them is not worth a second fault.
    broken: Vec<Origin>,
    faults: &'a mut Vec<ConfigError>,
    given: Given,
}

impl Reader<'_> {
    fn top_level(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let name = key.get_ref().as_ref();
        if name == "limits" {
            self.limits(value);
        } else if name == "nats" {
            self.nats(value);
        } else if name == "tls_certificates" {
            self.given.certificates = self.tables("tls_certificates", CERTIFICATE_KEYS, value);
        } else if name == "tenant" {
            self.given.tenants = self.tables("tenant", TENANT_KEYS, value);
        } else if let Some(list) = LISTS.iter().find(|list| **list == name) {
            self.list(list, value);
        } else if let Some((setting, kind)) = SETTINGS.iter().find(|(known, _)| *known == name) {
            if let Some(written) = self.scalar(setting, *kind, value) {
                self.given.settings.insert(setting, written);
            }
        } else {
            self.unknown(name, key.span().start);
        }
    }

    /// One string, or an array of strings.
    fn list(&mut self, key: &'static str, value: &Spanned<DeValue<'_>>) {
        let faults_before = self.faults.len();
        let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![value],
        };
        let list: Vec<Written> =
            items.into_iter().filter_map(|item| self.scalar(key, Kind::Text, item)).collect();
        if !list.is_empty() || faults_before == self.faults.len() {
            self.given.lists.insert(key, list);
        }
    }

    fn limits(&mut self, value: &Spanned<DeValue<'_>>) {
        let DeValue::Table(table) = value.get_ref() else {
            self.fault("limits", value, "a table: [limits]");
            return;
        };
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let full = format!("limits.{name}");
            match LIMITS.iter().find(|limit| limit.key == name) {
                Some(limit) => {
                    if let Some(written) = self.scalar(&full, Kind::Number, value) {
                        self.given.limits.insert(limit.key, written);
                    }
                }
                None => self.unknown(&full, key.span().start),
            }
        }
    }

    /// `[[nats]]`: a table a sub-cluster.
    fn nats(&mut self, value: &Spanned<DeValue<'_>>) {
        let DeValue::Array(items) = value.get_ref() else {
            let at = value.span().start;
            self.push("nats", String::new(), "an array of tables: [[nats]]", at);
            return;
        };
        let sub_clusters = items.iter().filter_map(|item| self.sub_cluster(item)).collect();
        self.given.nats = Some(sub_clusters);
    }

    fn sub_cluster(&mut self, value: &Spanned<DeValue<'_>>) -> Option<GivenSubCluster> {
        let at = value.span().start;
        let DeValue::Table(table) = value.get_ref() else {
            // Its text may be a URL with a password.
            self.push("nats", String::new(), "a table: [[nats]]", at);
            return None;
        };
        let (mut values, mut servers) = (BTreeMap::new(), Vec::new());
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let full = format!("nats.{name}");
            if name == "servers" {
                let items: Vec<_> = match value.get_ref() {
                    DeValue::Array(items) => items.iter().collect(),
                    _ => vec![value],
                };
                servers = items.iter().filter_map(|i| self.scalar(&full, Kind::Text, i)).collect();
            } else if let Some((key, kind)) = nats::KEYS.iter().find(|(key, _)| *key == name) {
                values.extend(self.scalar(&full, *kind, value).map(|written| (*key, written)));
            } else {
                self.unknown(&full, key.span().start);
            }
        }
        Some(GivenSubCluster { origin: self.at(at), values, servers })
    }

    /// `[[key]]`: tables with these keys.
    fn tables(
        &mut self,
        key: &str,
        keys: &'static [(&'static str, Kind)],
        value: &Spanned<DeValue<'_>>,
    ) -> Option<Vec<GivenTable>> {
        let DeValue::Array(items) = value.get_ref() else {
            self.fault(key, value, &format!("an array of tables: [[{key}]]"));
            return None;
        };
        let mut tables = Vec::new();
        for item in items {
            let DeValue::Table(table) = item.get_ref() else {
                self.fault(key, item, &format!("a table: [[{key}]]"));
                continue;
            };
            let mut values = BTreeMap::new();
            for (name, value) in table {
                let full = format!("{key}.{}", name.get_ref());
                match keys.iter().find(|(known, _)| known == name.get_ref()) {
                    Some((known, kind)) => {
                        let written = self.scalar(&full, *kind, value);
                        values.extend(written.map(|written| (*known, written)));
                    }
                    None => self.unknown(&full, name.span().start),
                }
            }
            tables.push(GivenTable { origin: self.at(item.span().start), values });
        }
        Some(tables)
    }

    /// Takes a value of `kind`; anything else is a fault.
    fn scalar(&mut self, key: &str, kind: Kind, value: &Spanned<DeValue<'_>>) -> Option<Written> {
        let text = match (kind, value.get_ref()) {
            (Kind::Text, DeValue::String(text)) => text.to_string(),
            (Kind::Truth, DeValue::Boolean(truth)) => truth.to_string(),
            // Above i128 the number is refused here; anything below is checked against its range.
            (Kind::Number, DeValue::Integer(number)) => {
                match i128::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => number.to_string(),
                    Err(_) => {
                        self.fault(key, value, "a smaller number");
                        return None;
                    }
                }
            }
            (Kind::Text, _) => {
                self.fault(key, value, "a string in quotes");
                return None;
            }
            (Kind::Truth, _) => {
                self.fault(key, value, "true or false");
                return None;
            }
            (Kind::Number, _) => {
                self.fault(key, value, "a whole number without quotes");
                return None;
            }
        };
        Some(Written { text, origin: self.at(value.span().start) })
    }

    fn fault(&mut self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let written = match nats::may_be_secret(key) {
            true => "***",
            false => self.text.get(value.span()).unwrap_or_default(),
        };
        let on_one_line = written.split_whitespace().collect::<Vec<_>>().join(" ");
        self.push(key, on_one_line, expected, value.span().start);
    }

    fn unknown(&mut self, key: &str, offset: usize) {
        self.push(key, String::new(), "a key that exists; check-config lists them", offset);
    }

    fn push(&mut self, key: &str, value: String, expected: &str, offset: usize) {
        let origin = self.at(offset);
        if !self.broken.contains(&origin) {
            let (key, expected) = (key.to_owned(), expected.to_owned());
            self.faults.push(ConfigError { key, value, expected, origin });
        }
    }

    fn at(&self, offset: usize) -> Origin {
        Origin::File { line: line_of(self.text, offset) }
    }
}

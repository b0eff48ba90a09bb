//! What can change while the gateway runs: SIGHUP reads the configuration again.
//!
//! Each part that can take a change adds a hook with the keys it looks after. Everything else that
//! differs is named, so that the operator knows what a restart would change.

use super::Gateway;
use crate::config::Config;
use std::collections::{BTreeMap, BTreeSet};

/// A part that can take a new configuration.
pub struct ReloadHook {
    /// The keys of the file it looks after, as `check-config` prints them.
    pub keys: &'static [&'static str],
    /// Takes the new configuration; called at each reload, as files it names may have changed too.
    /// What it cannot take stays as it was, and the errors say why.
    pub apply: Box<ApplyConfig>,
}

/// Puts a configuration in force, or says what is wrong with it.
pub type ApplyConfig = dyn FnMut(&mut Gateway, &Config) -> Result<(), Vec<String>>;

/// The configuration in force and who can change it.
pub struct Reload {
    in_force: Values,
    hooks: Vec<ReloadHook>,
    /// The last one that was taken, as far as it could be.
    taken: Option<Box<Config>>,
}

type Values = BTreeMap<String, toml::Value>;

impl Reload {
    /// Of a gateway that started with `config`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { in_force: values(config), hooks: Vec::new(), taken: None }
    }

    /// Adds a part that can take changes.
    pub fn add(&mut self, hook: ReloadHook) {
        self.hooks.push(hook);
    }

    /// Puts what was taken so far in force again, in a gateway that was made of the configuration this
    /// process started with: an upgrade came to nothing.
    pub fn restore(&mut self, gateway: &mut Gateway) {
        let Some(config) = &self.taken else { return };
        for hook in &mut self.hooks {
            // What it could not take was said when it was new.
            let _ = (hook.apply)(gateway, config);
        }
    }

    /// Puts in force what can be, and logs what cannot.
    pub fn apply(&mut self, gateway: &mut Gateway, config: &Config) {
        let mut new = values(config);
        let mut taken = Vec::new();
        for hook in &mut self.hooks {
            if let Err(faults) = (hook.apply)(gateway, config) {
                for fault in faults {
                    tracing::error!(fault, keys = ?hook.keys, "not reloaded: all of these stay as they were");
                }
                continue;
            }
            for key in hook.keys {
                let value = new.remove(*key);
                if value.as_ref() != self.in_force.get(*key) {
                    taken.push(*key);
                }
                match value {
                    Some(value) => self.in_force.insert((*key).to_owned(), value),
                    None => self.in_force.remove(*key),
                };
            }
        }
        self.taken = Some(Box::new(config.clone()));
        tracing::info!(changed = ?taken, "configuration reloaded");
        let is_looked_after = |key: &str| self.hooks.iter().any(|hook| hook.keys.contains(&key));
        let keys: BTreeSet<&String> = self.in_force.keys().chain(new.keys()).collect();
        let differs = |key: &&&String| self.in_force.get(**key) != new.get(**key);
        let left: Vec<_> =
            keys.iter().filter(|key| !is_looked_after(key)).filter(differs).collect();
        if !left.is_empty() {
            tracing::warn!(needs_a_restart = ?left, "changed, but only a restart puts these in force");
        }
    }
}

impl Reload {
    /// Every value in force, as `check-config` prints them.
    #[must_use]
    pub fn in_force(&self) -> toml::Table {
        let mut all = toml::Table::new();
        for (key, value) in &self.in_force {
            match key.split_once('.') {
                None => {
                    all.insert(key.clone(), value.clone());
                }
                Some((table, key)) => {
                    let inner = all.entry(table).or_insert_with(|| toml::Table::new().into());
                    inner
                        .as_table_mut()
                        .expect("no value has a table's name")
                        .insert(key.to_owned(), value.clone());
                }
            }
        }
        all
    }
}

/// By key, those of tables with the table's name in front.
fn values(config: &Config) -> Values {
    let table: toml::Table = toml::from_str(&config.to_toml()).unwrap_or_default();
    let mut values = Values::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => values
                .extend(inner.into_iter().map(|(name, value)| (format!("{key}.{name}"), value))),
            value => {
                values.insert(key, value);
            }
        }
    }
    values
}

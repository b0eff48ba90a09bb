//! The log on stderr: its form, and how much of it, which can change while the gateway runs.

use crate::config::{LogFormat, LogLevel};
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

/// Changes how much is logged.
#[derive(Clone)]
pub struct LogControl {
    targets: reload::Handle<Targets, Registry>,
    level: Arc<AtomicU8>,
}

/// Starts logging: our own lines as `level` says, those of libraries from `warn` on. In colour only
/// where somebody watches. To be called once a process.
#[must_use]
pub fn start(level: LogLevel, format: LogFormat) -> LogControl {
    let (targets, handle) = reload::Layer::new(targets(level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let lines = lines.with_ansi(std::io::stderr().is_terminal());
            tracing_subscriber::registry().with(lines.with_filter(targets)).init();
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_span_list(false);
            tracing_subscriber::registry().with(lines.with_filter(targets)).init();
        }
    }
    LogControl { targets: handle, level: Arc::new(AtomicU8::new(level as u8)) }
}

impl LogControl {
    /// What is in force.
    #[must_use]
    pub fn level(&self) -> LogLevel {
        let level = self.level.load(Ordering::Relaxed);
        let all = LogLevel::ALL.iter();
        all.copied().find(|one| *one as u8 == level).unwrap_or(LogLevel::Info)
    }

    /// Puts another level in force.
    pub fn set_level(&self, level: LogLevel) {
        // It fails only when the subscriber is gone, and then nobody logs.
        if self.targets.reload(targets(level)).is_ok() {
            self.level.store(level as u8, Ordering::Relaxed);
            tracing::info!(%level, "log level set");
        }
    }
}

fn targets(level: LogLevel) -> Targets {
    let own = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    Targets::new()
        .with_default(own.min(tracing::Level::WARN))
        .with_target("gateway", own)
        // It repeats at each attempt what the control thread says once a minute.
        .with_target("async_nats", LevelFilter::OFF)
}

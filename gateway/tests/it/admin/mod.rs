//! The admin server as operators and Prometheus meet it.

mod access;
mod api;
mod doctor;
mod http;
mod lifecycle;
pub(crate) mod metrics;
mod page;
mod sys_topics;
mod tuning;

use crate::process::gateway::Gateway;

/// A gateway with an admin server on a port of its own.
fn start(flags: &[&str]) -> Gateway {
    Gateway::start(&[&["--admin", "127.0.0.1:0"], flags].concat())
}

//! Sub-clusters as tables of TOML. Secrets are `***`: with those in it, it reads back as the same.

use std::fmt::{self, Write as _};
use std::path::Path;

use super::{NatsIdentity, NatsServer, NatsTls, SubClusterConfig};
use crate::config::show::quoted;

const SECRET: &str = "\"***\"";

/// Writes a `[[nats]]` for each of `all`.
pub(in crate::config) fn write_toml(all: &[SubClusterConfig], out: &mut String) -> fmt::Result {
    for sub_cluster in all {
        writeln!(out, "\n[[nats]]")?;
        writeln!(out, "name = {}", quoted(&sub_cluster.name))?;
        let scheme = if sub_cluster.tls.is_some() { "tls" } else { "nats" };
        let url = |server: &NatsServer| quoted(&format!("{scheme}://{server}"));
        let servers = sub_cluster.servers.iter().map(url);
        writeln!(out, "servers = [{}]", servers.collect::<Vec<_>>().join(", "))?;
        write_identity(&sub_cluster.identity, out)?;
        if let Some(tls) = &sub_cluster.tls {
            write_tls(tls, out)?;
        }
        writeln!(out, "replicas = {}", sub_cluster.replicas)?;
        if let Some(max_bytes) = sub_cluster.max_bytes {
            writeln!(out, "max_bytes = {max_bytes}")?;
        }
        writeln!(out, "max_age_s = {}", sub_cluster.max_age.as_secs())?;
        writeln!(out, "duplicate_window_s = {}", sub_cluster.duplicate_window.as_secs())?;
    }
    Ok(())
}

fn write_tls(tls: &NatsTls, out: &mut String) -> fmt::Result {
    let mut file =
        |key: &str, path: &Path| writeln!(out, "{key} = {}", quoted(&path.display().to_string()));
    if let Some(ca) = &tls.ca {
        file("ca_file", ca)?;
    }
    if let Some(client) = &tls.client {
        file("client_certificate_file", &client.cert)?;
        file("client_key_file", &client.key)?;
    }
    writeln!(out, "tls_first = {}", tls.first)
}

fn write_identity(identity: &NatsIdentity, out: &mut String) -> fmt::Result {
    match identity {
        NatsIdentity::None => Ok(()),
        NatsIdentity::Password { user, .. } => {
            writeln!(out, "user = {}\npassword = {SECRET}", quoted(user))
        }
        NatsIdentity::Token(_) => writeln!(out, "token = {SECRET}"),
        NatsIdentity::Nkey { file, .. } => {
            writeln!(out, "nkey_seed_file = {}", quoted(&file.display().to_string()))
        }
        NatsIdentity::Creds { file, .. } => {
            writeln!(out, "creds_file = {}", quoted(&file.display().to_string()))
        }
    }
}

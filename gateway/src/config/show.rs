//! `check-config`: the values in force, as a file that would give the same.

use std::fmt::{self, Write as _};

use super::auth::AuthMethod;
use super::nats;
use super::resolved::Config;
use super::tls;

impl Config {
    /// The configuration as TOML. Read back, it resolves to the same configuration.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        self.write_toml(&mut out).expect("writing to a string does not fail");
        out
    }

    fn write_toml(&self, out: &mut String) -> fmt::Result {
        let listen: Vec<String> = self.listen.iter().map(|l| quoted(&l.to_string())).collect();
        writeln!(out, "listen = [{}]", listen.join(", "))?;
        writeln!(out, "data = {}", quoted(&self.data.display().to_string()))?;
        writeln!(out, "shards = {}", self.shards)?;
        writeln!(out, "durability = \"{}\"", self.durability)?;
        writeln!(out, "sync_interval_ms = {}", self.sync_interval.as_millis())?;
        writeln!(out, "allow_anonymous = {}", self.allow_anonymous)?;
        self.write_auth(out)?;

        let refused: Vec<String> = self.subscribe_refused.iter().map(|f| quoted(f)).collect();
        writeln!(out, "subscribe_refused = [{}]", refused.join(", "))?;
        if !self.balancers.is_empty() {
            let balancers: Vec<_> = self.balancers.iter().map(|b| quoted(&b.to_string())).collect();
            writeln!(out, "balancers = [{}]", balancers.join(", "))?;
        }
        let origins: Vec<_> = self.websocket_origins.iter().map(|o| quoted(o)).collect();
        writeln!(out, "websocket_origins = [{}]", origins.join(", "))?;
        writeln!(out, "log = \"{}\"", self.log)?;
        if let Some(reference) = &self.server_reference {
            writeln!(out, "server_reference = {}", quoted(reference))?;
        }
        writeln!(out, "sys_interval_s = {}", self.sys_interval.as_secs())?;
        writeln!(out, "log_format = \"{}\"", self.log_format)?;
        match &self.admin {
            None => writeln!(out, "admin = \"none\"")?,
            // Written out it would be refused where it is in use, and not just done without.
            Some(admin) if admin.is_default => writeln!(out, "# admin = \"{}\"", admin.address)?,
            Some(admin) => writeln!(out, "admin = \"{}\"", admin.address)?,
        }
        if let Some(token) = self.admin.as_ref().and_then(|admin| admin.token.as_ref()) {
            writeln!(out, "admin_token_file = {}", quoted(&token.file.display().to_string()))?;
        }
        writeln!(out, "gateway_id = {}", quoted(&self.gateway_id))?;
        let uplink: Vec<_> = self.uplink.iter().map(|filter| quoted(filter)).collect();
        writeln!(out, "uplink = [{}]", uplink.join(", "))?;
        let events: Vec<_> = self.events.iter().map(|event| quoted(&event.to_string())).collect();
        writeln!(out, "events = [{}]", events.join(", "))?;
        if !self.nats.is_empty() {
            writeln!(out, "sessions = \"{}\"", self.sessions)?;
        }
        if let Some(config) = &self.tls {
            tls::write_toml(config, out)?;
            tls::write_tables(config, out)?;
        }
        self.auth.tenants.write_tables(out)?;
        nats::write_toml(&self.nats, out)?;
        writeln!(out, "\n[limits]")?;
        for (limit, value) in self.limits.values() {
            writeln!(out, "{} = {value} # {}", limit.key, limit.unit)?;
        }
        let bounds = self.memory_bounds();
        writeln!(
            out,
            "\n# Memory: {} bytes of buffers, whoever is connected;",
            bounds.fixed_bytes
        )?;
        writeln!(
            out,
            "# {} bytes for limits.connections_max idle connections, the kernel's part included;",
            bounds.idle_connections_bytes
        )?;
        writeln!(
            out,
            "# at most {} bytes more that gather between shards of which one cannot keep up;",
            bounds.mesh_bytes
        )?;
        writeln!(
            out,
            "# at most {} bytes for a connection whose client is not known yet, {} for all of these;",
            bounds.stranger_bytes, bounds.strangers_bytes
        )?;
        writeln!(
            out,
            "# at most {} bytes more for a connection that sends a large packet and does not read.",
            bounds.busy_connection_bytes
        )
    }
}

impl Config {
    fn write_auth(&self, out: &mut String) -> fmt::Result {
        let auth = &self.auth;
        for (key, file) in [
            ("password_file", &auth.password_file),
            ("acl_file", &auth.acl_file),
            ("jwt_key_file", &auth.jwt_key_file),
            ("jwt_jwks_file", &auth.jwt_jwks_file),
            ("http_auth_ca_file", &auth.http_auth_ca_file),
            ("http_auth_token_file", &auth.http_auth_token_file),
        ] {
            if let Some(file) = file {
                writeln!(out, "{key} = {}", quoted(&file.display().to_string()))?;
            }
        }
        writeln!(out, "sessions_bound_to_user = {}", auth.sessions_bound_to_user)?;
        writeln!(out, "client_id_is_user_name = {}", auth.client_id_is_user_name)?;
        if auth.knows_tokens() {
            writeln!(out, "jwt_algorithm = \"{:?}\"", auth.jwt_algorithm)?;
            writeln!(out, "jwt_user_claim = {}", quoted(&auth.jwt_user_claim))?;
        }
        for (key, text) in [
            ("jwt_client_id_claim", &auth.jwt_client_id_claim),
            ("jwt_mountpoint_claim", &auth.jwt_mountpoint_claim),
            ("jwt_issuer", &auth.jwt_issuer),
            ("jwt_audience", &auth.jwt_audience),
            ("http_auth_url", &auth.http_auth_url),
        ] {
            if let Some(text) = text {
                writeln!(out, "{key} = {}", quoted(text))?;
            }
        }
        let name_of = |method: &AuthMethod| {
            let named = AuthMethod::NAMES.iter().find(|(_, other)| other == method);
            named.expect("every method has a name").0.to_owned()
        };
        let addresses = auth.banned_addresses.iter().map(ToString::to_string).collect();
        for (key, list) in [
            ("auth_methods", &auth.methods.iter().map(name_of).collect()),
            ("banned_client_ids", &auth.banned_client_ids),
            ("banned_users", &auth.banned_users),
            ("banned_addresses", &addresses),
        ] {
            let list: Vec<String> = list.iter().map(|one| quoted(one)).collect();
            writeln!(out, "{key} = [{}]", list.join(", "))?;
        }
        Ok(())
    }
}

/// `text` as a TOML basic string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

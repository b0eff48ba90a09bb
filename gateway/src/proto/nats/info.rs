//! INFO: what a server says of itself. Source: NATS client protocol, INFO.

use super::json::{self, NotJson, Value};

/// An INFO that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InfoError {
    /// Not a JSON object.
    #[error("INFO is not a JSON object")]
    NotJson,
    /// A member that we use has a value of another type than it should.
    #[error("INFO: {key}: unexpected value")]
    Value {
        /// Of the member.
        key: &'static str,
    },
}

/// What a server says of itself: first of all, and again when something changed.
///
/// Owned, because a link keeps it; its size is bounded by
/// [`DecodeLimits::info_bytes_max`](super::DecodeLimits). Members left out have their default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Changes when the server restarts.
    pub server_id: String,
    /// By which stream info names a leader.
    pub server_name: String,
    /// As in "2.15.1".
    pub version: String,
    /// The cluster's name; empty outside a cluster.
    pub cluster: String,
    /// The JetStream domain; empty without one.
    pub domain: String,
    /// Whether HPUB and HMSG are spoken.
    pub headers: bool,
    /// Whether JetStream is enabled.
    pub jetstream: bool,
    /// The largest payload with its headers, bytes.
    pub max_payload_bytes: u64,
    /// Version of the JetStream API; 0 before 2.11.
    pub api_level: u64,
    /// Whether CONNECT must carry credentials.
    pub auth_required: bool,
    /// Whether the connection must go on in TLS.
    pub tls_required: bool,
    /// Whether the connection may go on in TLS.
    pub tls_available: bool,
    /// To be signed by an nkey or creds client; empty when not asked for.
    pub nonce: String,
    /// "host:port" of every server of the cluster that clients may use.
    pub connect_urls: Vec<String>,
    /// The server is going to close: move to another one.
    pub lame_duck_mode: bool,
}

impl Info {
    /// Reads the object of an INFO operation. Members that are not known are passed over.
    ///
    /// # Errors
    ///
    /// [`InfoError`].
    pub fn parse(text: &[u8]) -> Result<Self, InfoError> {
        let mut info = Self::default();
        let mut fault = None;
        json::members(text, |key, value| {
            if let Err(key) = info.set(key, value) {
                fault.get_or_insert(key);
            }
        })
        .map_err(|NotJson| InfoError::NotJson)?;
        match fault {
            None => Ok(info),
            Some(key) => Err(InfoError::Value { key }),
        }
    }

    fn set(&mut self, key: &str, value: Value<'_>) -> Result<(), &'static str> {
        fn put<T>(place: &mut T, value: Option<T>, key: &'static str) -> Result<(), &'static str> {
            *place = value.ok_or(key)?;
            Ok(())
        }
        match key {
            "server_id" => put(&mut self.server_id, value.text(), "server_id"),
            "server_name" => put(&mut self.server_name, value.text(), "server_name"),
            "version" => put(&mut self.version, value.text(), "version"),
            "cluster" => put(&mut self.cluster, value.text(), "cluster"),
            "domain" => put(&mut self.domain, value.text(), "domain"),
            "headers" => put(&mut self.headers, value.bool(), "headers"),
            "jetstream" => put(&mut self.jetstream, value.bool(), "jetstream"),
            "max_payload" => put(&mut self.max_payload_bytes, value.u64(), "max_payload"),
            "api_lvl" => put(&mut self.api_level, value.u64(), "api_lvl"),
            "auth_required" => put(&mut self.auth_required, value.bool(), "auth_required"),
            "tls_required" => put(&mut self.tls_required, value.bool(), "tls_required"),
            "tls_available" => put(&mut self.tls_available, value.bool(), "tls_available"),
            "nonce" => put(&mut self.nonce, value.text(), "nonce"),
            "connect_urls" => put(&mut self.connect_urls, urls(value), "connect_urls"),
            "ldm" => put(&mut self.lame_duck_mode, value.bool(), "ldm"),
            _ => Ok(()),
        }
    }
}

fn urls(value: Value<'_>) -> Option<Vec<String>> {
    let Value::Array(text) = value else { return None };
    let mut urls = Some(Vec::new());
    json::elements(text, |element| match (element.text(), &mut urls) {
        (Some(url), Some(urls)) => urls.push(url),
        _ => urls = None,
    })
    .ok()?;
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nats-server 2.15.1 writes it, and a cluster's members.
    #[test]
    fn reads_what_a_server_says() {
        let text = br#"{"server_id":"NBWV","server_name":"n1\u003e","version":"2.15.1","proto":1,
            "git_commit":"b2fd3ef","go":"go1.27.2","host":"127.0.0.1","port":22200,"headers":true,
            "max_payload":1048576,"jetstream":true,"client_id":5,"client_ip":"127.0.0.1",
            "auth_required":true,"nonce":"xyz","cluster":"c","ldm":true,
            "connect_urls":["127.0.0.1:1","[::1]:2"],"api_lvl":5,"xkey":"XA2"}"#;
        let expected = Info {
            server_id: "NBWV".to_owned(),
            server_name: "n1>".to_owned(),
            version: "2.15.1".to_owned(),
            cluster: "c".to_owned(),
            headers: true,
            jetstream: true,
            max_payload_bytes: 1_048_576,
            api_level: 5,
            auth_required: true,
            nonce: "xyz".to_owned(),
            connect_urls: vec!["127.0.0.1:1".to_owned(), "[::1]:2".to_owned()],
            lame_duck_mode: true,
            ..Info::default()
        };
        assert_eq!(Info::parse(text), Ok(expected));
        assert_eq!(Info::parse(b"{}"), Ok(Info::default()));
    }

    #[test]
    fn refuses_values_of_another_type() {
        assert_eq!(Info::parse(b"{"), Err(InfoError::NotJson));
        for (text, key) in [
            (r#"{"max_payload":"1"}"#, "max_payload"),
            (r#"{"max_payload":-1}"#, "max_payload"),
            (r#"{"server_name":1}"#, "server_name"),
            (r#"{"headers":1}"#, "headers"),
            (r#"{"connect_urls":[1]}"#, "connect_urls"),
            (r#"{"connect_urls":"a"}"#, "connect_urls"),
        ] {
            assert_eq!(Info::parse(text.as_bytes()), Err(InfoError::Value { key }), "{text}");
        }
    }
}

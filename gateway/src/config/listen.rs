//! Listen addresses: `mqtt://127.0.0.1:1883`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// MQTT's registered port for plain TCP.
const MQTT_PORT: u16 = 1883;

/// An address to accept MQTT over plain TCP on.
///
/// Written `mqtt://HOST[:PORT]`, where HOST is an IPv4 address, an IPv6 address in brackets, or
/// `localhost`, which means 127.0.0.1 and not the IPv6 loopback. PORT is 1 to 65535, default
/// 1883.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// What to bind.
    pub address: SocketAddr,
}

impl Listen {
    /// Used when no listen address was given.
    pub const DEFAULT: Self =
        Self { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), MQTT_PORT) };

    /// Parses what was given; `None` if it is not of the form above.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let authority = text.strip_prefix("mqtt://")?;
        let address = Self::parse_authority(authority)?;
        (address.port() != 0).then_some(Self { address })
    }

    fn parse_authority(authority: &str) -> Option<SocketAddr> {
        if let Ok(address) = authority.parse::<SocketAddr>() {
            return Some(address);
        }
        if let Some(rest) = authority.strip_prefix("localhost") {
            let port = match rest.strip_prefix(':') {
                Some(port) => port.parse().ok()?,
                None if rest.is_empty() => MQTT_PORT,
                None => return None,
            };
            return Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        }
        let bare = match authority.strip_prefix('[') {
            Some(rest) => IpAddr::V6(rest.strip_suffix(']')?.parse().ok()?),
            None => IpAddr::V4(authority.parse().ok()?),
        };
        Some(SocketAddr::new(bare, MQTT_PORT))
    }

    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mqtt://{}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(Listen::parse(text).map(|listen| listen.to_string()).as_deref(), expected);
    }

    #[test]
    fn reads_addresses_names_and_default_ports() {
        check("mqtt://127.0.0.1:1884", Some("mqtt://127.0.0.1:1884"));
        check("mqtt://127.0.0.1", Some("mqtt://127.0.0.1:1883"));
        check("mqtt://[::1]:1884", Some("mqtt://[::1]:1884"));
        check("mqtt://[::1]", Some("mqtt://[::1]:1883"));
        check("mqtt://localhost", Some("mqtt://127.0.0.1:1883"));
        check("mqtt://localhost:1", Some("mqtt://127.0.0.1:1"));
        check("mqtt://0.0.0.0:65535", Some("mqtt://0.0.0.0:65535"));
    }

    #[test]
    fn refuses_what_is_not_an_address() {
        for text in [
            "",
            "mqtt://",
            "127.0.0.1:1883",
            "tcp://127.0.0.1:1883",
            "mqtts://127.0.0.1:8883",
            "mqtt://127.0.0.1:0",
            "mqtt://127.0.0.1:65536",
            "mqtt://localhosts",
            "mqtt://localhost:",
            "mqtt://example.org:1883",
            "mqtt://::1:1883",
            "mqtt://[::1",
            "mqtt://127.0.0.1:1883/mqtt",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn knows_loopback_in_each_spelling() {
        for (text, expected) in [
            ("mqtt://127.0.0.1", true),
            ("mqtt://127.8.8.8", true),
            ("mqtt://[::1]", true),
            ("mqtt://[::ffff:127.0.0.1]", true),
            ("mqtt://0.0.0.0", false),
            ("mqtt://[::]", false),
            ("mqtt://192.0.2.1", false),
        ] {
            let listen = Listen::parse(text).expect("a listen address");
            assert_eq!(listen.is_loopback(), expected, "{text}");
        }
    }
}

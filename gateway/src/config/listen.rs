//! Listen addresses: `mqtt://127.0.0.1:1883`, `mqtts://127.0.0.1:8883`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// An address to accept MQTT on, and what carries it there.
///
/// Written `SCHEME://HOST[:PORT][?proxy]`, where HOST is an IPv4 address, an IPv6 address in brackets, or
/// `localhost`, which means 127.0.0.1 and not the IPv6 loopback. PORT is 1 to 65535, by default the
/// scheme's. With `?proxy` a balancer stands before it, and says whom it passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// What carries MQTT.
    pub scheme: Scheme,
    /// What to bind.
    pub address: SocketAddr,
    /// Whether connections come from a balancer and begin with a PROXY protocol header.
    pub proxied: bool,
}

/// What carries MQTT on a listen address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// TCP.
    Mqtt,
    /// TLS.
    Mqtts,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Scheme {
    /// Each with its name and its default port: those registered for MQTT, and those of the Web.
    const ALL: &[(Self, &str, u16)] = &[
        (Self::Mqtt, "mqtt", 1883),
        (Self::Mqtts, "mqtts", 8883),
        (Self::Ws, "ws", 80),
        (Self::Wss, "wss", 443),
    ];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        let known = Self::ALL.iter().find(|(scheme, ..)| *scheme == self);
        known.expect("every scheme has a name").1
    }

    /// Whether TLS is below MQTT.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    /// Whether MQTT travels in WebSocket frames.
    #[must_use]
    pub fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

impl Listen {
    /// Used when no listen address was given.
    pub const DEFAULT: Self = Self::tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1883));

    /// MQTT over TCP at `address`.
    #[must_use]
    pub const fn tcp(address: SocketAddr) -> Self {
        Self { scheme: Scheme::Mqtt, address, proxied: false }
    }

    /// Parses what was given; `None` if it is not of the form above.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let authority = rest.strip_suffix("?proxy");
        let (authority, proxied) = (authority.unwrap_or(rest), authority.is_some());
        let known = Scheme::ALL.iter().find(|(_, name, _)| *name == scheme);
        let (scheme, _, default_port) = *known?;
        let address = Self::parse_authority(authority, default_port)?;
        (address.port() != 0).then_some(Self { scheme, address, proxied })
    }

    fn parse_authority(authority: &str, default_port: u16) -> Option<SocketAddr> {
        if let Ok(address) = authority.parse::<SocketAddr>() {
            return Some(address);
        }
        if let Some(rest) = authority.strip_prefix("localhost") {
            let port = match rest.strip_prefix(':') {
                Some(port) => port.parse().ok()?,
                None if rest.is_empty() => default_port,
                None => return None,
            };
            return Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        }
        let bare = match authority.strip_prefix('[') {
            Some(rest) => IpAddr::V6(rest.strip_suffix(']')?.parse().ok()?),
            None => IpAddr::V4(authority.parse().ok()?),
        };
        Some(SocketAddr::new(bare, default_port))
    }

    /// Whether MQTT is all there is on the wire, behind a balancer's header if there is one.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.scheme == Scheme::Mqtt
    }

    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxied = if self.proxied { "?proxy" } else { "" };
        write!(f, "{}://{}{proxied}", self.scheme.name(), self.address)
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
        check("mqtts://127.0.0.1:1", Some("mqtts://127.0.0.1:1"));
        check("mqtts://[::1]", Some("mqtts://[::1]:8883"));
        check("mqtts://localhost", Some("mqtts://127.0.0.1:8883"));
        check("ws://localhost", Some("ws://127.0.0.1:80"));
        check("wss://[::]", Some("wss://[::]:443"));
        check("mqtt://[::1]?proxy", Some("mqtt://[::1]:1883?proxy"));
        check("wss://10.0.0.1:1?proxy", Some("wss://10.0.0.1:1?proxy"));
    }

    #[test]
    fn refuses_what_is_not_an_address() {
        for text in [
            "",
            "mqtt://",
            "127.0.0.1:1883",
            "tcp://127.0.0.1:1883",
            "tls://127.0.0.1:8883",
            "ws://127.0.0.1:80/mqtt",
            "mqtt://127.0.0.1:1883?proxied",
            "mqtt://127.0.0.1?proxy?proxy",
            "MQTT://127.0.0.1:1883",
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

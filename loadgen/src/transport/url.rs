//! The URL of a broker.

use std::{
    fmt::{self, Display, Formatter},
    net::{Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    str::FromStr,
};

use gateway::config::Scheme;

/// Where a broker is, and what carries MQTT there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokerUrl {
    /// What carries MQTT.
    pub(crate) scheme: Scheme,
    /// A name or an address; an IPv6 address without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What a WebSocket asks for, with its slash.
    pub(crate) path: String,
}

const SCHEMES: [Scheme; 4] = [Scheme::Mqtt, Scheme::Mqtts, Scheme::Ws, Scheme::Wss];
/// What MQTT clients ask for by custom.
const PATH: &str = "/mqtt";
const EXPECTED: &str = "expected mqtt://HOST[:PORT], mqtts://HOST[:PORT], ws://HOST[:PORT][/PATH] or wss://HOST[:PORT][/PATH]";

impl FromStr for BrokerUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").ok_or(EXPECTED)?;
        let scheme = *SCHEMES.iter().find(|known| known.name() == scheme).ok_or(EXPECTED)?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let path = match path {
            "" | "/" if scheme.is_websocket() => PATH,
            "" | "/" => "",
            path if scheme.is_websocket() && path.chars().all(|c| c.is_ascii_graphic()) => path,
            _ => return Err(EXPECTED),
        };
        let (host, port) = split_port(authority).ok_or(EXPECTED)?;
        let is_plain =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if host.is_empty() || !host.chars().all(is_plain) {
            return Err(EXPECTED);
        }
        let port = port.unwrap_or_else(|| default_port(scheme));
        Ok(Self { scheme, host: host.to_owned(), port, path: path.to_owned() })
    }
}

impl BrokerUrl {
    /// The first address the host has.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong.
    pub(crate) fn address(&self) -> Result<SocketAddr, String> {
        let mut addresses = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|error| format!("--broker {self}: {} is not found: {error}", self.host))?;
        addresses.next().ok_or_else(|| format!("--broker {self}: {} has no address", self.host))
    }

    /// As it stands in the header Host. Source: RFC 9110 §7.2.
    pub(super) fn host_header(&self) -> String {
        if self.port == default_port(self.scheme) { self.bracketed() } else { self.authority() }
    }

    /// Host and port.
    pub(super) fn authority(&self) -> String {
        format!("{}:{}", self.bracketed(), self.port)
    }

    fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

impl Display for BrokerUrl {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.name(), self.authority(), self.path)
    }
}

/// Host and port of `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let port = |text: &str| text.parse().ok().filter(|port| *port > 0).map(Some);
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, behind) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match behind.strip_prefix(':') {
            Some(text) => Some((host, port(text)?)),
            None => behind.is_empty().then_some((host, None)),
        };
    }
    match authority.split_once(':') {
        Some((host, text)) => Some((host, port(text)?)),
        None => Some((authority, None)),
    }
}

fn default_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Mqtt => 1883,
        Scheme::Mqtts => 8883,
        Scheme::Ws => 80,
        Scheme::Wss => 443,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, whole: &str) {
        assert_eq!(text.parse::<BrokerUrl>().unwrap().to_string(), whole);
    }

    #[test]
    fn what_is_left_out_is_the_custom() {
        check("mqtt://127.0.0.1", "mqtt://127.0.0.1:1883");
        check("mqtt://127.0.0.1:99/", "mqtt://127.0.0.1:99");
        check("mqtts://broker.example", "mqtts://broker.example:8883");
        check("ws://localhost", "ws://localhost:80/mqtt");
        check("wss://[::1]:8443/chat/a?b=c", "wss://[::1]:8443/chat/a?b=c");
        check("mqtt://[::1]", "mqtt://[::1]:1883");
    }

    #[test]
    fn what_is_no_url_of_a_broker_says_what_one_is() {
        for text in [
            "127.0.0.1:1883",
            "http://localhost",
            "mqtt://",
            "mqtt://user@host",
            "mqtt://host:0",
            "mqtt://host:port",
            "mqtt://host:1:2",
            "mqtt://[::1",
            "mqtt://[localhost]",
            "mqtt://host/path",
            "ws://host/a b",
        ] {
            assert_eq!(text.parse::<BrokerUrl>(), Err(EXPECTED), "{text}");
        }
    }

    #[test]
    fn the_header_names_the_port_only_where_it_is_not_the_schemes() {
        let header = |text: &str| text.parse::<BrokerUrl>().unwrap().host_header();
        assert_eq!(header("ws://a.example"), "a.example");
        assert_eq!(header("wss://a.example:80"), "a.example:80");
        assert_eq!(header("ws://[::1]:8080"), "[::1]:8080");
    }
}

//! `nats://user:password@host:port`, or with `tls://`, taken apart.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{NatsIdentity, NatsServer};

/// NATS's registered port for clients.
const NATS_PORT: u16 = 4222;
/// The longest DNS name, bytes (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;
/// The longest label of a DNS name, bytes (the same).
const LABEL_BYTES_MAX: usize = 63;

/// What a server's URL has to be, for a fault.
pub(super) const EXPECTED: &str = "nats://HOST:PORT or tls://HOST:PORT, with an IPv4 address, an IPv6 address in \
    brackets or a DNS name, and a port from 1 to 65535; user:password@ or token@ may stand before \
    HOST, percent-encoded";

/// A server, and who the gateway is to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerUrl {
    pub(super) server: NatsServer,
    pub(super) identity: NatsIdentity,
    /// Connections to it are in TLS.
    pub(super) is_tls: bool,
}

impl ServerUrl {
    /// Parses what was given; `None` if it is not [`EXPECTED`].
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_tls = match scheme {
            "nats" => false,
            "tls" => true,
            _ => return None,
        };
        let (identity, authority) = match rest.rsplit_once('@') {
            Some((user_info, authority)) => (identity(user_info)?, authority),
            None => (NatsIdentity::None, rest),
        };
        Some(Self { server: server(authority)?, identity, is_tls })
    }
}

/// The URL with whatever stands before `@` hidden, for a fault.
pub(super) fn redacted(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((before, authority)) => {
            let scheme = if before.starts_with("tls://") { "tls" } else { "nats" };
            format!("{scheme}://***@{authority}")
        }
        None => text.to_owned(),
    }
}

fn identity(user_info: &str) -> Option<NatsIdentity> {
    match user_info.split_once(':') {
        Some((user, password)) => {
            let (user, password) = (percent_decoded(user)?, percent_decoded(password)?);
            (!user.is_empty()).then_some(NatsIdentity::Password { user, password })
        }
        None => {
            let token = percent_decoded(user_info)?;
            (!token.is_empty()).then_some(NatsIdentity::Token(token))
        }
    }
}

fn server(authority: &str) -> Option<NatsServer> {
    // The colons of an IPv6 address stand inside its brackets.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match port {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        Some(_) => return None,
        None => NATS_PORT,
    };
    (port != 0 && is_host(host)).then(|| NatsServer { host: host.to_owned(), port })
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|text| text.parse::<Ipv6Addr>().is_ok());
    }
    host.parse::<Ipv4Addr>().is_ok() || is_dns_name(host)
}

/// Letters, digits, `-` and `_` in labels. The last one is no number: such a name would be a
/// mistyped address.
fn is_dns_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= HOST_BYTES_MAX
        && host.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// RFC 3986 §2.1.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            _ => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, server: &str, identity: NatsIdentity) {
        let url = ServerUrl::parse(text).unwrap_or_else(|| panic!("{text} is refused"));
        assert_eq!((url.server.to_string().as_str(), url.identity), (server, identity), "{text}");
    }

    #[test]
    fn reads_hosts_ports_and_identities() {
        let password = |user: &str, password: &str| NatsIdentity::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        };
        check("nats://127.0.0.1", "127.0.0.1:4222", NatsIdentity::None);
        check("nats://127.0.0.1:1", "127.0.0.1:1", NatsIdentity::None);
        check("nats://[::1]", "[::1]:4222", NatsIdentity::None);
        check("nats://[::1]:65535", "[::1]:65535", NatsIdentity::None);
        check("nats://nats-0.nats.svc", "nats-0.nats.svc:4222", NatsIdentity::None);
        check("nats://a:b@localhost", "localhost:4222", password("a", "b"));
        check("nats://a:@h:5", "h:5", password("a", ""));
        check("nats://a%3A:p%40%2c%25@h:5", "h:5", password("a:", "p@,%"));
        check("nats://a:b:c@d@h", "h:4222", password("a", "b:c@d"));
        check("nats://secret@h", "h:4222", NatsIdentity::Token("secret".to_owned()));
        let host = format!("{}.{}", "a".repeat(63), "b".repeat(63));
        check(&format!("nats://{host}"), &format!("{host}:4222"), NatsIdentity::None);
        check("tls://a:b@h", "h:4222", password("a", "b"));
        let is_tls = |text| ServerUrl::parse(text).map(|url| url.is_tls);
        assert_eq!((is_tls("tls://h"), is_tls("nats://h")), (Some(true), Some(false)));
    }

    #[test]
    fn refuses_what_is_no_url_of_a_server() {
        for text in [
            "",
            "nats://",
            "127.0.0.1:4222",
            "ws://127.0.0.1:4222",
            "nats://127.0.0.1:0",
            "nats://127.0.0.1:65536",
            "nats://127.0.0.1:+1",
            "nats://127.0.0.1:",
            "nats://127.0.0.300",
            "nats://::1:4222",
            "nats://[::1",
            "nats://h/",
            "nats://h h",
            "nats://a..b",
            "nats://@h",
            "nats://:b@h",
            "nats://a%:b@h",
            "nats://a%4:b@h",
            "nats://a%FF:b@h",
            &format!("nats://{}", "a".repeat(64)),
            &format!("nats://{}", "a.".repeat(127) + "b"),
        ] {
            assert_eq!(ServerUrl::parse(text), None, "{text}");
        }
    }

    #[test]
    fn hides_what_stands_before_the_host() {
        assert_eq!(redacted("tls://a:b@c@h:1"), "tls://***@h:1");
        assert_eq!(redacted("x:b@c@h:1"), "nats://***@h:1");
        assert_eq!(redacted("tls://h:1"), "tls://h:1");
    }
}

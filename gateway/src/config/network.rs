//! Ranges of addresses, as an operator writes them: `192.0.2.7`, `192.0.2.0/24`, `2001:db8::/32`.

use ipnet::IpNet;
use std::net::IpAddr;

/// Reads an address, or one with the number of bits that count; `None` for anything else. An address
/// of IPv4 is the same when it is written as IPv6.
#[must_use]
pub fn parse_network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().ok();
    network.or_else(|| Some(text.parse::<IpAddr>().ok()?.to_canonical().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_what_begins_the_same() {
        for (range, inside, outside) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.9/31", "192.0.2.8", "192.0.2.10"),
            ("0.0.0.0/0", "203.0.113.1", "::1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::"),
            ("::/0", "2001:db8::", "192.0.2.1"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.7", "::ffff:192.0.2.7", "::192.0.2.7"),
        ] {
            let parsed = parse_network(range).expect("a range");
            let contains = |text: &str| {
                let address: IpAddr = text.parse().unwrap();
                parsed.contains(&address.to_canonical())
            };
            assert!(contains(inside), "{range} {inside}");
            assert!(!contains(outside), "{range} {outside}");
            assert_eq!(parse_network(&parsed.to_string()), Some(parsed));
        }
    }

    #[test]
    fn refuses_what_is_no_range() {
        for text in ["", "a", "192.0.2", "192.0.2.0/33", "::/129", "192.0.2.0/", "192.0.2.0/+1"] {
            assert_eq!(parse_network(text), None, "{text:?}");
        }
    }
}

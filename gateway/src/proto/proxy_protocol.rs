//! The PROXY protocol, versions 1 and 2: what a balancer says of the client it passes on.
//!
//! Only the header, which stands before anything else on a connection. Whether whoever sends one may
//! be believed is decided elsewhere.
//!
//! Source: `doc/proxy-protocol.txt` of HAProxy, revision of 2020/03/05.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client's address; `None` when the balancer speaks for itself (a health check), or does not
    /// know.
    pub peer: Option<SocketAddr>,
    /// Whether the client speaks TLS with the balancer.
    pub is_tls: bool,
    /// The host name the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// The Common Name of the client's certificate, which the balancer has verified.
    pub certificate_identity: Option<Box<str>>,
}

/// What came is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyFault;

const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const SIGNATURE_V1: &[u8] = b"PROXY ";
/// The longest line of version 1, its end included.
const LINE_BYTES_MAX: usize = 107;
/// Before the addresses of version 2.
const FIXED_BYTES: usize = 16;
/// The longest name taken.
const NAME_BYTES_MAX: usize = 1_024;

const TLV_AUTHORITY: u8 = 0x02;
const TLV_CRC32C: u8 = 0x03;
const TLV_SSL: u8 = 0x20;
const TLV_SSL_CN: u8 = 0x22;
const SSL_USED: u8 = 0x01;
const SSL_CERTIFICATE_SHOWN: u8 = 0x02 | 0x04;

/// Reads a header from the front of `bytes`.
///
/// Returns it and the bytes it took, or `None` while it is not complete.
///
/// # Errors
///
/// What is there is no header of either version.
pub fn decode(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyFault> {
    if bytes.starts_with(SIGNATURE_V2) {
        return decode_v2(bytes);
    }
    if bytes.starts_with(SIGNATURE_V1) {
        return decode_v1(bytes);
    }
    let may_become = |signature: &[u8]| signature.starts_with(bytes);
    if may_become(SIGNATURE_V2) || may_become(SIGNATURE_V1) { Ok(None) } else { Err(ProxyFault) }
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 1883\r\n`.
fn decode_v1(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyFault> {
    let line = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = memchr::memchr(b'\n', line) else {
        return if line.len() < LINE_BYTES_MAX { Ok(None) } else { Err(ProxyFault) };
    };
    let line = line.get(SIGNATURE_V1.len()..end).and_then(|line| line.strip_suffix(b"\r"));
    let line = line.and_then(|line| std::str::from_utf8(line).ok()).ok_or(ProxyFault)?;
    let mut words = line.split(' ');
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(Some((ProxyHeader::default(), end + 1)));
    }
    let mut next = || words.next().ok_or(ProxyFault);
    let (source, destination, port, to_port) = (next()?, next()?, next()?, next()?);
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            Some("TCP4") => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            Some("TCP6") => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u16>().ok(),
        false => None,
    };
    let is_well = address(destination).is_some() && number(to_port).is_some();
    match (address(source), number(port), words.next()) {
        (Some(ip), Some(port), None) if is_well => {
            let peer = Some(SocketAddr::new(ip, port));
            Ok(Some((ProxyHeader { peer, ..ProxyHeader::default() }, end + 1)))
        }
        _ => Err(ProxyFault),
    }
}

fn decode_v2(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyFault> {
    let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() else { return Ok(None) };
    let [.., version_command, family, high, low] = *fixed;
    let end = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    let is_local = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyFault),
    };
    let Some(header) = bytes.get(..end) else { return Ok(None) };
    let body = header.get(FIXED_BYTES..).unwrap_or_default();
    let (peer, tlvs) = match family {
        _ if is_local => (None, &[][..]),
        // TCP over IPv4, over IPv6; two addresses, two ports.
        0x11 => {
            let (addresses, rest) = body.split_first_chunk::<12>().ok_or(ProxyFault)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *addresses;
            let port = u16::from_be_bytes([high, low]);
            (Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port)), rest)
        }
        0x21 => {
            let (addresses, rest) = body.split_first_chunk::<36>().ok_or(ProxyFault)?;
            let ip = addresses.first_chunk::<16>().ok_or(ProxyFault)?;
            let port = addresses.get(32..).and_then(|ports| ports.first_chunk::<2>());
            let port = u16::from_be_bytes(*port.ok_or(ProxyFault)?);
            (Some(SocketAddr::new(Ipv6Addr::from(*ip).into(), port)), rest)
        }
        // Not known to the balancer, or a socket of its own machine.
        0x00 => (None, body),
        0x31 => (None, body.get(216..).ok_or(ProxyFault)?),
        _ => return Err(ProxyFault),
    };
    let mut read = ProxyHeader { peer, ..ProxyHeader::default() };
    let mut tlvs = Tlvs(tlvs);
    while let Some(tlv) = tlvs.next() {
        let (kind, value) = tlv?;
        match kind {
            TLV_AUTHORITY => {
                read.server_name = name(value).map(|name| name.to_ascii_lowercase().into());
            }
            TLV_CRC32C => check_crc32c(header, tlvs.0.len(), value)?,
            TLV_SSL => read_ssl(value, &mut read)?,
            _ => {}
        }
    }
    Ok(Some((read, end)))
}

/// What of the client's TLS is told: 1 byte of flags, 4 of whether its certificate failed (0 if it is
/// good), then more of type, length, value.
fn read_ssl(value: &[u8], read: &mut ProxyHeader) -> Result<(), ProxyFault> {
    let (fixed, more) = value.split_first_chunk::<5>().ok_or(ProxyFault)?;
    let [flags, failed @ ..] = *fixed;
    read.is_tls = flags & SSL_USED != 0;
    let is_verified = flags & SSL_CERTIFICATE_SHOWN != 0 && failed == [0; 4];
    for tlv in Tlvs(more) {
        let (kind, value) = tlv?;
        if kind == TLV_SSL_CN && is_verified {
            read.certificate_identity = name(value).map(Into::into);
        }
    }
    Ok(())
}

/// The checksum is of the whole header with its own four bytes, which have `behind` bytes behind them,
/// as zero.
fn check_crc32c(header: &[u8], behind: usize, value: &[u8]) -> Result<(), ProxyFault> {
    let expected = <[u8; 4]>::try_from(value).map_err(|_| ProxyFault)?;
    let (front, behind) = header.split_at_checked(header.len() - behind).ok_or(ProxyFault)?;
    let (before, _) = front.split_last_chunk::<4>().ok_or(ProxyFault)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), behind);
    if crc == u32::from_be_bytes(expected) { Ok(()) } else { Err(ProxyFault) }
}

/// A name that may be used: not empty, not long, without control characters.
fn name(value: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(value).ok()?;
    let is_fit = (1..=NAME_BYTES_MAX).contains(&name.len());
    (is_fit && !name.chars().any(char::is_control)).then_some(name)
}

/// 1 byte of type, 2 of length, the value; to the end of the header.
struct Tlvs<'a>(&'a [u8]);

impl<'a> Iterator for Tlvs<'a> {
    type Item = Result<(u8, &'a [u8]), ProxyFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let taken = self.0.split_first_chunk::<3>().and_then(|(fixed, rest)| {
            let [kind, high, low] = *fixed;
            let length = usize::from(u16::from_be_bytes([high, low]));
            Some((kind, rest.split_at_checked(length)?))
        });
        let Some((kind, (value, rest))) = taken else {
            self.0 = &[];
            return Some(Err(ProxyFault));
        };
        self.0 = rest;
        Some(Ok((kind, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 2 with this command and family, and `body` behind it.
    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE_V2, &[command, family], &length, body].concat()
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 0x04, 0x07, 0x5b];

    /// Checks the header, that each beginning of it is "not yet", and that what follows is left.
    #[track_caller]
    fn check(header: &[u8], expected: &ProxyHeader) {
        for end in 0..header.len() {
            assert_eq!(decode(&header[..end]), Ok(None), "{end} bytes");
        }
        let more = [header, b"\x10\x00"].concat();
        assert_eq!(decode(&more), Ok(Some((expected.clone(), header.len()))));
    }

    fn from(peer: &str) -> ProxyHeader {
        ProxyHeader { peer: Some(peer.parse().unwrap()), ..ProxyHeader::default() }
    }

    #[test]
    fn reads_version_1() {
        check(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 1883\r\n", &from("192.0.2.1:56324"));
        check(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", &from("[2001:db8::1]:1"));
        check(b"PROXY UNKNOWN\r\n", &ProxyHeader::default());
        check(b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", &ProxyHeader::default());
    }

    #[test]
    fn refuses_what_is_not_quite_version_1() {
        for line in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324 1883 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324 1883\n",
            "PROXY TCP4 192.0.2.1  192.0.2.2 56324 1883\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +5632 1883\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 1883\r\n",
            "PROXY TCP4 ::1 ::1 1 1\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 1\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 1\r\n",
            "PROXY \r\n",
            "proxy TCP4 192.0.2.1 192.0.2.2 1 1\r\n",
        ] {
            assert_eq!(decode(line.as_bytes()), Err(ProxyFault), "{line:?}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(100));
        assert_eq!(decode(endless.as_bytes()), Err(ProxyFault));
        assert_eq!(decode(b"\x10\x0c\0\x04MQTT"), Err(ProxyFault));
    }

    #[test]
    fn reads_version_2_with_what_the_balancer_knows_of_tls() {
        check(&v2(0x21, 0x11, &IPV4), &from("192.0.2.1:56324"));
        let mut ipv6 = [0; 36];
        (ipv6[0], ipv6[15], ipv6[31], ipv6[33]) = (0x20, 1, 2, 80);
        check(&v2(0x21, 0x21, &ipv6), &from("[2000::1]:80"));
        check(&v2(0x20, 0x00, b""), &ProxyHeader::default());
        check(&v2(0x20, 0x11, &IPV4), &ProxyHeader::default());
        check(&v2(0x21, 0x31, &[0; 216]), &ProxyHeader::default());

        let ssl = |flags, failed| {
            let more = [tlv(0x21, b"TLSv1.3"), tlv(TLV_SSL_CN, b"meter 7")].concat();
            tlv(TLV_SSL, &[&[flags, 0, 0, 0, failed][..], &more].concat())
        };
        let with = |ssl: Vec<u8>| {
            let authority = tlv(TLV_AUTHORITY, b"MQTT.example");
            v2(0x21, 0x11, &[&IPV4[..], &tlv(4, b"padding"), &authority, &ssl].concat())
        };
        let known = ProxyHeader {
            is_tls: true,
            server_name: Some("mqtt.example".into()),
            certificate_identity: Some("meter 7".into()),
            ..from("192.0.2.1:56324")
        };
        check(&with(ssl(0x03, 0)), &known);
        check(&with(ssl(0x05, 0)), &known);
        let unknown = ProxyHeader { certificate_identity: None, ..known };
        check(&with(ssl(0x03, 1)), &unknown);
        check(&with(ssl(0x01, 0)), &unknown);
    }

    #[test]
    fn a_checksum_is_checked() {
        let mut header = v2(0x21, 0x11, &[&IPV4[..], &tlv(TLV_CRC32C, &[0; 4])].concat());
        let crc = crc32c::crc32c(&header).to_be_bytes();
        let at = header.len() - 4;
        header[at..].copy_from_slice(&crc);
        check(&header, &from("192.0.2.1:56324"));
        for byte in [13, 16, at] {
            let mut changed = header.clone();
            changed[byte] ^= 1;
            assert_eq!(decode(&changed), Err(ProxyFault), "byte {byte}");
        }
    }

    #[test]
    fn refuses_what_is_not_quite_version_2() {
        let cut = [&IPV4[..], &tlv(9, b"value")[..7]].concat();
        for header in [
            v2(0x11, 0x11, &IPV4),
            v2(0x22, 0x11, &IPV4),
            v2(0x21, 0x12, &IPV4),
            v2(0x21, 0x11, &IPV4[..11]),
            v2(0x21, 0x21, &IPV4),
            v2(0x21, 0x11, &cut),
            v2(0x21, 0x11, &[&IPV4[..], &[9, 0]].concat()),
            v2(0x21, 0x11, &[&IPV4[..], &tlv(TLV_SSL, &[1, 0, 0])].concat()),
        ] {
            assert_eq!(decode(&header), Err(ProxyFault), "{header:x?}");
        }
    }
}

//! The request that opens a WebSocket connection, and its answer. Source: RFC 6455 §4.2; MQTT 5.0 §6.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestFault {
    /// It is no HTTP/1.1 request for a WebSocket, or its key is no key.
    Malformed,
    /// Another method than GET.
    Method,
    /// Another version than 13.
    Version,
    /// The subprotocol `mqtt` is not among those offered. MQTT 5.0 [MQTT-6.0.0-3].
    Subprotocol,
    /// The page is none of those that may.
    Origin,
    /// More bytes or headers than are looked at.
    TooLarge,
}

/// The most headers that are looked at. Browsers send some fifteen.
const HEADERS_MAX: usize = 64;
/// RFC 6455 §1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
pub(super) const KEY_BYTES: usize = 16;
/// The key of RFC 6455 §4.1's own example has bits set behind its last byte.
const KEY_ENCODING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Adds the answer to `request`, headers and the empty line behind them, to `output`.
pub(super) fn answer(
    request: &[u8],
    origins: &[String],
    output: &mut Vec<u8>,
) -> Result<(), RequestFault> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(RequestFault::TooLarge),
        Ok(httparse::Status::Partial) | Err(_) => return Err(RequestFault::Malformed),
    }
    if parsed.method != Some("GET") {
        return Err(RequestFault::Method);
    }
    let one = |name: &str| {
        let mut named = parsed.headers.iter().filter(|one| one.name.eq_ignore_ascii_case(name));
        let value = named.next().and_then(|header| std::str::from_utf8(header.value).ok());
        (value, named.next().is_some())
    };
    let has = |name: &str, wanted: &str, exactly: bool| {
        let named = parsed.headers.iter().filter(|one| one.name.eq_ignore_ascii_case(name));
        let values = named.filter_map(|header| std::str::from_utf8(header.value).ok());
        values
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .any(|value| if exactly { value == wanted } else { value.eq_ignore_ascii_case(wanted) })
    };
    let is_request = parsed.version == Some(1)
        && matches!(one("host"), (Some(_), false))
        && has("upgrade", "websocket", false)
        && has("connection", "upgrade", false);
    if !is_request {
        return Err(RequestFault::Malformed);
    }
    if one("sec-websocket-version") != (Some("13"), false) {
        return Err(RequestFault::Version);
    }
    let (Some(key), false) = one("sec-websocket-key") else {
        return Err(RequestFault::Malformed);
    };
    let key = key.trim();
    if KEY_ENCODING.decode(key).map(|bytes| bytes.len()) != Ok(KEY_BYTES) {
        return Err(RequestFault::Malformed);
    }
    match one("origin") {
        _ if origins.is_empty() => {}
        (None, _) => {}
        (Some(origin), false) if origins.iter().any(|known| known == origin) => {}
        _ => return Err(RequestFault::Origin),
    }
    if !has("sec-websocket-protocol", "mqtt", true) {
        return Err(RequestFault::Subprotocol);
    }
    output.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Accept: ",
    );
    output.extend_from_slice(accept(key.as_bytes()).as_bytes());
    output.extend_from_slice(b"\r\n\r\n");
    Ok(())
}

/// What proves that the request was read.
pub(super) fn accept(key: &[u8]) -> String {
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key);
    digest.update(ACCEPT_GUID);
    STANDARD.encode(digest.finish())
}

/// Adds the answer to a request that is refused, and returns its status.
pub(super) fn refusal(fault: RequestFault, output: &mut Vec<u8>) -> u16 {
    let (status, reason, header) = match fault {
        RequestFault::Malformed => (400, "Bad Request", ""),
        RequestFault::Method => (405, "Method Not Allowed", "Allow: GET\r\n"),
        RequestFault::Version => (426, "Upgrade Required", "Sec-WebSocket-Version: 13\r\n"),
        RequestFault::Subprotocol => (400, "Bad Request", "Sec-WebSocket-Protocol: mqtt\r\n"),
        RequestFault::Origin => (403, "Forbidden", ""),
        RequestFault::TooLarge => (431, "Request Header Fields Too Large", ""),
    };
    let answer = format!(
        "HTTP/1.1 {status} {reason}\r\n{header}Connection: close\r\nContent-Length: 0\r\n\r\n"
    );
    output.extend_from_slice(answer.as_bytes());
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_specification_is_answered_as_it_says() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}

//! Percent-escapes: `%` and two upper-case hex digits for one byte.

/// Appends the escape of `byte`.
pub(super) fn put_escape(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'%', hex_digit(byte >> 4), hex_digit(byte & 0xF)]);
}

/// The byte that the two digits in front of `rest` stand for, and what is behind them.
pub(super) fn escaped_byte(rest: &[u8]) -> Option<(u8, &[u8])> {
    let (&[high, low], behind) = rest.split_first_chunk()?;
    Some(((nibble(high)? << 4) | nibble(low)?, behind))
}

/// Appends `text` as it may stand in a header value: visible ASCII and blanks inside as they are,
/// all else and `%` escaped, and bytes of `also` too.
pub(super) fn put_escaped(text: &[u8], also: &[u8], out: &mut Vec<u8>) {
    let last = text.len().saturating_sub(1);
    for (index, &byte) in text.iter().enumerate() {
        let is_plain = match byte {
            // Blanks at the ends of a value are cut off by readers.
            b' ' => index > 0 && index < last,
            b'%' => false,
            0x21..=0x7E => !also.contains(&byte),
            _ => false,
        };
        if is_plain {
            out.push(byte);
        } else {
            put_escape(byte, out);
        }
    }
}

/// Appends what `value` stands for; `None` when a `%` starts no escape, with `out` as it was.
pub(super) fn put_unescaped(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    let mut rest = value;
    while let Some(place) = memchr::memchr(b'%', rest) {
        let (plain, escape) = rest.split_at(place);
        out.extend_from_slice(plain);
        let Some((byte, behind)) = escape.get(1..).and_then(escaped_byte) else {
            out.truncate(start);
            return None;
        };
        out.push(byte);
        rest = behind;
    }
    out.extend_from_slice(rest);
    Some(())
}

fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'A' + (nibble - 10) }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_header_value_cannot_hold() {
        for (text, escaped) in [
            (&b""[..], &b""[..]),
            (b"text/plain; charset=utf-8", b"text/plain; charset=utf-8"),
            (b" a b ", b"%20a b%20"),
            (b" ", b"%20"),
            (b"a\r\nNats-Msg-Id: b", b"a%0D%0ANats-Msg-Id: b"),
            (b"100%", b"100%25"),
            (b"\0\x7F\xC3\xA9", b"%00%7F%C3%A9"),
        ] {
            let (mut got, mut back) = (Vec::new(), Vec::new());
            put_escaped(text, b"", &mut got);
            assert_eq!(got, escaped);
            assert_eq!(put_unescaped(&got, &mut back), Some(()));
            assert_eq!(back, text);
        }
        let mut got = Vec::new();
        put_escaped(b"a=b", b"=", &mut got);
        assert_eq!(got, b"a%3Db");
    }

    #[test]
    fn a_broken_escape_is_none() {
        for value in [&b"%"[..], b"a%2", b"%2e", b"%%20", b"ok%20%xx"] {
            let mut out = b"kept".to_vec();
            assert_eq!(put_unescaped(value, &mut out), None);
            assert_eq!(out, b"kept");
        }
    }
}

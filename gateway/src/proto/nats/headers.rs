//! The header block of a message. Source: ADR-4 (NATS message headers).

use super::json::decimal;

/// A header block as on the wire, empty when the message has none.
///
/// Wire shape: `NATS/1.0`, optionally a blank, a status of three digits and a description; then a
/// line `Name: value` each; then an empty line. All lines end with CR LF. A server passes on what
/// a publisher wrote between the first line and its own lines, right or wrong, so a line that is
/// no header is passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    block: &'a [u8],
}

/// The status in the first line of a header block: how a server answers without a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status<'a> {
    /// Three digits: 100 idle heartbeat, 204 end of batch, 404 not found, 408 bad request, 413 too
    /// many results, 503 no responders, and others.
    pub code: u16,
    /// May be empty.
    pub description: &'a [u8],
}

impl<'a> Headers<'a> {
    /// No headers.
    pub const NONE: Self = Self { block: &[] };

    /// The header block `block`, first line and empty line included.
    #[must_use]
    pub fn from_block(block: &'a [u8]) -> Self {
        Self { block }
    }

    /// The bytes as on the wire.
    #[must_use]
    pub fn block(self) -> &'a [u8] {
        self.block
    }

    /// Whether there is not even a first line.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.block.is_empty()
    }

    /// The status of the first line, `None` when it has none.
    #[must_use]
    pub fn status(self) -> Option<Status<'a>> {
        let first = self.lines()?.first;
        let text = first.trim_ascii();
        let (digits, description) = text.split_at_checked(3)?;
        let code = u16::try_from(decimal(digits)?).ok()?;
        if description.first().is_some_and(|byte| *byte != b' ') {
            return None;
        }
        Some(Status { code, description: description.trim_ascii_start() })
    }

    /// Name and value of each header, in order; values without the blanks around them.
    ///
    /// Ends at the empty line, or where the block ends without one. Names are case-sensitive and
    /// may repeat.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let mut rest = self.lines().map_or(&[][..], |lines| lines.rest);
        std::iter::from_fn(move || {
            loop {
                let (line, behind) = split_line(rest)?;
                rest = behind;
                if line.is_empty() {
                    return None;
                }
                if let Some(header) = split_header(line) {
                    return Some(header);
                }
            }
        })
    }

    /// The value of the first header named `name`.
    #[must_use]
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        self.iter().find(|(got, _)| *got == name.as_bytes()).map(|(_, value)| value)
    }

    fn lines(self) -> Option<Lines<'a>> {
        let behind_version = self.block.strip_prefix(VERSION)?;
        let (first, rest) = split_line(behind_version)?;
        let is_version = first.first().is_none_or(u8::is_ascii_whitespace);
        is_version.then_some(Lines { first, rest })
    }
}

struct Lines<'a> {
    /// The first line behind the version.
    first: &'a [u8],
    /// The lines below it.
    rest: &'a [u8],
}

/// The first line of `text` without CR LF, and what is below it.
fn split_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', text)?;
    let (line, rest) = text.split_at(end);
    Some((line.strip_suffix(b"\r").unwrap_or(line), rest.get(1..)?))
}

/// Name and value of a header line: a name has no blank in it, and is not empty.
fn split_header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr2(b':', b' ', line)?;
    let (name, value) = line.split_at(end);
    let value = value.strip_prefix(b":")?;
    (!name.is_empty()).then_some((name, value.trim_ascii()))
}

/// What a header block starts with.
pub(super) const VERSION: &[u8] = b"NATS/1.0";

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(block: &[u8], status: Option<(u16, &str)>, expected: &[(&str, &str)]) {
        let headers = Headers::from_block(block);
        let got = headers.status();
        assert_eq!(got.map(|status| status.code), status.map(|(code, _)| code));
        assert_eq!(
            got.map(|status| status.description),
            status.map(|(_, description)| description.as_bytes())
        );
        let pairs: Vec<_> = headers.iter().collect();
        let expected: Vec<_> =
            expected.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        assert_eq!(pairs, expected);
    }

    /// ADR-4; the statuses as nats-server 2.15.1 writes them.
    #[test]
    fn reads_status_and_headers() {
        check(b"", None, &[]);
        check(b"NATS/1.0\r\n\r\n", None, &[]);
        check(b"NATS/1.0\r\na: b\r\n\r\n", None, &[("a", "b")]);
        check(
            b"NATS/1.0\r\na:b\r\na: \t c \r\nA:\r\n\r\n",
            None,
            &[("a", "b"), ("a", "c"), ("A", "")],
        );
        check(b"NATS/1.0\r\na: b: c\r\n\r\n", None, &[("a", "b: c")]);
        check(
            b"NATS/1.0 503\r\nNats-Subject: nosuch\r\n\r\n",
            Some((503, "")),
            &[("Nats-Subject", "nosuch")],
        );
        check(b"NATS/1.0 404 Message Not Found\r\n\r\n", Some((404, "Message Not Found")), &[]);
        check(
            b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 2\r\nNats-Last-Sequence: 2\r\n\r\n",
            Some((204, "EOB")),
            &[("Nats-Num-Pending", "2"), ("Nats-Last-Sequence", "2")],
        );
    }

    #[test]
    fn passes_over_what_is_no_header() {
        check(b"NATS/1.0\r\nbad line\r\n: v\r\na b: c\r\nk: v\r\n\r\n", None, &[("k", "v")]);
        check(b"NATS/1.0\r\nk: v\r\n\r\nafter: end\r\n", None, &[("k", "v")]);
        check(b"NATS/1.0\r\nk: v\r\ncut: of", None, &[("k", "v")]);
        check(b"NATS/1.0 5x3\r\n\r\n", None, &[]);
        check(b"NATS/1.0 5033\r\n\r\n", None, &[]);
        check(b"HTTP/1.1\r\nk: v\r\n\r\n", None, &[]);
        check(b"NATS/1.0503\r\nk: v\r\n\r\n", None, &[]);
        check(b"NATS/1.0", None, &[]);
    }

    #[test]
    fn get_takes_the_first_of_a_name_in_its_case() {
        let headers = Headers::from_block(b"NATS/1.0\r\nK: 0\r\nk: 1\r\nk: 2\r\n\r\n");
        assert_eq!(headers.get("k"), Some(&b"1"[..]));
        assert_eq!(headers.get("none"), None);
    }
}

//! Operations of a client to bytes. Source: NATS client protocol, CONNECT to PONG.
//!
//! Everything appends to the caller's buffer and nothing is allocated besides. A [`Subject`] can
//! end neither a field nor a line, and a header value with a line end is refused, so what others
//! chose cannot become an operation or a header of its own.

use super::Subject;
use super::headers::VERSION;

/// A header value, or name, that would end its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line end in a header")]
pub struct HeaderInjection;

/// Appends PUB `<subject> [reply-to] <bytes>` and the payload.
///
/// Source: NATS client protocol, PUB.
pub fn encode_publish(
    subject: Subject<'_>,
    reply_to: Option<Subject<'_>>,
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    put_fields(b"PUB ", subject, reply_to, out);
    put_decimal(payload.len() as u64, out);
    out.extend_from_slice(LINE_END);
    out.extend_from_slice(payload);
    out.extend_from_slice(LINE_END);
}

/// Appends SUB `<subject> [queue group] <sid>`.
///
/// Source: NATS client protocol, SUB.
pub fn encode_subscribe(
    subject: Subject<'_>,
    queue_group: Option<Subject<'_>>,
    sid: u64,
    out: &mut Vec<u8>,
) {
    put_fields(b"SUB ", subject, queue_group, out);
    put_decimal(sid, out);
    out.extend_from_slice(LINE_END);
}

/// Appends UNSUB `<sid> [max]`: at once, or after `max_messages` have been delivered.
///
/// Source: NATS client protocol, UNSUB.
pub fn encode_unsubscribe(sid: u64, max_messages: Option<u64>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"UNSUB ");
    put_decimal(sid, out);
    if let Some(max_messages) = max_messages {
        out.push(b' ');
        put_decimal(max_messages, out);
    }
    out.extend_from_slice(LINE_END);
}

/// Appends PING. Source: NATS client protocol, PING.
pub fn encode_ping(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PING\r\n");
}

/// Appends PONG. Source: NATS client protocol, PONG.
pub fn encode_pong(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PONG\r\n");
}

/// Appends PUB with a payload that `write` appends.
///
/// # Panics
///
/// When `write` takes bytes away: a fault of ours.
pub fn encode_publish_with(
    subject: Subject<'_>,
    reply_to: Option<Subject<'_>>,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>),
) {
    put_fields(b"PUB ", subject, reply_to, out);
    let gap = Gap::open(out);
    write(out);
    let payload_bytes = out.len().checked_sub(gap.end).expect("a payload is only appended");
    gap.close(&[payload_bytes], out);
    out.extend_from_slice(LINE_END);
}

/// An HPUB being written, whose sizes are known only when it is complete.
///
/// The control line goes first with room for the sizes; [`PublishWriter::finish`] fills them in
/// and closes the gap, which moves the headers by a few bytes and never the payload. One that is
/// dropped unfinished leaves nothing behind.
///
/// Source: NATS client protocol, HPUB; ADR-4.
#[derive(Debug)]
pub struct PublishWriter<'a> {
    out: &'a mut Vec<u8>,
    /// Where the operation starts.
    start: usize,
    sizes: Gap,
    is_finished: bool,
}

impl<'a> PublishWriter<'a> {
    /// Starts a publish to `subject`.
    pub fn new(subject: Subject<'_>, reply_to: Option<Subject<'_>>, out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        put_fields(b"HPUB ", subject, reply_to, out);
        let sizes = Gap::open(out);
        out.extend_from_slice(VERSION);
        out.extend_from_slice(LINE_END);
        Self { out, start, sizes, is_finished: false }
    }

    /// Adds a header.
    ///
    /// `name` is ours, never a client's: visible ASCII without a colon.
    ///
    /// # Errors
    ///
    /// [`HeaderInjection`] when the value has a CR or LF; nothing is added then.
    pub fn header(&mut self, name: &'static str, value: &[u8]) -> Result<(), HeaderInjection> {
        if memchr::memchr2(b'\r', b'\n', value).is_some() {
            return Err(HeaderInjection);
        }
        self.header_with(name, |out| out.extend_from_slice(value));
        Ok(())
    }

    /// Adds a header whose value is a decimal number.
    pub fn header_decimal(&mut self, name: &'static str, value: u64) {
        self.header_with(name, |out| put_decimal(value, out));
    }

    /// Adds a header whose value `write` appends, escaped by whoever calls this.
    pub(crate) fn header_with(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "{name}");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        let value_start = self.out.len();
        write(self.out);
        let value = self.out.get(value_start..).unwrap_or_default();
        debug_assert!(memchr::memchr2(b'\r', b'\n', value).is_none(), "not escaped: {value:?}");
        self.out.extend_from_slice(LINE_END);
    }

    /// Adds the payload and completes the operation.
    pub fn finish(mut self, payload: &[u8]) {
        self.out.extend_from_slice(LINE_END);
        let header_bytes = self.out.len() - self.sizes.end;
        self.sizes.close(&[header_bytes, header_bytes + payload.len()], self.out);
        self.out.extend_from_slice(payload);
        self.out.extend_from_slice(LINE_END);
        self.is_finished = true;
    }
}

impl Drop for PublishWriter<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            self.out.truncate(self.start);
        }
    }
}

/// Appends `value` in decimal digits.
pub fn put_decimal(value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; DECIMAL_DIGITS_MAX];
    out.extend_from_slice(decimal_digits(value, &mut digits));
}

fn decimal_digits(value: u64, digits: &mut [u8; DECIMAL_DIGITS_MAX]) -> &[u8] {
    let mut rest = value;
    let mut start = DECIMAL_DIGITS_MAX;
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        // The remainder of a division by ten fits a byte.
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        start = place;
        if rest == 0 {
            break;
        }
    }
    digits.get(start..).unwrap_or_default()
}

fn put_fields(
    operation: &[u8],
    subject: Subject<'_>,
    second: Option<Subject<'_>>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(operation);
    out.extend_from_slice(subject.as_bytes());
    out.push(b' ');
    if let Some(second) = second {
        out.extend_from_slice(second.as_bytes());
        out.push(b' ');
    }
}

/// Room for sizes that are known later, and for the end of their line.
#[derive(Clone, Copy, Debug)]
struct Gap {
    start: usize,
    end: usize,
}

impl Gap {
    fn open(out: &mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&[b' '; GAP_BYTES]);
        Self { start, end: out.len() }
    }

    /// Writes `sizes`, at most two, and the line end, and moves what is behind the gap up to them.
    fn close(self, sizes: &[usize], out: &mut Vec<u8>) {
        let mut at = self.start;
        let mut put = |bytes: &[u8]| {
            if let Some(place) = out.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        for (index, size) in sizes.iter().enumerate() {
            if index > 0 {
                put(b" ");
            }
            put(decimal_digits(*size as u64, &mut [0; DECIMAL_DIGITS_MAX]));
        }
        put(LINE_END);
        assert!(at <= self.end, "the gap holds the sizes");
        out.copy_within(self.end.., at);
        out.truncate(out.len() - (self.end - at));
    }
}

const LINE_END: &[u8] = b"\r\n";
/// Of `u64::MAX`.
const DECIMAL_DIGITS_MAX: usize = 20;
/// Two sizes, the blank between them and the line end.
const GAP_BYTES: usize = 2 * DECIMAL_DIGITS_MAX + 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(text: &str) -> Subject<'_> {
        Subject::filter(text).unwrap()
    }

    #[track_caller]
    fn check(write: impl FnOnce(&mut Vec<u8>), wire: &[u8]) {
        let mut out = b"+OK\r\n".to_vec();
        write(&mut out);
        assert_eq!(
            out.escape_ascii().to_string(),
            [b"+OK\r\n", wire].concat().escape_ascii().to_string()
        );
    }

    #[test]
    fn writes_every_operation() {
        let (a, reply) = (subject("a.b"), Some(subject("_I.1")));
        check(|out| encode_publish(a, None, b"hi", out), b"PUB a.b 2\r\nhi\r\n");
        check(|out| encode_publish(a, reply, b"", out), b"PUB a.b _I.1 0\r\n\r\n");
        check(|out| encode_subscribe(subject("a.>"), None, 7, out), b"SUB a.> 7\r\n");
        check(|out| encode_subscribe(a, Some(subject("q")), 7, out), b"SUB a.b q 7\r\n");
        check(|out| encode_unsubscribe(7, None, out), b"UNSUB 7\r\n");
        check(|out| encode_unsubscribe(7, Some(10), out), b"UNSUB 7 10\r\n");
        check(encode_ping, b"PING\r\n");
        check(encode_pong, b"PONG\r\n");
        check(
            |out| encode_publish_with(a, reply, out, |out| out.extend_from_slice(b"{\"seq\":1}")),
            b"PUB a.b _I.1 9\r\n{\"seq\":1}\r\n",
        );
    }

    /// ADR-4.
    #[test]
    fn writes_headers_with_their_sizes() {
        check(
            |out| {
                let mut publish = PublishWriter::new(subject("a.b"), Some(subject("r")), out);
                publish.header("Nats-Msg-Id", b"u1").unwrap();
                publish.header_decimal("n", 1_234);
                publish.finish(b"hi");
            },
            b"HPUB a.b r 38 40\r\nNATS/1.0\r\nNats-Msg-Id: u1\r\nn: 1234\r\n\r\nhi\r\n",
        );
        check(
            |out| PublishWriter::new(subject("a"), None, out).finish(b""),
            b"HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n",
        );
    }

    #[test]
    fn no_line_end_gets_into_a_header() {
        for value in [&b"a\r\nNats-Msg-Id: b"[..], b"\n", b"\r"] {
            check(
                |out| {
                    let mut publish = PublishWriter::new(subject("a"), None, out);
                    assert_eq!(publish.header("k", value), Err(HeaderInjection));
                    publish.finish(b"");
                },
                b"HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n",
            );
        }
    }

    #[test]
    fn an_unfinished_publish_leaves_nothing() {
        check(
            |out| {
                let mut publish = PublishWriter::new(subject("a"), None, out);
                publish.header_decimal("k", 1);
            },
            b"",
        );
    }

    #[test]
    fn writes_every_length_of_number() {
        let mut out = Vec::new();
        for value in [0, 9, 10, 99, 100, u64::MAX] {
            put_decimal(value, &mut out);
            out.push(b' ');
        }
        assert_eq!(out, b"0 9 10 99 100 18446744073709551615 ");
    }
}

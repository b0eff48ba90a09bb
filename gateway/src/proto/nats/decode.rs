//! Bytes of a server to operations. Source: NATS client protocol, INFO to -ERR.

use super::{CONTROL_LINE_BYTES_MAX, DecodeError, Headers};

/// One operation of a server, borrowing from the bytes it was decoded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// INFO: the JSON object, for [`Info::parse`](super::Info::parse). Comes first, and again
    /// whenever the server has news (its server list, lame-duck mode).
    Info(&'a [u8]),
    /// MSG or HMSG.
    Message(Message<'a>),
    /// PING: to be answered with PONG.
    Ping,
    /// PONG: all that was sent before our PING has been handled.
    Pong,
    /// +OK, in verbose mode only.
    Ok,
    /// -ERR: the text without its quotes. Some errors close the connection, some do not.
    Err(&'a [u8]),
}

/// A message delivered for a subscription: MSG, or HMSG when it has headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The subject it was published to. Not necessarily UTF-8.
    pub subject: &'a [u8],
    /// The subscription it is delivered for, as given in SUB.
    pub sid: u64,
    /// Where an answer is expected.
    pub reply_to: Option<&'a [u8]>,
    /// Empty for MSG.
    pub headers: Headers<'a>,
    /// May be empty.
    pub payload: &'a [u8],
}

/// What a reader accepts, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Of a line other than INFO, without its line end. Default 4,608: a client's own
    /// [`CONTROL_LINE_BYTES_MAX`] and room for what the server adds when it delivers the message
    /// (operation name, subscription id, the prefix of a republished subject).
    pub control_line_bytes_max: usize,
    /// Of an INFO line. Default 65,536: some 2,000 server addresses.
    pub info_bytes_max: usize,
    /// Of the headers of one message. Default 1,048,576, the server's default `max_payload`, which is
    /// its only limit for what is not stored; to be raised to what INFO says.
    pub header_bytes_max: usize,
    /// Of the payload of one message, without headers. Default 1,048,576, the server's default
    /// `max_payload`; to be raised to what INFO says.
    pub payload_bytes_max: usize,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            control_line_bytes_max: CONTROL_LINE_BYTES_MAX + 512,
            info_bytes_max: 65_536,
            header_bytes_max: 1_048_576,
            payload_bytes_max: 1_048_576,
        }
    }
}

/// What is known of an operation that has not arrived completely, so that its bytes are not
/// looked at again and again.
///
/// Belongs to the front of the stream: [`decode`] advances it while it answers `None`, and resets
/// it when it returns an operation. A new connection starts with the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// There is no line feed before this place.
    scanned_bytes: usize,
    /// The operation has at least this many bytes; 0 while its line is incomplete.
    needed_bytes: usize,
}

impl Progress {
    /// How many bytes the operation has, once its line has arrived; before that 0.
    ///
    /// A caller may make room for it at once: the value is within the limits.
    #[must_use]
    pub fn needed_bytes(self) -> usize {
        self.needed_bytes
    }
}

/// Reads one operation from the front of `src`.
///
/// Wire shape: a line (operation name, fields behind blanks, CR LF); behind the line of MSG and
/// HMSG as many bytes as its last field says and CR LF. Names are read in any case, and any run of
/// blanks and tabs separates fields. Nothing is copied or allocated.
///
/// Returns the operation and the bytes it took, or `None` while `src` ends inside it: read more
/// and call again with the same `progress`.
///
/// # Errors
///
/// [`DecodeError`] says what was wrong. The limits are checked as soon as the line says so, before
/// any payload is waited for.
///
/// # Source
///
/// NATS client protocol; ADR-4 for HMSG.
pub fn decode<'a>(
    src: &'a [u8],
    limits: &DecodeLimits,
    progress: &mut Progress,
) -> Result<Option<(Operation<'a>, usize)>, DecodeError> {
    if src.len() < progress.needed_bytes {
        return Ok(None);
    }
    let Some(line) = line(src, limits, progress)? else { return Ok(None) };
    let after_line = line.len() + 2;
    let (name, rest) = line.split_at(line.iter().take_while(|byte| !is_blank(**byte)).count());
    let (operation, taken) = match name {
        name if is(name, b"MSG") => return message(rest, false, src, after_line, limits, progress),
        name if is(name, b"HMSG") => return message(rest, true, src, after_line, limits, progress),
        name if is(name, b"PING") => (Operation::Ping, after_line),
        name if is(name, b"PONG") => (Operation::Pong, after_line),
        name if is(name, b"+OK") => (Operation::Ok, after_line),
        name if is(name, b"INFO") => (Operation::Info(rest.trim_ascii()), after_line),
        name if is(name, b"-ERR") => (Operation::Err(unquoted(rest.trim_ascii())), after_line),
        _ => return Err(DecodeError::UnknownOperation),
    };
    *progress = Progress::default();
    Ok(Some((operation, taken)))
}

/// The first line of `src` without its end.
fn line<'a>(
    src: &'a [u8],
    limits: &DecodeLimits,
    progress: &mut Progress,
) -> Result<Option<&'a [u8]>, DecodeError> {
    let is_info = src.first().is_some_and(|byte| byte.eq_ignore_ascii_case(&b'I'));
    let limit_bytes = if is_info { limits.info_bytes_max } else { limits.control_line_bytes_max };
    let unscanned = src.get(progress.scanned_bytes..).unwrap_or_default();
    let Some(place) = memchr::memchr(b'\n', unscanned) else {
        // A carriage return may be the last byte of a line that is just within the limit.
        if src.len() > limit_bytes + 1 {
            return Err(DecodeError::ControlLineTooLong { limit_bytes });
        }
        progress.scanned_bytes = src.len();
        return Ok(None);
    };
    let end = progress.scanned_bytes + place;
    if end > limit_bytes + 1 {
        return Err(DecodeError::ControlLineTooLong { limit_bytes });
    }
    let with_return = src.get(..end).unwrap_or_default();
    with_return.strip_suffix(b"\r").map(Some).ok_or(DecodeError::LineEnd)
}

/// MSG `<subject> <sid> [reply-to] <bytes>`; HMSG `<subject> <sid> [reply-to] <header bytes>
/// <total bytes>`, total counting headers and payload.
fn message<'a>(
    fields: &'a [u8],
    has_headers: bool,
    src: &'a [u8],
    after_line: usize,
    limits: &DecodeLimits,
    progress: &mut Progress,
) -> Result<Option<(Operation<'a>, usize)>, DecodeError> {
    let line = MessageLine::parse(fields, has_headers)?;
    let payload_bytes = line.check(limits)?;
    let needed_bytes = after_line + line.total_bytes + 2;
    let Some(body) = src.get(after_line..needed_bytes) else {
        progress.needed_bytes = needed_bytes;
        // The line feed is the byte before the body: the next call finds it at once.
        progress.scanned_bytes = after_line - 1;
        return Ok(None);
    };
    let (headers, rest) = body.split_at(line.header_bytes);
    let (payload, end) = rest.split_at(payload_bytes);
    if end != b"\r\n" {
        return Err(DecodeError::PayloadEnd);
    }
    *progress = Progress::default();
    let message = Message {
        subject: line.subject,
        sid: line.sid,
        reply_to: line.reply_to,
        headers: Headers::from_block(headers),
        payload,
    };
    Ok(Some((Operation::Message(message), needed_bytes)))
}

struct MessageLine<'a> {
    subject: &'a [u8],
    sid: u64,
    reply_to: Option<&'a [u8]>,
    header_bytes: usize,
    total_bytes: usize,
}

impl<'a> MessageLine<'a> {
    fn parse(fields: &'a [u8], has_headers: bool) -> Result<Self, DecodeError> {
        let mut rest = fields;
        let subject = next_field(&mut rest).ok_or(DecodeError::FieldCount)?;
        let sid = next_field(&mut rest).ok_or(DecodeError::FieldCount)?;
        let third = next_field(&mut rest).ok_or(DecodeError::FieldCount)?;
        let fourth = next_field(&mut rest);
        let fifth = next_field(&mut rest);
        if next_field(&mut rest).is_some() {
            return Err(DecodeError::FieldCount);
        }
        let (reply_to, header_bytes, total_bytes) = match (has_headers, fourth, fifth) {
            (false, None, None) => (None, None, third),
            (false, Some(fourth), None) => (Some(third), None, fourth),
            (true, Some(fourth), None) => (None, Some(third), fourth),
            (true, Some(fourth), Some(fifth)) => (Some(third), Some(fourth), fifth),
            _ => return Err(DecodeError::FieldCount),
        };
        Ok(Self {
            subject,
            sid: number(sid)?,
            reply_to,
            header_bytes: header_bytes.map_or(Ok(0), size)?,
            total_bytes: size(total_bytes)?,
        })
    }

    /// Checks the sizes and returns that of the payload.
    fn check(&self, limits: &DecodeLimits) -> Result<usize, DecodeError> {
        let (header_bytes, total_bytes) = (self.header_bytes, self.total_bytes);
        let Some(payload_bytes) = total_bytes.checked_sub(header_bytes) else {
            return Err(DecodeError::HeadersPastEnd { header_bytes, total_bytes });
        };
        if header_bytes > limits.header_bytes_max {
            let limit_bytes = limits.header_bytes_max;
            return Err(DecodeError::HeadersTooLong { got_bytes: header_bytes, limit_bytes });
        }
        if payload_bytes > limits.payload_bytes_max {
            let limit_bytes = limits.payload_bytes_max;
            return Err(DecodeError::PayloadTooLong { got_bytes: payload_bytes, limit_bytes });
        }
        Ok(payload_bytes)
    }
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let start = rest.iter().position(|byte| !is_blank(*byte))?;
    let (_, from_field) = rest.split_at(start);
    let end = memchr::memchr2(b' ', b'\t', from_field).unwrap_or(from_field.len());
    let (field, behind) = from_field.split_at(end);
    *rest = behind;
    Some(field)
}

fn number(digits: &[u8]) -> Result<u64, DecodeError> {
    super::json::decimal(digits).ok_or(DecodeError::Number)
}

/// A size: at most nine digits, as in the server itself.
fn size(digits: &[u8]) -> Result<usize, DecodeError> {
    if digits.len() > SIZE_DIGITS_MAX {
        return Err(DecodeError::Number);
    }
    usize::try_from(number(digits)?).map_err(|_| DecodeError::Number)
}

fn is(name: &[u8], operation: &[u8]) -> bool {
    name.eq_ignore_ascii_case(operation)
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn unquoted(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"'").and_then(|text| text.strip_suffix(b"'")).unwrap_or(text)
}

const SIZE_DIGITS_MAX: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DecodeLimits = DecodeLimits {
        control_line_bytes_max: 64,
        info_bytes_max: 128,
        header_bytes_max: 32,
        payload_bytes_max: 16,
    };

    /// Reads `wire`, whole and as every front of it.
    #[track_caller]
    fn check(wire: &[u8], expected: Operation<'_>) {
        let mut progress = Progress::default();
        for end in 0..wire.len() {
            assert_eq!(decode(&wire[..end], &LIMITS, &mut progress), Ok(None), "front of {end}");
        }
        assert_eq!(decode(wire, &LIMITS, &mut progress), Ok(Some((expected, wire.len()))));
        assert_eq!(progress, Progress::default());
        let behind = [wire, b"PING\r\n"].concat();
        assert_eq!(decode(&behind, &LIMITS, &mut progress), Ok(Some((expected, wire.len()))));
    }

    #[track_caller]
    fn check_error(wire: &[u8], expected: DecodeError) {
        assert_eq!(decode(wire, &LIMITS, &mut Progress::default()), Err(expected), "whole");
        let mut progress = Progress::default();
        let by_byte =
            (0..=wire.len()).find_map(|end| decode(&wire[..end], &LIMITS, &mut progress).err());
        assert_eq!(by_byte, Some(expected), "byte by byte");
    }

    fn message<'a>(
        subject: &'a [u8],
        reply_to: Option<&'a [u8]>,
        payload: &'a [u8],
    ) -> Message<'a> {
        let headers = Headers::from_block(b"");
        Message { subject, sid: 9, reply_to, headers, payload }
    }

    #[test]
    fn reads_every_operation() {
        check(b"INFO {\"port\":4222} \r\n", Operation::Info(b"{\"port\":4222}"));
        check(b"PING\r\n", Operation::Ping);
        check(b"pong\r\n", Operation::Pong);
        check(b"+OK\r\n", Operation::Ok);
        check(b"-ERR 'Invalid Subject'\r\n", Operation::Err(b"Invalid Subject"));
        check(b"-ERR\r\n", Operation::Err(b""));
    }

    /// NATS client protocol, MSG and HMSG; ADR-4.
    #[test]
    fn reads_messages() {
        check(b"MSG a.b 9 5\r\nhello\r\n", Operation::Message(message(b"a.b", None, b"hello")));
        let with_reply = message(b"a.b", Some(b"_I.1"), b"");
        check(b"MSG a.b 9 _I.1 0\r\n\r\n", Operation::Message(with_reply));
        check(b"MSG\ta.b  9\t_I.1 0\r\n\r\n", Operation::Message(with_reply));
        let inside = message(b"a", None, b"\r\nPING\r\n");
        check(b"MSG a 9 8\r\n\r\nPING\r\n\r\n", Operation::Message(inside));
        let headers = Headers::from_block(b"NATS/1.0\r\nk: v\r\n\r\n");
        let with_headers = Message { headers, ..message(b"a.b", None, b"hi") };
        check(
            b"HMSG a.b 9 18 20\r\nNATS/1.0\r\nk: v\r\n\r\nhi\r\n",
            Operation::Message(with_headers),
        );
        let both = Message { reply_to: Some(b"r"), ..with_headers };
        check(b"HMSG a.b 9 r 18 20\r\nNATS/1.0\r\nk: v\r\n\r\nhi\r\n", Operation::Message(both));
    }

    #[test]
    fn refuses_what_is_no_operation() {
        check_error(b"FOO\r\n", DecodeError::UnknownOperation);
        check_error(b"\r\n", DecodeError::UnknownOperation);
        check_error(b"HTTP/1.1 400 Bad Request\r\n", DecodeError::UnknownOperation);
        check_error(b"PING\n", DecodeError::LineEnd);
        check_error(b"MSG a 9\r\n", DecodeError::FieldCount);
        check_error(b"MSG a 9 r 1 1\r\n", DecodeError::FieldCount);
        check_error(b"HMSG a 9 12\r\n", DecodeError::FieldCount);
        check_error(b"HMSG a 9 r 1 1 1\r\n", DecodeError::FieldCount);
        check_error(b"MSG a -9 1\r\n", DecodeError::Number);
        check_error(b"MSG a 18446744073709551616 1\r\n", DecodeError::Number);
        check_error(b"MSG a 9 1x\r\n", DecodeError::Number);
        check_error(b"MSG a 9 1000000000\r\n", DecodeError::Number);
        check_error(b"MSG a 9 1\r\nxy\r\n", DecodeError::PayloadEnd);
        check_error(
            b"HMSG a 9 13 12\r\n",
            DecodeError::HeadersPastEnd { header_bytes: 13, total_bytes: 12 },
        );
    }

    #[test]
    fn refuses_what_is_above_a_limit_and_nothing_at_it() {
        let line_of = |count: usize| [&b"-ERR "[..], &vec![b'x'; count - 5], b"\r\n"].concat();
        let at = line_of(64);
        check(&at, Operation::Err(&at[5..64]));
        check_error(&line_of(65), DecodeError::ControlLineTooLong { limit_bytes: 64 });
        check_error(&[b'x'; 66], DecodeError::ControlLineTooLong { limit_bytes: 64 });
        let info = [&b"INFO "[..], &[b'x'; 123], b"\r\n"].concat();
        check(&info, Operation::Info(&info[5..128]));
        let long = [&b"INFO "[..], &[b'x'; 124], b"\r\n"].concat();
        check_error(&long, DecodeError::ControlLineTooLong { limit_bytes: 128 });
        let at = message(b"a", None, b"0123456789abcdef");
        check(b"MSG a 9 16\r\n0123456789abcdef\r\n", Operation::Message(at));
        check_error(
            b"MSG a 9 17\r\n",
            DecodeError::PayloadTooLong { got_bytes: 17, limit_bytes: 16 },
        );
        check_error(
            b"HMSG a 9 33 33\r\n",
            DecodeError::HeadersTooLong { got_bytes: 33, limit_bytes: 32 },
        );
    }

    #[test]
    fn an_incomplete_message_is_not_scanned_again() {
        let mut progress = Progress::default();
        assert_eq!(decode(b"MSG a 9 5\r\nhe", &LIMITS, &mut progress), Ok(None));
        assert_eq!(progress.needed_bytes(), 18);
        // Other bytes in place of those seen are not looked at: the answer is by length alone.
        assert_eq!(decode(b"-----------------", &LIMITS, &mut progress), Ok(None));
    }
}

//! What a server says of a stored message: by the headers it adds when it delivers one again.
//!
//! | header | republished | Direct Get | with `batch` or `multi_last` |
//! |---|---|---|---|
//! | `Nats-Stream`, `Nats-Subject`, `Nats-Sequence`, `Nats-Time-Stamp` | yes | yes | yes |
//! | `Nats-Last-Sequence` | yes: before it, of the same subject | no | yes: before it, in the answer |
//! | `Nats-Num-Pending` | no | no | yes |
//!
//! They stand behind what the publisher wrote, and a publisher may write headers of the same names
//! (nats-server 2.15.1 keeps them). So only what follows the last `Nats-Stream` is the server's,
//! and all of it must be there and readable: a message whose place is unknown cannot be used.
//!
//! Source: ADR-31; nats-server 2.12.0 and 2.15.1, which agree.

use crate::proto::nats::Headers;
use crate::proto::nats::json::decimal;
use crate::proto::partition::Sequence;
use crate::proto::time::Timestamp;
use std::io::Write as _;

/// When a server stored something, in nanoseconds since the Unix epoch, by its own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreTime(pub u64);

/// A stored message's place and what else the server said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    /// The stream's name.
    pub stream: &'a [u8],
    /// The subject it was stored under, which a republished message was not delivered on.
    pub subject: &'a [u8],
    /// Its place in the stream.
    pub sequence: Sequence,
    /// When it was stored.
    pub stored_at: StoreTime,
    /// The sequence before it: see the table of this module. 0 for none.
    pub last_sequence: Option<Sequence>,
    /// Messages that match the request and are still to come, this one not counted.
    pub pending_count: Option<u64>,
}

/// Headers that are not those of a stored message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    /// No `Nats-Stream`: nothing that a server stored. A message of QoS 0 on the live feed.
    #[error("not a stored message")]
    NoStream,
    /// One of the others is not there.
    #[error("stored message without {header}")]
    Missing {
        /// Its name.
        header: &'static str,
    },
    /// One of the others cannot be read, or is there twice.
    #[error("stored message with an unreadable {header}")]
    Unreadable {
        /// Its name.
        header: &'static str,
    },
}

impl<'a> Stored<'a> {
    /// Reads what the server added to `headers`.
    ///
    /// # Errors
    ///
    /// [`NotStored`].
    pub fn read(headers: Headers<'a>) -> Result<Self, NotStored> {
        let mut added = Added::default();
        for (name, value) in headers.iter().filter(|(name, _)| name.starts_with(b"Nats-")) {
            if name == STREAM.as_bytes() {
                // What came before was the publisher's.
                added = Added { stream: Some(value), ..Added::default() };
            } else if let Some((header, place)) = added.place(name) {
                if place.is_some() {
                    return Err(NotStored::Unreadable { header });
                }
                *place = Some(value);
            }
        }
        added.check()
    }
}

/// Values of the headers behind the last `Nats-Stream`.
#[derive(Default)]
struct Added<'a> {
    stream: Option<&'a [u8]>,
    subject: Option<&'a [u8]>,
    sequence: Option<&'a [u8]>,
    time_stamp: Option<&'a [u8]>,
    last_sequence: Option<&'a [u8]>,
    pending: Option<&'a [u8]>,
}

impl<'a> Added<'a> {
    fn place(&mut self, name: &[u8]) -> Option<(&'static str, &mut Option<&'a [u8]>)> {
        // Before it stands what the publisher wrote.
        self.stream?;
        match name {
            b"Nats-Subject" => Some((SUBJECT, &mut self.subject)),
            b"Nats-Sequence" => Some((SEQUENCE, &mut self.sequence)),
            b"Nats-Time-Stamp" => Some((TIME_STAMP, &mut self.time_stamp)),
            b"Nats-Last-Sequence" => Some((LAST_SEQUENCE, &mut self.last_sequence)),
            b"Nats-Num-Pending" => Some((NUM_PENDING, &mut self.pending)),
            _ => None,
        }
    }

    fn check(self) -> Result<Stored<'a>, NotStored> {
        let stream = self.stream.ok_or(NotStored::NoStream)?;
        let subject = needed(self.subject, SUBJECT)?;
        let sequence = number(needed(self.sequence, SEQUENCE)?, SEQUENCE)?;
        if sequence == 0 {
            return Err(NotStored::Unreadable { header: SEQUENCE });
        }
        let stored_at = StoreTime::parse(needed(self.time_stamp, TIME_STAMP)?)
            .ok_or(NotStored::Unreadable { header: TIME_STAMP })?;
        let last = self.last_sequence.map(|value| number(value, LAST_SEQUENCE)).transpose()?;
        let pending_count = self.pending.map(|value| number(value, NUM_PENDING)).transpose()?;
        Ok(Stored {
            stream,
            subject,
            sequence: Sequence(sequence),
            stored_at,
            last_sequence: last.map(Sequence),
            pending_count,
        })
    }
}

fn needed<'a>(value: Option<&'a [u8]>, header: &'static str) -> Result<&'a [u8], NotStored> {
    value.ok_or(NotStored::Missing { header })
}

fn number(value: &[u8], header: &'static str) -> Result<u64, NotStored> {
    decimal(value).ok_or(NotStored::Unreadable { header })
}

impl StoreTime {
    /// Reads `2026-11-25T19:14:05.624456241Z`: a time of UTC with up to nine digits of fraction,
    /// trailing zeros left out. `None` for anything else, and outside 1970 to 2553.
    ///
    /// Source: RFC 3339; the header `Nats-Time-Stamp`, and times in answers of JetStream.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (date, rest) = text.split_at_checked(19)?;
        let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
        if separators.iter().any(|(place, byte)| date.get(*place) != Some(byte)) {
            return None;
        }
        let field = |from: usize, to: usize| decimal(date.get(from..to)?);
        let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
        let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
        let is_time = hour < 24 && minute < 60 && second < 60;
        let is_date = year >= 1970
            && (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&day);
        if !is_time || !is_date {
            return None;
        }
        let days = days_since_1970(year, month, day);
        let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
        let nanos = seconds.checked_mul(1_000_000_000)?.checked_add(nanos(rest)?)?;
        Some(Self(nanos))
    }

    /// The same in milliseconds, rounded down.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        Timestamp(self.0 / 1_000_000)
    }

    /// Appends it as [`StoreTime::parse`] reads it, with nine digits of fraction.
    pub fn write(self, out: &mut Vec<u8>) {
        let (seconds, nanos) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        let (year, month, day) = date(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
            .expect("writing to memory cannot fail");
    }
}

/// Year, month and day, so many days after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    // No year is shorter than 365 days: this is the year, or a later one.
    let mut year = 1970 + days / 365;
    while days_since_1970(year, 1, 1) > days {
        year -= 1;
    }
    let mut day = days - days_since_1970(year, 1, 1);
    let mut month = 1;
    while day >= days_in_month(year, month) {
        day -= days_in_month(year, month);
        month += 1;
    }
    (year, month, day + 1)
}

/// `.624456241Z`, or `Z` alone.
fn nanos(fraction: &[u8]) -> Option<u64> {
    let digits = fraction.strip_suffix(b"Z")?;
    if digits.is_empty() {
        return Some(0);
    }
    let digits = digits.strip_prefix(b".")?;
    let missing = 9_u32.checked_sub(u32::try_from(digits.len()).ok()?)?;
    Some(decimal(digits)? * 10_u64.pow(missing))
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date not before it.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400 - LEAP_DAYS_BEFORE_1970;
    let months: u64 = (1..month).map(|month| days_in_month(year, month)).sum();
    (year - 1970) * 365 + leap_days + months + day - 1
}

/// 1969 / 4 - 1969 / 100 + 1969 / 400.
const LEAP_DAYS_BEFORE_1970: u64 = 477;
const STREAM: &str = "Nats-Stream";
const SUBJECT: &str = "Nats-Subject";
const SEQUENCE: &str = "Nats-Sequence";
const TIME_STAMP: &str = "Nats-Time-Stamp";
const LAST_SEQUENCE: &str = "Nats-Last-Sequence";
const NUM_PENDING: &str = "Nats-Num-Pending";

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: &str = "Nats-Stream: P\r\nNats-Subject: mqtt.a\r\nNats-Sequence: 2\r\n\
        Nats-Time-Stamp: 2026-11-25T19:14:05.624456241Z\r\n";
    const STORED: Stored<'_> = Stored {
        stream: b"P",
        subject: b"mqtt.a",
        sequence: Sequence(2),
        stored_at: StoreTime(1_795_634_045_624_456_241),
        last_sequence: None,
        pending_count: None,
    };

    #[track_caller]
    fn check(lines: &str, expected: Result<Stored<'_>, NotStored>) {
        let block = format!("NATS/1.0\r\n{lines}\r\n");
        assert_eq!(Stored::read(Headers::from_block(block.as_bytes())), expected);
    }

    /// As nats-server 2.15.1 sends them.
    #[test]
    fn reads_the_place_of_a_message() {
        check(PLACE, Ok(STORED));
        check(&format!("Nats-Msg-Id: u1\r\nx: y\r\n{PLACE}"), Ok(STORED));
        let last_sequence = Some(Sequence(1));
        check(&format!("{PLACE}Nats-Last-Sequence: 1\r\n"), Ok(Stored { last_sequence, ..STORED }));
        check(
            &format!("{PLACE}Nats-Num-Pending: 3\r\nNats-Last-Sequence: 1\r\n"),
            Ok(Stored { last_sequence, pending_count: Some(3), ..STORED }),
        );
    }

    /// nats-server 2.15.1 keeps what a publisher wrote under its own names, in front.
    #[test]
    fn a_publisher_cannot_pretend_another_place() {
        let pretended = "Nats-Sequence: 999\r\nNats-Stream: EVIL\r\nNats-Time-Stamp: 1\r\n\
            Nats-Num-Pending: 0\r\nNats-Last-Sequence: 7\r\n";
        check(&format!("{pretended}{PLACE}"), Ok(STORED));
        check("Nats-Sequence: 999\r\n", Err(NotStored::NoStream));
    }

    #[test]
    fn all_of_it_must_be_there_and_readable() {
        check("", Err(NotStored::NoStream));
        for header in [SUBJECT, SEQUENCE, TIME_STAMP] {
            let without: String =
                PLACE.split_inclusive("\r\n").filter(|line| !line.starts_with(header)).collect();
            check(&without, Err(NotStored::Missing { header }));
        }
        for (line, header) in [
            ("Nats-Sequence: 3", SEQUENCE),
            ("Nats-Num-Pending: -1", NUM_PENDING),
            ("Nats-Last-Sequence: ", LAST_SEQUENCE),
        ] {
            check(&format!("{PLACE}{line}\r\n"), Err(NotStored::Unreadable { header }));
        }
        let zero = PLACE.replace("Sequence: 2", "Sequence: 0");
        check(&zero, Err(NotStored::Unreadable { header: SEQUENCE }));
        let old_form = PLACE.replace("T19:14:05.624456241Z", " 19:14:05.6 +0000 UTC");
        check(&old_form, Err(NotStored::Unreadable { header: TIME_STAMP }));
    }

    #[test]
    fn reads_times() {
        for (text, nanos) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00.000000001Z", 1),
            ("1972-02-29T23:59:59.5Z", 68_255_999_500_000_000),
            ("2000-03-01T00:00:00Z", 951_868_800_000_000_000),
            ("2026-11-25T19:14:16.02948813Z", 1_795_634_056_029_488_130),
            ("2100-03-01T00:00:00Z", 4_107_542_400_000_000_000),
        ] {
            assert_eq!(StoreTime::parse(text.as_bytes()), Some(StoreTime(nanos)), "{text}");
            let mut written = Vec::new();
            StoreTime(nanos).write(&mut written);
            assert_eq!(StoreTime::parse(&written), Some(StoreTime(nanos)), "{text}");
        }
        for text in [
            "",
            "0001-01-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.1234567890Z",
            "2026-01-01T00:00:00+01:00",
            "2026-01-01 00:00:00Z",
            "+026-01-01T00:00:00Z",
            "9999-01-01T00:00:00Z",
        ] {
            assert_eq!(StoreTime::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(StoreTime(1_999_999).timestamp(), Timestamp(1));
    }
}

//! MQTT topics to NATS subjects and back: injective over every legal topic.
//!
//! | in a topic | in a subject |
//! |---|---|
//! | (front) | the prefix and `.`: `a/b` is `mqtt.a.b` |
//! | a leading `$` | the prefix followed by `$`: `$SYS/a` is `mqtt$.SYS.a` |
//! | `/` between levels | `.` |
//! | an empty level | the token `/`: `a//b` is `mqtt.a./.b` |
//! | `%` `.` `*` `>`, bytes up to 0x20, 0x7F | `%` and two upper-case hex digits |
//! | any other byte | itself |
//! | `+` in a filter | `*` |
//! | `#` in a filter | `>`, and the parent as a second subject: `a/#` is `mqtt.a.>` and `mqtt.a` |
//!
//! Topics that start with `$` have a prefix of their own because no filter that starts with a
//! wildcard may match them: with it `#` is simply `mqtt.>`. A stream that is to hold them too
//! needs both `mqtt.>` and `mqtt$.>` among its subjects.
//!
//! Back again only what this mapping could have made is a topic: other spellings, which would give
//! two subjects the same topic, are refused. Plain topics stay readable, so applications behind
//! the gateway write subjects by hand.
//!
//! Source: MQTT 5.0 §4.7; NATS documentation, "Subjects"; nats-server's own MQTT also writes an
//! empty level as `/`.

use super::escape::{escaped_byte, put_escape};
use crate::proto::mqtt::is_valid_topic_name;
use crate::proto::nats::{InvalidSubject, Subject};

/// A prefix that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrefix {
    /// Not a literal subject.
    #[error(transparent)]
    Subject(#[from] InvalidSubject),
    /// Longer than [`TopicPrefix::BYTES_MAX`].
    #[error("prefix of {got_bytes} bytes, at most {} are allowed", TopicPrefix::BYTES_MAX)]
    TooLong {
        /// Of the prefix.
        got_bytes: usize,
    },
    /// `$`, which belongs to the server, in front, or at the end, where it marks `$` topics.
    #[error("prefix with $ at its start or end")]
    Dollar,
}

/// A topic or filter whose subject would be longer than [`Subject::BYTES_MAX`]: it cannot be
/// published or subscribed to, and the client is told so (Topic Name invalid, Topic Filter
/// invalid).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("subject of {got_bytes} bytes, at most {} are allowed", Subject::BYTES_MAX)]
pub struct SubjectTooLong {
    /// Of the subject.
    pub got_bytes: usize,
}

/// A subject that is no topic's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotATopic {
    /// Another prefix, or nothing behind it.
    #[error("subject without the prefix of topics")]
    Prefix,
    /// A spelling that the mapping never writes.
    #[error("subject that no topic is mapped to")]
    NotCanonical,
    /// Not UTF-8, U+0000, `+`, `#`, or longer than 65,535 bytes.
    #[error("subject of what is no topic name")]
    Topic,
}

/// The subjects that together match what a topic filter matches.
///
/// Each takes a subscription id of its own: a server passes over a SUB whose id is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterSubjects<'a> {
    /// Always there.
    pub first: Subject<'a>,
    /// For a filter that ends in `/#`: the level above, which `#` matches and `>` does not. A
    /// topic matches one of the two at most.
    pub parent: Option<Subject<'a>>,
}

/// The prefix under which topics are subjects: one for stored topics ("mqtt"), one a partition for
/// its live feed ("live.3.mqtt").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPrefix {
    /// With the dot.
    plain: Vec<u8>,
    /// The same for topics that start with `$`, with `$` and the dot.
    dollar: Vec<u8>,
}

impl TopicPrefix {
    /// The longest prefix, bytes.
    pub const BYTES_MAX: usize = 128;

    /// The prefix `text`: one or more tokens.
    ///
    /// # Errors
    ///
    /// [`InvalidPrefix`].
    pub fn new(text: &str) -> Result<Self, InvalidPrefix> {
        Subject::literal(text)?;
        if text.len() > Self::BYTES_MAX {
            return Err(InvalidPrefix::TooLong { got_bytes: text.len() });
        }
        if text.starts_with('$') || text.ends_with('$') {
            return Err(InvalidPrefix::Dollar);
        }
        let (plain, dollar) = (format!("{text}."), format!("{text}$."));
        Ok(Self { plain: plain.into_bytes(), dollar: dollar.into_bytes() })
    }

    /// The subject of the valid topic name `topic`, written to `out`, which is cleared before.
    ///
    /// Different topics give different subjects, and never one with a wildcard.
    ///
    /// # Errors
    ///
    /// [`SubjectTooLong`].
    pub fn subject<'o>(
        &self,
        topic: &str,
        out: &'o mut Vec<u8>,
    ) -> Result<Subject<'o>, SubjectTooLong> {
        let levels = self.put_prefix(topic.as_bytes(), out);
        if is_plain(levels) {
            out.extend(levels.iter().map(|byte| if *byte == b'/' { b'.' } else { *byte }));
        } else {
            for (index, level) in levels.split(|byte| *byte == b'/').enumerate() {
                put_token(index, level, out);
            }
        }
        checked(out)
    }

    /// The subjects to subscribe to for the valid topic filter `filter` (of a shared subscription,
    /// what is behind the share name), written to `out`, which is cleared before.
    ///
    /// A topic matches `filter` exactly if its subject matches one of them.
    ///
    /// # Errors
    ///
    /// [`SubjectTooLong`].
    pub fn filter_subjects<'o>(
        &self,
        filter: &str,
        out: &'o mut Vec<u8>,
    ) -> Result<FilterSubjects<'o>, SubjectTooLong> {
        let levels = self.put_prefix(filter.as_bytes(), out);
        let mut parent_bytes = None;
        for (index, level) in levels.split(|byte| *byte == b'/').enumerate() {
            match level {
                b"+" => put_raw_token(index, b"*", out),
                b"#" if index == 0 => out.push(b'>'),
                // "+" and below is one level or more: ">" alone says so.
                b"#" if out.ends_with(b".*") => {
                    out.pop();
                    out.push(b'>');
                }
                b"#" => {
                    parent_bytes = Some(out.len());
                    out.extend_from_slice(b".>");
                }
                level => put_token(index, level, out),
            }
        }
        let first = checked(out)?;
        let parent = parent_bytes.and_then(|bytes| first.as_bytes().get(..bytes));
        Ok(FilterSubjects { first, parent: parent.map(Subject::from_checked) })
    }

    /// The topic of `subject`, written to `out`, which is cleared before.
    ///
    /// # Errors
    ///
    /// [`NotATopic`]. Anyone may publish to a subject, so this is to be expected.
    pub fn topic<'o>(&self, subject: &[u8], out: &'o mut Vec<u8>) -> Result<&'o str, NotATopic> {
        out.clear();
        let tokens = if let Some(tokens) = subject.strip_prefix(&self.plain[..]) {
            if tokens.first() == Some(&b'$') {
                return Err(NotATopic::NotCanonical);
            }
            tokens
        } else {
            out.push(b'$');
            subject.strip_prefix(&self.dollar[..]).ok_or(NotATopic::Prefix)?
        };
        for (index, token) in tokens.split(|byte| *byte == b'.').enumerate() {
            if index > 0 {
                out.push(b'/');
            }
            put_level(token, out)?;
        }
        let topic = std::str::from_utf8(out).map_err(|_| NotATopic::Topic)?;
        let is_topic = topic.len() <= TOPIC_BYTES_MAX && is_valid_topic_name(topic);
        if is_topic { Ok(topic) } else { Err(NotATopic::Topic) }
    }

    /// Writes the prefix that `text` belongs to and returns the levels to write behind it.
    fn put_prefix<'t>(&self, text: &'t [u8], out: &mut Vec<u8>) -> &'t [u8] {
        out.clear();
        let (prefix, levels) = match text.strip_prefix(b"$") {
            Some(levels) => (&self.dollar, levels),
            None => (&self.plain, text),
        };
        out.reserve(prefix.len() + levels.len());
        out.extend_from_slice(prefix);
        levels
    }
}

fn checked(out: &[u8]) -> Result<Subject<'_>, SubjectTooLong> {
    if out.len() > Subject::BYTES_MAX {
        return Err(SubjectTooLong { got_bytes: out.len() });
    }
    Ok(Subject::from_checked(out))
}

/// Whether `levels` differ from their tokens in nothing but the separator.
///
/// Without early exits, so that the compiler does it for many bytes at once.
fn is_plain(levels: &[u8]) -> bool {
    let (Some(first), Some(last)) = (levels.first(), levels.last()) else { return false };
    let escapes = levels.iter().fold(false, |any, byte| any | needs_escape(*byte));
    let behind = levels.iter().skip(1);
    let doubled = levels
        .iter()
        .zip(behind)
        .fold(false, |any, (byte, next)| any | ((*byte == b'/') & (*next == b'/')));
    !escapes && !doubled && *first != b'/' && *last != b'/'
}

/// Appends `level` as a token, behind a dot unless it is the first one. A `/` in it stays as it is.
pub fn put_token(index: usize, level: &[u8], out: &mut Vec<u8>) {
    if index > 0 {
        out.push(b'.');
    }
    if level.is_empty() {
        out.push(EMPTY_LEVEL);
    }
    for byte in level {
        if needs_escape(*byte) {
            put_escape(*byte, out);
        } else {
            out.push(*byte);
        }
    }
}

fn put_raw_token(index: usize, token: &[u8], out: &mut Vec<u8>) {
    if index > 0 {
        out.push(b'.');
    }
    out.extend_from_slice(token);
}

/// Writes the level that `token` stands for.
fn put_level(token: &[u8], out: &mut Vec<u8>) -> Result<(), NotATopic> {
    if token == [EMPTY_LEVEL] {
        return Ok(());
    }
    if token.is_empty() {
        return Err(NotATopic::NotCanonical);
    }
    let mut rest = token;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte == b'%' {
            let (escaped, behind) = escaped_byte(rest).ok_or(NotATopic::NotCanonical)?;
            if !needs_escape(escaped) {
                return Err(NotATopic::NotCanonical);
            }
            out.push(escaped);
            rest = behind;
        } else if needs_escape(byte) || byte == EMPTY_LEVEL {
            return Err(NotATopic::NotCanonical);
        } else {
            out.push(byte);
        }
    }
    Ok(())
}

fn needs_escape(byte: u8) -> bool {
    (byte <= b' ')
        | (byte == 0x7F)
        | (byte == b'%')
        | (byte == b'.')
        | (byte == b'*')
        | (byte == b'>')
}

/// The token of an empty level. A level never contains it.
const EMPTY_LEVEL: u8 = b'/';
/// Of a UTF-8 string of MQTT.
const TOPIC_BYTES_MAX: usize = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix() -> TopicPrefix {
        TopicPrefix::new("mqtt").unwrap()
    }

    #[test]
    fn topics_are_subjects_and_back() {
        let (mut subject, mut topic) = (Vec::new(), Vec::new());
        for (name, expected) in [
            ("sensors/42/temp", "mqtt.sensors.42.temp"),
            ("a", "mqtt.a"),
            ("/", "mqtt././"),
            ("/a", "mqtt./.a"),
            ("a/", "mqtt.a./"),
            ("a//b", "mqtt.a./.b"),
            ("a.b/c", "mqtt.a%2Eb.c"),
            ("100%/*/>", "mqtt.100%25.%2A.%3E"),
            ("a b\t\u{7F}", "mqtt.a%20b%09%7F"),
            ("$SYS/broker", "mqtt$.SYS.broker"),
            ("$", "mqtt$./"),
            ("$/a", "mqtt$./.a"),
            ("$$", "mqtt$.$"),
            ("a/$SYS", "mqtt.a.$SYS"),
            ("\u{e9}/\"\\", "mqtt.\u{e9}.\"\\"),
            ("/$a", "mqtt./.$a"),
        ] {
            let got = prefix().subject(name, &mut subject).unwrap();
            assert_eq!(got, Subject::literal(expected).unwrap(), "{name:?}");
            assert_eq!(prefix().topic(got.as_bytes(), &mut topic), Ok(name));
        }
    }

    #[test]
    fn what_no_topic_is_mapped_to_is_no_topic() {
        let mut topic = Vec::new();
        for (subject, error) in [
            ("other.a", NotATopic::Prefix),
            ("mqtt", NotATopic::Prefix),
            ("mqttx.a", NotATopic::Prefix),
            ("mqtt.", NotATopic::NotCanonical),
            ("mqtt.a..b", NotATopic::NotCanonical),
            ("mqtt.a/b", NotATopic::NotCanonical),
            ("mqtt.%61", NotATopic::NotCanonical),
            ("mqtt.%2e", NotATopic::NotCanonical),
            ("mqtt.%2", NotATopic::NotCanonical),
            ("mqtt.%", NotATopic::NotCanonical),
            ("mqtt.*", NotATopic::NotCanonical),
            ("mqtt.a*", NotATopic::NotCanonical),
            ("mqtt.$SYS", NotATopic::NotCanonical),
            ("mqtt.%00", NotATopic::Topic),
            ("mqtt.a.+", NotATopic::Topic),
            ("mqtt.#", NotATopic::Topic),
        ] {
            assert_eq!(prefix().topic(subject.as_bytes(), &mut topic), Err(error), "{subject}");
        }
        assert_eq!(prefix().topic(b"mqtt.\xFF", &mut topic), Err(NotATopic::Topic));
    }

    #[test]
    fn filters_are_one_subject_or_two() {
        let mut out = Vec::new();
        for (filter, first, parent) in [
            ("a/b", "mqtt.a.b", None),
            ("+", "mqtt.*", None),
            ("a/+/b", "mqtt.a.*.b", None),
            ("#", "mqtt.>", None),
            ("a/#", "mqtt.a.>", Some("mqtt.a")),
            ("a/b/#", "mqtt.a.b.>", Some("mqtt.a.b")),
            ("/#", "mqtt./.>", Some("mqtt./")),
            ("+/#", "mqtt.>", None),
            ("a/+/#", "mqtt.a.>", None),
            ("+/+/#", "mqtt.*.>", None),
            ("+/a/#", "mqtt.*.a.>", Some("mqtt.*.a")),
            ("a*/#", "mqtt.a%2A.>", Some("mqtt.a%2A")),
            ("$SYS/#", "mqtt$.SYS.>", Some("mqtt$.SYS")),
            ("$/+", "mqtt$./.*", None),
        ] {
            let got = prefix().filter_subjects(filter, &mut out).unwrap();
            assert_eq!(got.first, Subject::filter(first).unwrap(), "{filter}");
            let parent = parent.map(|parent| Subject::filter(parent).unwrap());
            assert_eq!(got.parent, parent, "{filter}");
        }
    }

    #[test]
    fn a_subject_fits_a_control_line() {
        let mut out = Vec::new();
        let longest = "x".repeat(Subject::BYTES_MAX - "mqtt.".len());
        assert!(prefix().subject(&longest, &mut out).is_ok());
        let got_bytes = Subject::BYTES_MAX + 1;
        let longer = longest + "x";
        assert_eq!(prefix().subject(&longer, &mut out), Err(SubjectTooLong { got_bytes }));
        let escaped = ".".repeat(65_535);
        let got_bytes = 3 * 65_535 + "mqtt.".len();
        assert_eq!(prefix().subject(&escaped, &mut out), Err(SubjectTooLong { got_bytes }));
        let filter = "x".repeat(Subject::BYTES_MAX - "mqtt..>".len()) + "/#";
        assert!(prefix().filter_subjects(&filter, &mut out).is_ok());
        assert_eq!(
            prefix().filter_subjects(&format!("x{filter}"), &mut out),
            Err(SubjectTooLong { got_bytes: Subject::BYTES_MAX + 1 })
        );
    }

    #[test]
    fn a_prefix_is_a_literal_subject_without_dollar_at_its_ends() {
        assert!(TopicPrefix::new("live.3.mqtt").is_ok());
        assert!(TopicPrefix::new(&"x".repeat(128)).is_ok());
        let got_bytes = 129;
        for (text, error) in [
            ("", InvalidPrefix::Subject(InvalidSubject::EmptyToken)),
            ("a.", InvalidPrefix::Subject(InvalidSubject::EmptyToken)),
            ("a.>", InvalidPrefix::Subject(InvalidSubject::Wildcard)),
            ("a b", InvalidPrefix::Subject(InvalidSubject::Blank)),
            ("$JS", InvalidPrefix::Dollar),
            ("mqtt$", InvalidPrefix::Dollar),
            (&"x".repeat(129), InvalidPrefix::TooLong { got_bytes }),
        ] {
            assert_eq!(TopicPrefix::new(text), Err(error), "{text}");
        }
    }
}

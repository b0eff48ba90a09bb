//! Reply subjects: one prefix a link, and a number behind it that says which request is answered.

use crate::proto::nats::json::decimal;
use crate::proto::nats::{InvalidSubject, Subject, put_decimal};

/// Which request an answer is for. Never used twice on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// The reply subjects of one link: `<prefix>.<token>`.
///
/// One subscription to `<prefix>.*` brings all answers. The prefix must be the link's alone, and
/// new after each reconnect, so that what is still on its way to the old connection is nobody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbox {
    /// With the dot.
    prefix: Vec<u8>,
    /// With the star.
    filter: Vec<u8>,
}

impl Inbox {
    /// The longest prefix, bytes; with the token a reply subject has at most 149 of the 256 that
    /// [`Subject::BYTES_MAX`] leaves for it.
    pub const PREFIX_BYTES_MAX: usize = 128;

    /// The inbox under `prefix`, one or more tokens.
    ///
    /// # Errors
    ///
    /// [`InvalidSubject`]; `TooLong` above [`Inbox::PREFIX_BYTES_MAX`].
    pub fn new(prefix: &str) -> Result<Self, InvalidSubject> {
        Subject::literal(prefix)?;
        if prefix.len() > Self::PREFIX_BYTES_MAX {
            return Err(InvalidSubject::TooLong { got_bytes: prefix.len() });
        }
        let (prefix, filter) = (format!("{prefix}."), format!("{prefix}.*"));
        Ok(Self { prefix: prefix.into_bytes(), filter: filter.into_bytes() })
    }

    /// What to subscribe to.
    #[must_use]
    pub fn filter(&self) -> Subject<'_> {
        Subject::from_checked(&self.filter)
    }

    /// The reply subject of `token`, written to `out`, which is cleared before.
    pub fn reply_to<'o>(&self, token: Token, out: &'o mut Vec<u8>) -> Subject<'o> {
        out.clear();
        out.extend_from_slice(&self.prefix);
        put_decimal(token.0, out);
        Subject::from_checked(out)
    }

    /// The token in the subject of an answer; `None` for a subject that is none of ours.
    #[must_use]
    pub fn token(&self, subject: &[u8]) -> Option<Token> {
        decimal(subject.strip_prefix(&self.prefix[..])?).map(Token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_written_and_read() {
        let inbox = Inbox::new("_GW.g1.0").unwrap();
        assert_eq!(inbox.filter(), Subject::filter("_GW.g1.0.*").unwrap());
        let mut out = Vec::new();
        for (token, subject) in [
            (0, "_GW.g1.0.0"),
            (1_234, "_GW.g1.0.1234"),
            (u64::MAX, "_GW.g1.0.18446744073709551615"),
        ] {
            let reply_to = inbox.reply_to(Token(token), &mut out);
            assert_eq!(reply_to, Subject::literal(subject).unwrap());
            assert_eq!(inbox.token(reply_to.as_bytes()), Some(Token(token)));
        }
        for subject in ["_GW.g1.0", "_GW.g1.0.", "_GW.g1.0.x", "_GW.g1.0.1.2", "_GW.g2.0.1", ""] {
            assert_eq!(inbox.token(subject.as_bytes()), None, "{subject}");
        }
    }

    #[test]
    fn a_prefix_is_a_short_literal_subject() {
        assert!(Inbox::new(&"x".repeat(128)).is_ok());
        assert_eq!(Inbox::new(&"x".repeat(129)), Err(InvalidSubject::TooLong { got_bytes: 129 }));
        assert_eq!(Inbox::new("a.*"), Err(InvalidSubject::Wildcard));
    }
}

//! Subjects: what may be published and subscribed to. Source: NATS documentation, "Subjects".

/// Why a text is no subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubject {
    /// The text, or a token of it, is empty: the server answers `-ERR` or 503.
    #[error("empty subject token")]
    EmptyToken,
    /// A blank or control character, which would end the field, or the line, on the wire.
    #[error("blank or control character in a subject")]
    Blank,
    /// `*` or `>` as a token where a literal subject is needed, or `>` before the last token.
    #[error("wildcard where none may be")]
    Wildcard,
    /// Longer than [`Subject::BYTES_MAX`].
    #[error("subject of {got_bytes} bytes, at most {} are allowed", Subject::BYTES_MAX)]
    TooLong {
        /// Of the subject.
        got_bytes: usize,
    },
}

/// A checked subject: nothing in it can end a field or a line of the protocol.
///
/// Bytes, because that is what a subject is to a server; ours are UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject<'a>(&'a [u8]);

impl<'a> Subject<'a> {
    /// The longest subject used, bytes. A control line holds a subject, a reply subject of at most
    /// 256 bytes, the prefix of the live feed of at most 128, and numbers; together they stay
    /// below [`CONTROL_LINE_BYTES_MAX`](super::CONTROL_LINE_BYTES_MAX).
    pub const BYTES_MAX: usize = 3_584;

    /// The literal subject `text`, to publish to.
    ///
    /// # Errors
    ///
    /// [`InvalidSubject`].
    pub fn literal<T: AsRef<[u8]> + ?Sized>(text: &'a T) -> Result<Self, InvalidSubject> {
        Self::check(text.as_ref(), false)
    }

    /// The subject `text`, in which the token `*` stands for any one token and a last token `>`
    /// for one or more, to subscribe to.
    ///
    /// # Errors
    ///
    /// [`InvalidSubject`].
    pub fn filter<T: AsRef<[u8]> + ?Sized>(text: &'a T) -> Result<Self, InvalidSubject> {
        Self::check(text.as_ref(), true)
    }

    /// A subject made of parts that were checked: as in [`Subject::filter`], without looking again.
    #[must_use]
    pub fn from_checked(text: &'a [u8]) -> Self {
        debug_assert!(Self::filter(text).is_ok(), "{} is no subject", text.escape_ascii());
        Self(text)
    }

    /// The subject as on the wire.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    fn check(text: &'a [u8], wildcards: bool) -> Result<Self, InvalidSubject> {
        if text.len() > Self::BYTES_MAX {
            return Err(InvalidSubject::TooLong { got_bytes: text.len() });
        }
        if text.iter().any(|byte| *byte <= b' ' || *byte == 0x7F) {
            return Err(InvalidSubject::Blank);
        }
        let mut tokens = text.split(|byte| *byte == b'.').peekable();
        while let Some(token) = tokens.next() {
            let is_last = tokens.peek().is_none();
            match token {
                b"" => return Err(InvalidSubject::EmptyToken),
                b"*" if !wildcards => return Err(InvalidSubject::Wildcard),
                b">" if !wildcards || !is_last => return Err(InvalidSubject::Wildcard),
                _ => {}
            }
        }
        Ok(Self(text))
    }
}

const _: () = assert!(Subject::BYTES_MAX + 256 + 128 + 3 * 20 < super::CONTROL_LINE_BYTES_MAX);

/// Whether the subject `filter`, with `*` and `>`, matches the literal `subject`.
///
/// Source: NATS documentation, "Subject-Based Messaging", Wildcards.
#[must_use]
pub fn subject_matches(filter: &[u8], subject: &[u8]) -> bool {
    let mut tokens = subject.split(|byte| *byte == b'.');
    for filter_token in filter.split(|byte| *byte == b'.') {
        match (filter_token, tokens.next()) {
            (_, None) => return false,
            (b">", Some(_)) => return true,
            (b"*", Some(_)) => {}
            (filter_token, Some(token)) if filter_token == token => {}
            (_, Some(_)) => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_cannot_end_a_field() {
        for text in ["a", "a.b", "mqtt$.SYS", "a*.b>", "$JS.API.>x", "é"] {
            assert_eq!(Subject::literal(text).map(Subject::as_bytes), Ok(text.as_bytes()));
        }
        for (text, error) in [
            ("", InvalidSubject::EmptyToken),
            (".a", InvalidSubject::EmptyToken),
            ("a.", InvalidSubject::EmptyToken),
            ("a..b", InvalidSubject::EmptyToken),
            ("a b", InvalidSubject::Blank),
            ("a\r\nPUB b 0", InvalidSubject::Blank),
            ("a\tb", InvalidSubject::Blank),
            ("a\0", InvalidSubject::Blank),
            ("a\x7F", InvalidSubject::Blank),
            ("a.*", InvalidSubject::Wildcard),
            ("a.>", InvalidSubject::Wildcard),
        ] {
            assert_eq!(Subject::literal(text), Err(error), "{text:?}");
        }
        let longest = "x".repeat(Subject::BYTES_MAX);
        assert!(Subject::literal(&longest).is_ok());
        let longer = "x".repeat(Subject::BYTES_MAX + 1);
        assert_eq!(
            Subject::literal(&longer),
            Err(InvalidSubject::TooLong { got_bytes: Subject::BYTES_MAX + 1 })
        );
    }

    #[test]
    fn only_the_last_token_stands_for_many() {
        for text in ["*", ">", "a.*.b", "a.>", "*.>"] {
            assert!(Subject::filter(text).is_ok(), "{text}");
        }
        assert_eq!(Subject::filter(">.a"), Err(InvalidSubject::Wildcard));
    }

    #[test]
    fn wildcards_match_tokens() {
        for (filter, subject, matches) in [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.b", "a", false),
            ("a", "a.b", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("*.b", "a.b", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
        ] {
            assert_eq!(subject_matches(filter.as_bytes(), subject.as_bytes()), matches);
        }
    }
}

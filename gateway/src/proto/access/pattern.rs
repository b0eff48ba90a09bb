//! The topic filter of a rule, compiled: what matching a topic name has to compare, in order.
//!
//! `%c` and `%u` stay in it as places for the client id and the user name, so that the rules of a
//! million clients are one.

/// The names that `%c` and `%u` stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'n> {
    /// Client Identifier.
    pub client_id: &'n str,
    /// The user name, proven.
    pub user_name: Option<&'n str>,
    /// Rules with names are for this client: see [`Acl::takes`](super::Acl::takes).
    pub taken: bool,
}

/// A topic filter, with `%c` and `%u` if it may have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pieces: Box<[Piece]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// These bytes, slashes included.
    Text(Box<str>),
    /// `%c`.
    ClientId,
    /// `%u`.
    UserName,
    /// `+`: to the end of the level.
    Level,
    /// `#` behind a level: the end, or a slash and anything.
    Rest,
    /// `#` alone.
    All,
}

/// Why a text is no topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// Empty, too long, or with U+0000.
    #[error("a topic filter of 1 to 65535 bytes without U+0000")]
    Length,
    /// A wildcard beside something else.
    #[error("+ and # alone in their level, and # in the last one")]
    Wildcard,
}

/// The longest topic filter. Source: MQTT 5.0 §1.5.4.
const FILTER_BYTES_MAX: usize = 65_535;

impl Pattern {
    /// A filter in which `%` has no meaning.
    ///
    /// # Errors
    ///
    /// See [`PatternFault`].
    pub fn literal(filter: &str) -> Result<Self, PatternFault> {
        Self::compile(filter, false)
    }

    /// A filter in which `%c` is the client id and `%u` the user name, anywhere and any number of
    /// times.
    ///
    /// # Errors
    ///
    /// See [`PatternFault`].
    pub fn with_names(filter: &str) -> Result<Self, PatternFault> {
        Self::compile(filter, true)
    }

    fn compile(filter: &str, has_names: bool) -> Result<Self, PatternFault> {
        if filter.is_empty() || filter.len() > FILTER_BYTES_MAX || filter.contains('\0') {
            return Err(PatternFault::Length);
        }
        let mut pieces = Pieces::default();
        let mut levels = filter.split('/').peekable();
        let mut is_first = true;
        while let Some(level) = levels.next() {
            match level {
                "#" if levels.peek().is_some() => return Err(PatternFault::Wildcard),
                "#" if is_first => pieces.push(Piece::All),
                "#" => pieces.push(Piece::Rest),
                level => {
                    if !is_first {
                        pieces.text.push('/');
                    }
                    match level {
                        "+" => pieces.push(Piece::Level),
                        _ if level.contains(['+', '#']) => return Err(PatternFault::Wildcard),
                        _ if has_names => pieces.push_level(level),
                        _ => pieces.text.push_str(level),
                    }
                }
            }
            is_first = false;
        }
        Ok(Self { pieces: pieces.finish() })
    }

    /// The topic name or filter it is when it has no wildcard and no name.
    #[must_use]
    pub fn as_topic(&self) -> Option<&str> {
        match &*self.pieces {
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether it has `%c`.
    #[must_use]
    pub fn has_client_id(&self) -> bool {
        self.pieces.contains(&Piece::ClientId)
    }

    /// Whether it has `%u`.
    #[must_use]
    pub fn has_user_name(&self) -> bool {
        self.pieces.contains(&Piece::UserName)
    }

    /// Whether a topic name matches. Never, if it has `%u` and there is no user name.
    ///
    /// Source: MQTT 5.0 §4.7.
    #[must_use]
    pub fn matches(&self, topic: &str, names: Names<'_>) -> bool {
        let mut rest = topic.as_bytes();
        if rest.first() == Some(&b'$') && self.starts_with_wildcard() {
            return false;
        }
        for piece in &self.pieces {
            let text = match piece {
                Piece::Text(text) => text,
                Piece::ClientId => names.client_id,
                Piece::UserName => match names.user_name {
                    Some(user_name) => user_name,
                    None => return false,
                },
                Piece::Level => {
                    let end = memchr::memchr(b'/', rest).unwrap_or(rest.len());
                    rest = rest.get(end..).unwrap_or_default();
                    continue;
                }
                Piece::Rest => return rest.first().is_none_or(|byte| *byte == b'/'),
                Piece::All => return true,
            };
            match rest.strip_prefix(text.as_bytes()) {
                Some(behind) => rest = behind,
                None => return false,
            }
        }
        rest.is_empty()
    }

    fn starts_with_wildcard(&self) -> bool {
        matches!(self.pieces.first(), Some(Piece::Level | Piece::All))
    }

    /// The topic filter it is for these names, `None` if it has `%u` and there is no user name.
    #[must_use]
    pub fn filter(&self, names: Names<'_>) -> Option<String> {
        let mut filter = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => filter.push_str(text),
                Piece::ClientId => filter.push_str(names.client_id),
                Piece::UserName => filter.push_str(names.user_name?),
                Piece::Level => filter.push('+'),
                Piece::Rest => filter.push_str("/#"),
                Piece::All => filter.push('#'),
            }
        }
        Some(filter)
    }
}

/// Pieces being put together.
#[derive(Default)]
struct Pieces {
    done: Vec<Piece>,
    text: String,
}

impl Pieces {
    fn push(&mut self, piece: Piece) {
        if !self.text.is_empty() {
            self.done.push(Piece::Text(std::mem::take(&mut self.text).into()));
        }
        self.done.push(piece);
    }

    /// A level without wildcards.
    fn push_level(&mut self, level: &str) {
        let mut rest = level;
        while let Some(at) = memchr::memchr(b'%', rest.as_bytes()) {
            let (before, from) = rest.split_at(at);
            self.text.push_str(before);
            let piece = match from.as_bytes().get(1) {
                Some(b'c') => Piece::ClientId,
                Some(b'u') => Piece::UserName,
                _ => {
                    self.text.push('%');
                    rest = from.get(1..).unwrap_or_default();
                    continue;
                }
            };
            self.push(piece);
            rest = from.get(2..).unwrap_or_default();
        }
        self.text.push_str(rest);
    }

    fn finish(mut self) -> Box<[Piece]> {
        if !self.text.is_empty() {
            self.done.push(Piece::Text(self.text.into()));
        }
        self.done.into()
    }
}

/// Whether every topic that matches `filter` matches `rule`; `false` also where that is hard to say.
pub(in crate::proto) fn covers(rule: &str, filter: &str) -> bool {
    if is_wildcard(rule) && filter.starts_with('$') {
        return false;
    }
    let (mut rule, mut filter) = (rule.split('/'), filter.split('/'));
    loop {
        match (rule.next(), filter.next()) {
            (Some("#"), _) | (None, None) => return true,
            (None, Some(_)) | (Some(_), None | Some("#")) => return false,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(other)) if level == other => {}
            (Some(_), Some(_)) => return false,
        }
    }
}

/// Whether a topic can match both filters.
pub(super) fn overlaps(one: &str, other: &str) -> bool {
    if (is_wildcard(one) && other.starts_with('$')) || (is_wildcard(other) && one.starts_with('$'))
    {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(level), Some(same)) if level == same => {}
            (Some(_), Some(_)) => return false,
        }
    }
}

/// Whether the first level is a wildcard, which no topic that starts with `$` matches.
/// Source: MQTT 5.0 [MQTT-4.7.2-1].
fn is_wildcard(filter: &str) -> bool {
    filter.starts_with(['+', '#'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'static> = Names { client_id: "c1", user_name: Some("anna"), taken: true };

    #[track_caller]
    fn check(pattern: &str, topic: &str, expected: bool) {
        let pattern = Pattern::with_names(pattern).unwrap();
        assert_eq!(pattern.matches(topic, NAMES), expected, "{pattern:?} {topic}");
    }

    #[test]
    fn matches_as_a_topic_filter_does() {
        for (pattern, topic) in [
            ("#", "a/b"),
            ("a/#", "a"),
            ("a/#", "a/"),
            ("a/#", "a/b/c"),
            ("a/+/c", "a//c"),
            ("+", "a"),
            ("+/+", "/"),
            ("/#", "/a"),
            ("+/#", "a/b"),
            ("a/+/#", "a/b"),
            ("$SYS/#", "$SYS/x"),
            ("a b/c", "a b/c"),
        ] {
            check(pattern, topic, true);
        }
        for (pattern, topic) in [
            ("#", "$SYS/x"),
            ("+/x", "$SYS/x"),
            ("a/#", "ab"),
            ("a/+", "a/b/c"),
            ("a/+", "a"),
            ("a", "a/"),
            ("a/b", "a"),
            ("/#", "a"),
            ("a/+/c", "a/b/cd"),
        ] {
            check(pattern, topic, false);
        }
    }

    #[test]
    fn names_stand_where_the_pattern_says() {
        check("d/%c/+", "d/c1/x", true);
        check("d/%c/+", "d/c2/x", false);
        check("d/dev-%c-%u/#", "d/dev-c1-anna/x/y", true);
        check("%u", "anna", true);
        check("%u/%%c", "anna/%c1", true);
        check("%x/%", "%x/%", true);
        let pattern = Pattern::with_names("d/%u").unwrap();
        let nobody = Names { user_name: None, ..NAMES };
        assert!(!pattern.matches("d/", nobody));
        assert_eq!(pattern.filter(nobody), None);
        let pattern = Pattern::literal("%c/+/x/#").unwrap();
        assert!(pattern.matches("%c/1/x", NAMES));
        assert_eq!(pattern.filter(NAMES).as_deref(), Some("%c/+/x/#"));
    }

    #[test]
    fn refuses_what_is_no_filter() {
        for (filter, fault) in [
            ("", PatternFault::Length),
            ("a\0", PatternFault::Length),
            ("#/a", PatternFault::Wildcard),
            ("a#", PatternFault::Wildcard),
            ("a/b+", PatternFault::Wildcard),
        ] {
            assert_eq!(Pattern::literal(filter), Err(fault), "{filter:?}");
        }
    }

    #[test]
    fn knows_what_a_filter_covers_and_meets() {
        for (rule, filter) in
            [("#", "a/+"), ("a/#", "a"), ("a/#", "a/#"), ("a/+/c", "a/+/c"), ("+/b", "a/b")]
        {
            assert!(covers(rule, filter) && overlaps(rule, filter), "{rule} {filter}");
        }
        for (rule, filter) in [("a/+", "a/#"), ("a/b", "a/+"), ("a/b/#", "a/#"), ("+/#", "#")] {
            assert!(!covers(rule, filter) && overlaps(rule, filter), "{rule} {filter}");
        }
        for (rule, filter) in [("#", "$a/b"), ("+/b", "$a/b"), ("a/b", "a/c"), ("a/+", "a/b/c")] {
            assert!(!covers(rule, filter) && !overlaps(rule, filter), "{rule} {filter}");
        }
    }
}

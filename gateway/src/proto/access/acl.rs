//! Rules in the order in which they count.
//!
//! A client's own rules come first, then the patterns that are for everybody; in each of the two,
//! what is denied comes before what is allowed. The first rule that matches decides; if none does,
//! the answer is no. This is the order of mosquitto 2.0.

use super::pattern::{Names, Pattern, covers, overlaps};
use std::sync::Arc;

/// What a rule says about the topics that match it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission(u8);

impl Permission {
    /// Neither publish nor read, whatever rules behind it say.
    pub const DENY: Self = Self(4);
    /// Read: what a subscription brings.
    pub const READ: Self = Self(1);
    /// Publish.
    pub const WRITE: Self = Self(2);
    /// Both.
    pub const READ_WRITE: Self = Self(3);

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Rules of one client, or patterns of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Of topics without wildcards and names, sorted; one entry a topic.
    exact: Vec<(Box<str>, Permission)>,
    denied: Vec<Pattern>,
    allowed: Vec<(Permission, Pattern)>,
    has_client_id: bool,
    has_user_name: bool,
}

/// What a set of rules says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Denied,
    Allowed,
    /// No rule matches.
    Silent,
}

/// How much of what a filter matches may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Everything.
    All,
    /// Not everything, or nobody knows: to be looked at message by message.
    Part,
    /// Nothing.
    Nothing,
}

impl RuleSet {
    /// Adds a rule.
    pub fn add(&mut self, permission: Permission, pattern: Pattern) {
        self.has_client_id |= pattern.has_client_id();
        self.has_user_name |= pattern.has_user_name();
        if let Some(topic) = pattern.as_topic() {
            match self.exact.binary_search_by(|(known, _)| (**known).cmp(topic)) {
                Ok(place) => {
                    if let Some((_, known)) = self.exact.get_mut(place) {
                        known.0 |= permission.0;
                    }
                }
                Err(place) => self.exact.insert(place, (topic.into(), permission)),
            }
        } else if permission == Permission::DENY {
            self.denied.push(pattern);
        } else {
            self.allowed.push((permission, pattern));
        }
    }

    /// How many rules there are, topics named twice counted once.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.len() + self.denied.len() + self.allowed.len()
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn verdict(&self, topic: &str, wanted: Permission, names: Names<'_>) -> Verdict {
        let exact = self.exact.binary_search_by(|(known, _)| (**known).cmp(topic));
        let exact = exact.ok().and_then(|place| self.exact.get(place));
        let exact = exact.map_or(Permission(0), |(_, permission)| *permission);
        if exact.has(Permission::DENY) || self.denied.iter().any(|one| one.matches(topic, names)) {
            return Verdict::Denied;
        }
        let allows = |(permission, pattern): &(Permission, Pattern)| {
            permission.has(wanted) && pattern.matches(topic, names) && is_for(pattern, names)
        };
        if exact.has(wanted) || self.allowed.iter().any(allows) {
            return Verdict::Allowed;
        }
        Verdict::Silent
    }

    /// The filters of its rules that deny, then of those that allow reading, for these names.
    fn filters(&self, names: Names<'_>) -> (Vec<String>, Vec<String>) {
        let exact = |wanted: Permission| {
            let of_kind = move |(_, permission): &&(Box<str>, Permission)| permission.has(wanted);
            self.exact.iter().filter(of_kind).map(|(topic, _)| topic.to_string())
        };
        let denied = self.denied.iter().filter_map(|pattern| pattern.filter(names));
        let is_readable = |(permission, pattern): &&(Permission, Pattern)| {
            permission.has(Permission::READ) && is_for(pattern, names)
        };
        let readable = self.allowed.iter().filter(is_readable);
        let readable = readable.filter_map(|(_, pattern)| pattern.filter(names));
        (
            exact(Permission::DENY).chain(denied).collect(),
            exact(Permission::READ).chain(readable).collect(),
        )
    }
}

/// Whether a rule that allows may count for a client: the client id of one that has proven nothing
/// is only what it says.
fn is_for(pattern: &Pattern, names: Names<'_>) -> bool {
    names.user_name.is_some() || !pattern.has_client_id()
}

/// What a client may publish and read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    own: Arc<RuleSet>,
    patterns: Arc<RuleSet>,
}

impl Acl {
    /// The rules of one client and the patterns of all.
    #[must_use]
    pub fn new(own: Arc<RuleSet>, patterns: Arc<RuleSet>) -> Self {
        Self { own, patterns }
    }

    /// Whether the client may publish to a topic name.
    #[must_use]
    pub fn may_publish(&self, topic: &str, names: Names<'_>) -> bool {
        self.allows(topic, Permission::WRITE, names)
    }

    /// Whether the client may get messages of a topic name.
    #[must_use]
    pub fn may_read(&self, topic: &str, names: Names<'_>) -> bool {
        self.allows(topic, Permission::READ, names)
    }

    fn allows(&self, topic: &str, wanted: Permission, names: Names<'_>) -> bool {
        match self.own.verdict(topic, wanted, names) {
            Verdict::Denied => false,
            Verdict::Allowed => true,
            Verdict::Silent => {
                names.taken && self.patterns.verdict(topic, wanted, names) == Verdict::Allowed
            }
        }
    }

    /// Whether `%c` and `%u` of the patterns can be replaced by these names and match no more than
    /// was meant; if not, no pattern counts for the client. To be asked once, for [`Names::taken`].
    ///
    /// A name with a wildcard or a slash could match other levels, and one that begins with `$`
    /// topics that no wildcard matches. Wildcards make all patterns void, as in mosquitto.
    #[must_use]
    pub fn takes(&self, client_id: &str, user_name: Option<&str>) -> bool {
        let is_wild = |name: &str| name.contains(['+', '#']);
        let is_foreign = |name: &str| name.contains('/') || name.starts_with('$');
        let user_name = user_name.unwrap_or_default();
        let RuleSet { has_client_id, has_user_name, .. } = *self.patterns;
        !(is_wild(client_id)
            || is_wild(user_name)
            || (has_client_id && is_foreign(client_id))
            || (has_user_name && is_foreign(user_name)))
    }

    /// How much of what `filter`, without `$share/`, matches the client may read.
    ///
    /// What is allowed in several rules that only together make up the filter counts as a part.
    #[must_use]
    pub fn coverage(&self, filter: &str, names: Names<'_>) -> Coverage {
        let mut coverage = Coverage::Nothing;
        let mut is_cut = false;
        let patterns = Some(&self.patterns).filter(|_| names.taken);
        for rules in [Some(&self.own), patterns].into_iter().flatten() {
            let (denied, readable) = rules.filters(names);
            if denied.iter().any(|rule| covers(rule, filter)) {
                break;
            }
            is_cut |= denied.iter().any(|rule| overlaps(rule, filter));
            if !is_cut && readable.iter().any(|rule| covers(rule, filter)) {
                return Coverage::All;
            }
            if readable.iter().any(|rule| overlaps(rule, filter)) {
                coverage = Coverage::Part;
            }
        }
        coverage
    }
}

#[cfg(test)]
mod tests;

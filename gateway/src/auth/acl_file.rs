//! A file of rules, as mosquitto reads it.
//!
//! ```text
//! topic read public/#               for clients that nobody knows
//! user anna
//! topic readwrite rooms/#           for anna; readwrite is also what no word means
//! topic deny rooms/attic/#
//! pattern write devices/%u/state    for everybody: %u is the user name, %c the client id
//! ```
//! A client chooses its client id by itself: `%c` is only as good as what binds it to the user, which is
//! `client_id_is_user_name`, `jwt_client_id_claim`, or that the session of that name is another's already.
//! Rules with `%c` that allow something are for clients that have proven a user name.
//!
//! Words are divided by blanks; a topic filter is the rest of its line and may contain blanks. Lines
//! that begin with `#` count for nothing. In which order rules count is said in `proto/access/acl.rs`.

use super::fault::{Faults, FileFault};
use crate::proto::access::{Acl, Pattern, PatternFault, Permission, RuleSet};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The rules of all clients.
#[derive(Debug, Default)]
pub struct AclFile {
    anonymous: Arc<RuleSet>,
    users: HashMap<Box<str>, Arc<RuleSet>>,
    patterns: Arc<RuleSet>,
    nobody: Arc<RuleSet>,
}

impl AclFile {
    /// Reads the text of `file`; what is wrong goes to `found`.
    pub fn parse(text: &str, file: &Path, found: &mut Vec<FileFault>) -> Self {
        let mut reader = Reader {
            faults: Faults { file, found },
            user: None,
            anonymous: RuleSet::default(),
            users: HashMap::new(),
            patterns: RuleSet::default(),
        };
        for (number, line) in (1..).zip(text.lines()) {
            reader.line(number, line.trim_end());
        }
        let users = reader.users.into_iter().map(|(name, rules)| (name, Arc::new(rules)));
        Self {
            anonymous: Arc::new(reader.anonymous),
            users: users.collect(),
            patterns: Arc::new(reader.patterns),
            nobody: Arc::default(),
        }
    }

    /// The rules for a user, or for clients that nobody knows.
    #[must_use]
    pub fn rules_of(&self, user_name: Option<&str>) -> Acl {
        let own = match user_name {
            Some(user_name) => self.users.get(user_name).unwrap_or(&self.nobody),
            None => &self.anonymous,
        };
        Acl::new(Arc::clone(own), Arc::clone(&self.patterns))
    }
}

struct Reader<'a> {
    faults: Faults<'a>,
    /// Whose `topic` lines these are.
    user: Option<Box<str>>,
    anonymous: RuleSet,
    users: HashMap<Box<str>, RuleSet>,
    patterns: RuleSet,
}

impl Reader<'_> {
    fn line(&mut self, number: usize, line: &str) {
        if line.is_empty() || line.starts_with('#') {
            return;
        }
        let (word, rest) = next_word(line);
        match word {
            "user" if rest.is_empty() => self.faults.at(number, "a user name behind user"),
            "user" => {
                self.users.entry(rest.into()).or_default();
                self.user = Some(rest.into());
            }
            "topic" => {
                if let Some((permission, pattern)) = self.rule(number, rest, Pattern::literal) {
                    let rules = match &self.user {
                        Some(user) => self.users.entry(user.clone()).or_default(),
                        None => &mut self.anonymous,
                    };
                    rules.add(permission, pattern);
                }
            }
            "pattern" => {
                if let Some((permission, pattern)) = self.rule(number, rest, Pattern::with_names) {
                    self.patterns.add(permission, pattern);
                }
            }
            _ => self.faults.at(number, "a line that begins with user, topic, pattern or #"),
        }
    }

    /// Reads `[ACCESS] FILTER`.
    fn rule(
        &mut self,
        number: usize,
        text: &str,
        compile: fn(&str) -> Result<Pattern, PatternFault>,
    ) -> Option<(Permission, Pattern)> {
        let (word, rest) = next_word(text);
        let (permission, filter) = match (word, rest) {
            ("", _) => {
                self.faults.at(number, "a topic filter");
                return None;
            }
            (filter, "") => (Permission::READ_WRITE, filter),
            ("read", filter) => (Permission::READ, filter),
            ("write", filter) => (Permission::WRITE, filter),
            ("readwrite", filter) => (Permission::READ_WRITE, filter),
            ("deny", filter) => (Permission::DENY, filter),
            _ => {
                self.faults.at(number, "read, write, readwrite or deny before the topic filter");
                return None;
            }
        };
        match compile(filter) {
            Ok(pattern) => Some((permission, pattern)),
            Err(fault) => {
                self.faults.at(number, fault.to_string());
                None
            }
        }
    }
}

/// The first word, and the rest without the blanks around it.
fn next_word(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches(' ');
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    (word, rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::access::Names;

    const FILE: &str = "\
        topic read public/#\n\
        # comment\n\
        user anna\n\
        topic rooms/#\n\
        topic deny rooms/attic\n\
        topic read with blanks/in it\n\
        \n\
        user otto b\n\
        topic write %u/x\n\
        pattern readwrite of/%u/%c/#\n";

    #[track_caller]
    fn check(file: &AclFile, user: Option<&str>, topic: &str, expected: &str) {
        let acl = file.rules_of(user);
        let names = Names { client_id: "c", user_name: user, taken: acl.takes("c", user) };
        let (read, write) = (acl.may_read(topic, names), acl.may_publish(topic, names));
        let said = format!("{}{}", if read { "r" } else { "" }, if write { "w" } else { "" });
        assert_eq!(said, expected, "{user:?} {topic}");
    }

    #[test]
    fn each_line_is_for_whom_it_says() {
        let mut faults = Vec::new();
        let file = AclFile::parse(FILE, Path::new("acl"), &mut faults);
        assert_eq!(faults, []);
        check(&file, None, "public/a", "r");
        check(&file, None, "rooms/a", "");
        check(&file, Some("anna"), "public/a", "");
        check(&file, Some("anna"), "rooms/a", "rw");
        check(&file, Some("anna"), "rooms/attic", "");
        check(&file, Some("anna"), "with blanks/in it", "r");
        check(&file, Some("otto b"), "%u/x", "w");
        check(&file, Some("otto b"), "otto b/x", "");
        check(&file, Some("anna"), "of/anna/c/x", "rw");
        check(&file, Some("nobody"), "of/nobody/c/x", "rw");
        check(&file, None, "of//c/x", "");
    }

    #[test]
    fn says_what_is_wrong_with_each_line() {
        let text =
            "user\ntopic\ntopic read a/#/b\npattern maybe x\nusers a\ntopic a+\ntopic read\n";
        let mut faults = Vec::new();
        AclFile::parse(text, Path::new("acl"), &mut faults);
        let lines: Vec<_> = faults.iter().map(|fault| fault.line.unwrap()).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6], "{faults:#?}: the last one is the topic `read`");
        let said = "acl, line 4: expected read, write, readwrite or deny before the topic filter";
        assert_eq!(faults[3].to_string(), said);
    }
}

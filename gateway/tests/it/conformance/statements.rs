//! Every normative statement is tested, or excepted with a reason.
//!
//! `statements-3.1.1.tsv` and `statements-5.0.tsv` hold the ids of appendix B of each standard, in
//! its order, with whom each binds and a paraphrase of ours. 3.1.1 has 141 (its text prints one as
//! `MQTT-3-8.3-4`; here it is `MQTT-3.8.3-4`). 5.0 has 251: there is no `MQTT-2.2.1-1`, and
//! `MQTT-4.2.0-1` is printed once as `MQTT-4.2-1`.
//!
//! A test names what it shows in the comment right above its `#[test]`:
//!
//! ```text
//! /// MQTT 5.0 [MQTT-3.1.2-22]; MQTT 3.1.1 [MQTT-3.1.2-24], [MQTT-3.1.2-8].
//! #[test]
//! ```
//!
//! `[MQTT-3.1.2-24, MQTT-3.1.2-8]` says the same. An id belongs to the version named before it in
//! the same comment: ids mean different things in the two. Comments elsewhere may cite in the same
//! form, which is checked but counts as no test. Statements that bind only clients need no test
//! and may have one.
//!
//! `exceptions.tsv` (version, id, reason) holds statements that no test can show.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::PathBuf;

use crate::sources::{Source, crate_folder, rust_files};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    V311,
    V50,
}

impl Version {
    const ALL: [Self; 2] = [Self::V311, Self::V50];

    fn number(self) -> &'static str {
        match self {
            Self::V311 => "3.1.1",
            Self::V50 => "5.0",
        }
    }

    /// How a comment names it.
    fn name(self) -> &'static str {
        match self {
            Self::V311 => "MQTT 3.1.1",
            Self::V50 => "MQTT 5.0",
        }
    }

    /// How many statements its appendix B lists.
    fn statement_count(self) -> usize {
        match self {
            Self::V311 => 141,
            Self::V50 => 251,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Statement {
    version: Version,
    id: String,
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.version.name(), self.id)
    }
}

/// The rows of a tab-separated file beside this one.
fn rows(name: &str) -> Vec<[String; 3]> {
    let text = fs::read_to_string(file(name)).expect("the list can be read");
    text.lines()
        .map(|line| {
            let cells: Vec<String> = line.split('\t').map(str::to_owned).collect();
            cells.try_into().unwrap_or_else(|_| panic!("{name}: {line:?} has not three cells"))
        })
        .collect()
}

fn file(name: &str) -> PathBuf {
    crate_folder().join("tests/it/conformance").join(name)
}

/// Every statement, and whether it binds a server.
fn all_statements() -> BTreeMap<Statement, bool> {
    let mut all = BTreeMap::new();
    for version in Version::ALL {
        for [id, binds, paraphrase] in rows(&format!("statements-{}.tsv", version.number())) {
            let binds_server = match binds.as_str() {
                "server" | "both" => true,
                "client" => false,
                _ => panic!("{id}: binds {binds:?}"),
            };
            assert!(!paraphrase.is_empty(), "{id} has no paraphrase");
            let statement = Statement { version, id };
            let before = all.insert(statement.clone(), binds_server);
            assert_eq!(before, None, "{statement} is listed twice");
        }
    }
    all
}

/// The statements of `exceptions.tsv`.
fn exceptions() -> BTreeSet<Statement> {
    let name = "exceptions.tsv";
    let mut all = BTreeSet::new();
    for [version, id, reason] in rows(name) {
        let version = Version::ALL.into_iter().find(|known| known.number() == version);
        let version = version.unwrap_or_else(|| panic!("{name}: {id}: unknown version"));
        assert!(reason.len() > 5, "{name}: {id} has no reason");
        let statement = Statement { version, id };
        assert!(all.insert(statement.clone()), "{name}: {statement} stands there twice");
    }
    all
}

/// What the comments of a source cite.
#[derive(Debug, Default, PartialEq, Eq)]
struct Citations {
    /// In comments right above a `#[test]`.
    tested: Vec<Statement>,
    /// In any comment.
    cited: Vec<Statement>,
    /// Ids without a version before them.
    without_version: Vec<String>,
}

fn citations(text: &str) -> Citations {
    let mut found = Citations::default();
    let mut lines = text.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        let Some(first) = line.strip_prefix("//") else { continue };
        let mut comment = first.to_owned();
        while let Some(next) = lines.peek().and_then(|line| line.strip_prefix("//")) {
            comment.push('\n');
            comment.push_str(next);
            lines.next();
        }
        let mut is_test = false;
        while let Some(attribute) = lines.next_if(|line| line.starts_with("#[")) {
            is_test |= attribute == "#[test]";
        }
        cite(&comment, is_test, &mut found);
    }
    found
}

/// Reads one comment, from the left: versions and ids as they come.
fn cite(comment: &str, is_test: bool, found: &mut Citations) {
    let mut version = None;
    for (at, _) in comment.match_indices("MQTT") {
        let here = &comment[at..];
        if let Some(named) = Version::ALL.into_iter().find(|v| here.starts_with(v.name())) {
            version = Some(named);
            continue;
        }
        let in_brackets = comment[..at].ends_with('[') && here.starts_with("MQTT-");
        let Some((ids, _)) = here.split_once(']').filter(|_| in_brackets) else { continue };
        for id in ids.split(',').map(|id| id.trim_matches(NOT_AN_ID).to_owned()) {
            let Some(version) = version else {
                found.without_version.push(id);
                continue;
            };
            let statement = Statement { version, id };
            if is_test {
                found.tested.push(statement.clone());
            }
            found.cited.push(statement);
        }
    }
}

/// What may stand around an id where a comment wraps.
const NOT_AN_ID: [char; 4] = [' ', '\n', '/', '!'];

fn all_sources() -> Vec<Source> {
    let mut sources: Vec<Source> =
        ["src", "tests", "benches"].into_iter().flat_map(rust_files).collect();
    let this = PathBuf::from("tests/it/conformance/statements.rs");
    sources.retain(|source| source.path != this);
    sources
}

#[test]
fn the_lists_are_complete_and_without_gaps() {
    let all = all_statements();
    for version in Version::ALL {
        let ids: Vec<&str> =
            all.keys().filter(|s| s.version == version).map(|s| s.id.as_str()).collect();
        assert_eq!(ids.len(), version.statement_count(), "{}", version.name());
        let mut sections: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        for id in ids {
            let (section, number) = id.rsplit_once('-').expect("an id ends in a number");
            sections.entry(section).or_default().insert(number.parse().expect("a number"));
        }
        for (section, numbers) in sections {
            let has_gap = (version, section) == (Version::V50, "MQTT-2.2.1");
            let first = if has_gap { 2 } else { 1 };
            let last = numbers.len() as u32 + first - 1;
            let expected: BTreeSet<u32> = (first..=last).collect();
            assert_eq!(numbers, expected, "{} {section}", version.name());
        }
    }
}

#[test]
fn citations_exist_and_name_their_version() {
    let all = all_statements();
    let mut faults = Vec::new();
    for source in all_sources() {
        let found = citations(&source.text);
        let path = source.path.display();
        for id in found.without_version {
            faults.push(format!("{path}: [{id}] without \"MQTT 5.0\" or \"MQTT 3.1.1\" before it"));
        }
        for statement in found.cited.iter().filter(|statement| !all.contains_key(statement)) {
            faults.push(format!("{path}: there is no {statement}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_statement_is_tested_or_excepted() {
    let all = all_statements();
    let tested: BTreeSet<Statement> =
        all_sources().iter().flat_map(|source| citations(&source.text).tested).collect();
    let exceptions = exceptions();
    let mut faults = Vec::new();
    for (statement, binds_server) in &all {
        match (binds_server, tested.contains(statement), exceptions.contains(statement)) {
            (true, true, false) | (true, false, true) | (false, _, false) => {}
            (true, false, false) => faults.push(format!("{statement} has no test")),
            (true, true, true) => faults.push(format!("{statement} is tested and excepted")),
            (false, _, true) => {
                faults.push(format!("{statement} binds only clients and needs no row"));
            }
        }
    }
    for statement in exceptions.iter().filter(|statement| !all.contains_key(statement)) {
        faults.push(format!("there is no {statement}, but exceptions.tsv has it"));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let binding = all.values().filter(|binds_server| **binds_server).count();
    let exceptions = exceptions.len();
    println!(
        "MQTT statements that bind a server: {binding}; {} tested, {exceptions} excepted",
        binding - exceptions
    );
}

fn v50(id: &str) -> Statement {
    Statement { version: Version::V50, id: id.to_owned() }
}

fn v311(id: &str) -> Statement {
    Statement { version: Version::V311, id: id.to_owned() }
}

#[test]
fn a_comment_above_a_test_is_read_with_its_versions() {
    let text = "/// MQTT 5.0 [MQTT-1-1,\n/// MQTT-1-2];\n/// MQTT 3.1.1 §9 [MQTT-1-3].\n\
                #[test]\n#[should_panic]\nfn a() {}\n";
    let expected = vec![v50("MQTT-1-1"), v50("MQTT-1-2"), v311("MQTT-1-3")];
    assert_eq!(
        citations(text),
        Citations { tested: expected.clone(), cited: expected, without_version: vec![] }
    );
}

#[test]
fn other_comments_cite_but_are_no_tests() {
    let text = "/// MQTT 5.0 [MQTT-1-1]\nfn a() {}\n// [MQTT-1-2]\n#[test]\nfn b() {}\n";
    assert_eq!(
        citations(text),
        Citations {
            tested: vec![],
            cited: vec![v50("MQTT-1-1")],
            without_version: vec!["MQTT-1-2".to_owned()],
        }
    );
}

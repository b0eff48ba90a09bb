//! What rules cost a PUBLISH: whether a client may publish to a topic, by the kind of rule that says so.
//!
//! `cargo bench --bench access` prints nanoseconds an operation, median of the rounds; `-- --test` does
//! a few operations and only checks them. Given one case name, it runs that case alone, which is what
//! to put under `valgrind --tool=callgrind --toggle-collect='access::check_once'`.

use std::hint::black_box;
use std::path::Path;

use gateway::auth::AclFile;
use gateway::proto::access::{Acl, Names};

mod measure;

use measure::{OPERATIONS, measure};

/// Of a test run.
const OPERATIONS_IN_TEST: u32 = 10;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let test = arguments.iter().any(|argument| argument == "--test");
    let wanted = arguments.iter().find(|argument| !argument.starts_with("--"));
    let many: String =
        (0..100).map(|number| format!("topic write site/{number}/+/temp\n")).collect();
    let exact: String =
        (0..1_000).map(|number| format!("topic write site/{number}/temp\n")).collect();
    for (name, rules, topic) in [
        ("exact", "user device-7\ntopic write site/7/temp\n".to_owned(), "site/7/temp"),
        ("one-wildcard", "user device-7\ntopic write site/7/#\n".to_owned(), "site/7/line/3/temp"),
        ("pattern-user", "pattern write site/%u/#\n".to_owned(), "site/device-7/line/3/temp"),
        (
            "five-patterns",
            "pattern deny admin/#\npattern read cmd/%u/#\npattern read all/+\n\
             pattern write state/%c\npattern write site/%u/+/temp\n"
                .to_owned(),
            "site/device-7/3/temp",
        ),
        ("hundred-wildcards", format!("user device-7\n{many}"), "site/99/3/temp"),
        ("thousand-exact", format!("user device-7\n{exact}"), "site/999/temp"),
    ] {
        if wanted.is_none_or(|wanted| wanted == name) {
            run(name, &rules, topic, if test { OPERATIONS_IN_TEST } else { OPERATIONS });
        }
    }
}

fn run(name: &str, rules: &str, topic: &str, operations: u32) {
    let mut faults = Vec::new();
    let file = AclFile::parse(rules, Path::new("rules"), &mut faults);
    assert_eq!(faults, []);
    let (client_id, user_name) = ("device-7-a", Some("device-7"));
    let acl = file.rules_of(user_name);
    let names = Names { client_id, user_name, taken: acl.takes(client_id, user_name) };
    assert!(check_once(&acl, topic, names), "{name}: it may");
    assert!(!check_once(&acl, "site/other", names), "{name}: it may not");
    let ns = measure(operations, || {
        black_box(check_once(black_box(&acl), black_box(topic), names));
    });
    report(name, ns);
}

#[inline(never)]
fn check_once(acl: &Acl, topic: &str, names: Names<'_>) -> bool {
    acl.may_publish(topic, names)
}

#[expect(clippy::print_stdout, reason = "the result")]
fn report(name: &str, ns: f64) {
    println!("{name:<20} {ns:8.1} ns");
}

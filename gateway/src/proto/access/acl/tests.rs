//! The compiled rules say what rules in a list would say, looked at one by one.

use super::*;
use crate::proto::routing::filter_matches;
use proptest::prelude::*;

/// A rule as it was written.
#[derive(Clone, Debug)]
struct Written {
    permission: Permission,
    filter: String,
}

/// A client.
#[derive(Clone, Debug)]
struct Client {
    client_id: &'static str,
    user_name: Option<&'static str>,
}

/// Every topic of up to three levels from few names, some of which begin with `$`.
fn all_topics() -> Vec<String> {
    let levels = ["a", "b", "", "$s", "u", "c"];
    let mut topics: Vec<String> = Vec::new();
    for first in levels {
        topics.push(first.to_owned());
        for second in levels {
            topics.push(format!("{first}/{second}"));
            topics.extend(levels.iter().map(|third| format!("{first}/{second}/{third}")));
        }
    }
    topics.retain(|topic| !topic.is_empty());
    topics
}

/// The order of mosquitto's `security_default.c`, with texts.
fn slow(
    own: &[Written],
    patterns: &[Written],
    client: &Client,
    topic: &str,
    wanted: Permission,
) -> bool {
    let in_order = |rules: &[Written]| -> Vec<Written> {
        let (denied, others): (Vec<_>, Vec<_>) =
            rules.iter().cloned().partition(|rule| rule.permission == Permission::DENY);
        [denied, others].concat()
    };
    let decide = |rules: Vec<(Permission, String)>| {
        rules.into_iter().find_map(|(permission, filter)| {
            if !filter_matches(&filter, topic) {
                None
            } else if permission == Permission::DENY {
                Some(false)
            } else {
                permission.has(wanted).then_some(true)
            }
        })
    };
    let literal = in_order(own).into_iter().map(|rule| (rule.permission, rule.filter)).collect();
    if let Some(said) = decide(literal) {
        return said;
    }
    let user_name = client.user_name.unwrap_or_default();
    let has = |variable: &str| patterns.iter().any(|rule| rule.filter.contains(variable));
    let foreign = |name: &str| name.contains('/') || name.starts_with('$');
    let wild = |name: &str| name.contains('+') || name.contains('#');
    if wild(client.client_id)
        || wild(user_name)
        || (has("%c") && foreign(client.client_id))
        || (has("%u") && foreign(user_name))
    {
        return false;
    }
    let replaced = in_order(patterns).into_iter().filter_map(|rule| {
        let is_denial = rule.permission == Permission::DENY;
        let Some(user_name) = client.user_name else {
            let is_void = rule.filter.contains("%u") || (rule.filter.contains("%c") && !is_denial);
            let filter = rule.filter.replace("%c", client.client_id);
            return (!is_void).then_some((rule.permission, filter));
        };
        let filter = rule.filter.replace("%c", client.client_id).replace("%u", user_name);
        Some((rule.permission, filter))
    });
    decide(replaced.collect()).unwrap_or(false)
}

fn acl(own: &[Written], patterns: &[Written]) -> Acl {
    let (mut literal, mut named) = (RuleSet::default(), RuleSet::default());
    for rule in own {
        literal.add(rule.permission, Pattern::literal(&rule.filter).unwrap());
    }
    for rule in patterns {
        named.add(rule.permission, Pattern::with_names(&rule.filter).unwrap());
    }
    Acl::new(Arc::new(literal), Arc::new(named))
}

fn names<'n>(acl: &Acl, client: &'n Client) -> Names<'n> {
    let Client { client_id, user_name } = *client;
    Names { client_id, user_name, taken: acl.takes(client_id, user_name) }
}

fn filters(with_names: bool) -> impl Strategy<Value = String> {
    let literal = prop::sample::select(vec!["a", "b", "", "$s", "+", "+"]);
    let named = prop::sample::select(vec!["a", "%c", "%u", "%u%c", "x%c", "+"]);
    let levels =
        prop::collection::vec(if with_names { named.boxed() } else { literal.boxed() }, 1..4);
    (levels, any::<bool>()).prop_map(|(levels, rest)| {
        let filter = levels.join("/");
        match (rest, filter.is_empty()) {
            (true, _) => format!("{filter}/#"),
            (false, true) => "#".to_owned(),
            (false, false) => filter,
        }
    })
}

fn rules(with_names: bool) -> impl Strategy<Value = Vec<Written>> {
    let permission = prop::sample::select(vec![
        Permission::DENY,
        Permission::READ,
        Permission::WRITE,
        Permission::READ_WRITE,
    ]);
    let rule = (permission, filters(with_names));
    let rule = rule.prop_map(|(permission, filter)| Written { permission, filter });
    prop::collection::vec(rule, 0..5)
}

fn clients() -> impl Strategy<Value = Client> {
    let client_id = prop::sample::select(vec!["c", "a", "+", "a/b", "#", "$s"]);
    let user_name =
        prop::sample::select(vec![None, Some("u"), Some("a"), Some("+"), Some("b/a"), Some("$s")]);
    (client_id, user_name).prop_map(|(client_id, user_name)| Client { client_id, user_name })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn says_what_a_list_says(own in rules(false), patterns in rules(true), client in clients()) {
        let acl = acl(&own, &patterns);
        let names = names(&acl, &client);
        for topic in all_topics() {
            for wanted in [Permission::READ, Permission::WRITE] {
                let expected = slow(&own, &patterns, &client, &topic, wanted);
                prop_assert_eq!(acl.allows(&topic, wanted, names), expected, "{}", topic);
            }
        }
    }

    #[test]
    fn coverage_promises_no_more_than_is_so(
        own in rules(false),
        patterns in rules(true),
        client in clients(),
        filter in filters(false),
    ) {
        let acl = acl(&own, &patterns);
        let names = names(&acl, &client);
        let coverage = acl.coverage(&filter, names);
        for topic in all_topics().iter().filter(|topic| filter_matches(&filter, topic)) {
            match coverage {
                Coverage::All => prop_assert!(acl.may_read(topic, names), "{}", topic),
                Coverage::Part => {}
                Coverage::Nothing => prop_assert!(!acl.may_read(topic, names), "{}", topic),
            }
        }
    }
}

#[test]
fn the_first_that_matches_decides() {
    let rule = |permission, filter: &str| Written { permission, filter: filter.to_owned() };
    let own = [rule(Permission::READ_WRITE, "a/#"), rule(Permission::DENY, "a/secret/#")];
    let patterns = [rule(Permission::DENY, "a/b"), rule(Permission::READ, "of/%u/#")];
    let acl = acl(&own, &patterns);
    let client = Client { client_id: "c", user_name: Some("anna") };
    let names = names(&acl, &client);
    assert!(acl.may_publish("a/b", names), "its own rule comes first");
    assert!(!acl.may_publish("a/secret/x", names));
    assert!(acl.may_read("of/anna/x", names) && !acl.may_publish("of/anna/x", names));
    assert_eq!(acl.coverage("a/b", names), Coverage::All);
    assert_eq!(acl.coverage("a/#", names), Coverage::Part);
    assert_eq!(acl.coverage("#", names), Coverage::Part);
    assert_eq!(acl.coverage("of/anna/+", names), Coverage::All);
    assert_eq!(acl.coverage("of/+/x", names), Coverage::Part);
    assert_eq!(acl.coverage("a/secret/x", names), Coverage::Nothing);
    assert_eq!(acl.coverage("of/otto/#", names), Coverage::Nothing);
}

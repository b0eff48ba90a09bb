use super::*;
use crate::proto::mqtt::{QoS, RetainHandling, SubscriptionOptions};
use crate::proto::routing::filter::filter_matches;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::{BTreeMap, BTreeSet};

const SEED: u64 = 0x5eed;

fn subscriber(session: u32) -> Subscriber {
    with_kind(SubscriberKind::Session, session, 0)
}

fn with_kind(kind: SubscriberKind, session: u32, identifier: u32) -> Subscriber {
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: true,
        retain_handling: RetainHandling::SendAtSubscribe,
    };
    Subscriber { session, identifier, kind, options: options.into() }
}

fn matching_sessions(tree: &SubscriptionTree, topic: &str) -> Vec<u32> {
    let mut out = Vec::new();
    tree.matches(topic, &mut out);
    let mut sessions: Vec<u32> = out.iter().map(|subscriber| subscriber.session).collect();
    sessions.sort_unstable();
    sessions
}

fn filter_text(tree: &SubscriptionTree, filter: FilterId) -> String {
    let mut text = String::new();
    tree.write_filter(filter, &mut text);
    text
}

#[test]
fn overlapping_filters_give_an_entry_each() {
    let mut tree = SubscriptionTree::new(SEED);
    for (identifier, filter) in ["a/b", "a/+", "a/#", "#", "+/b", "a/b/#", "a/c"].iter().enumerate()
    {
        let identifier = identifier as u32 + 1;
        let subscribed = tree.subscribe(filter, with_kind(SubscriberKind::Session, 5, identifier));
        assert!(subscribed.first, "{filter}");
        assert_eq!(filter_text(&tree, subscribed.filter), *filter);
        assert_eq!(tree.find(filter), Some(subscribed.filter));
    }
    let mut out = Vec::new();
    tree.matches("a/b", &mut out);
    let identifiers: BTreeSet<u32> = out.iter().map(|subscriber| subscriber.identifier).collect();
    assert_eq!(identifiers, BTreeSet::from([1, 2, 3, 4, 5, 6]));
    assert_eq!(out.len(), 6);
}

/// MQTT 5.0 [MQTT-4.7.2-1]; MQTT 3.1.1 [MQTT-4.7.2-1].
#[test]
fn leading_wildcards_do_not_see_dollar_topics() {
    let mut tree = SubscriptionTree::new(SEED);
    for (session, filter) in ["#", "+/a", "+/#", "$SYS/#", "$SYS/+", "$SYS/a"].iter().enumerate() {
        tree.subscribe(filter, subscriber(session as u32));
    }
    assert_eq!(matching_sessions(&tree, "$SYS/a"), [3, 4, 5]);
    assert_eq!(matching_sessions(&tree, "SYS/a"), [0, 1, 2]);
}

/// MQTT 5.0 [MQTT-3.8.4-3]; MQTT 3.1.1 [MQTT-3.8.4-3].
#[test]
fn subscribing_again_replaces_the_entry() {
    for filter in ["a/b", "a/+"] {
        let mut tree = SubscriptionTree::new(SEED);
        let session = with_kind(SubscriberKind::Session, 1, 10);
        let group = with_kind(SubscriberKind::Group, 1, 20);
        let filter = tree.subscribe(filter, session).filter;
        tree.subscribe(&filter_text(&tree, filter), group);
        let newer = Subscriber { identifier: 11, ..session };
        assert_eq!(
            tree.subscribe(&filter_text(&tree, filter), newer),
            Subscribed { filter, replaced: Some(session), first: false }
        );
        assert_eq!(tree.subscriber(filter, SubscriberKind::Session, 1), Some(newer));
        assert_eq!(tree.subscriber(filter, SubscriberKind::Group, 1), Some(group));
        assert_eq!(tree.subscriber(filter, SubscriberKind::Group, 2), None);

        assert_eq!(
            tree.unsubscribe(filter, SubscriberKind::Session, 1),
            Some(Unsubscribed { removed: newer, last: false })
        );
        assert_eq!(tree.unsubscribe(filter, SubscriberKind::Session, 1), None);
        assert_eq!(
            tree.unsubscribe(filter, SubscriberKind::Group, 1),
            Some(Unsubscribed { removed: group, last: true })
        );
        assert!(tree.is_empty());
        assert_eq!(tree.unsubscribe(filter, SubscriberKind::Group, 1), None);
        assert_eq!(filter_text(&tree, filter), "");
    }
}

#[test]
fn levels_longer_than_a_node_holds_inline_are_kept() {
    let mut tree = SubscriptionTree::new(SEED);
    for length in [21, 22, 23, 300] {
        let level = "\u{e9}".repeat(length / 2) + &"x".repeat(length % 2);
        let filter = format!("{level}/+/{level}");
        let id = tree.subscribe(&filter, subscriber(length as u32)).filter;
        assert_eq!(filter_text(&tree, id), filter);
        assert_eq!(matching_sessions(&tree, &format!("{level}//{level}")), [length as u32]);
    }
}

/// The longest topic the wire allows neither exhausts the stack nor takes long.
#[test]
fn matches_a_topic_of_65_535_separators() {
    let mut tree = SubscriptionTree::new(SEED);
    let topic = "/".repeat(65_535);
    let deep = "+".to_owned() + &"/+".repeat(30_000) + "/#";
    let id = tree.subscribe(&deep, subscriber(1)).filter;
    tree.subscribe("/#", subscriber(2));
    tree.subscribe(&topic, subscriber(3));
    assert_eq!(matching_sessions(&tree, &topic), [1, 2, 3]);
    assert_eq!(filter_text(&tree, id), deep);
}

#[test]
fn many_filters_are_found_and_their_places_are_reused() {
    const DEVICES: u32 = 20_000;
    let mut tree = SubscriptionTree::new(SEED);
    let mut largest_bytes = 0;
    for round in 0..4 {
        let first = round * DEVICES;
        for device in first..first + DEVICES {
            tree.subscribe(&format!("dev/{device}/state"), subscriber(device));
            tree.subscribe(&format!("dev/{device}/#"), subscriber(device));
            tree.subscribe(&format!("dev/+/{device}"), subscriber(device));
        }
        assert_eq!(tree.len(), DEVICES as usize * 3);
        for device in [first, first + DEVICES / 2, first + DEVICES - 1] {
            assert_eq!(matching_sessions(&tree, &format!("dev/{device}/state")), [device; 2]);
            assert_eq!(matching_sessions(&tree, &format!("dev/x/{device}")), [device]);
        }
        for device in first..first + DEVICES {
            for suffix in ["/state", "/#"] {
                remove(&mut tree, &format!("dev/{device}{suffix}"), device);
            }
            remove(&mut tree, &format!("dev/+/{device}"), device);
        }
        assert!(tree.is_empty());
        assert_eq!(tree.wildcards.node_count(), 0, "nodes nobody needs are pruned");
        assert_eq!(tree.filter_heap_bytes, 0);
        if round == 0 {
            largest_bytes = tree.memory_bytes();
        }
    }
    // A table that was filled to its limit may double once; four rounds must not mean four times.
    assert!(tree.memory_bytes() < largest_bytes * 3 / 2, "{} bytes", tree.memory_bytes());
}

#[track_caller]
fn remove(tree: &mut SubscriptionTree, filter: &str, session: u32) {
    let id = tree.find(filter).expect("subscribed above");
    let unsubscribed = tree.unsubscribe(id, SubscriberKind::Session, session);
    assert_eq!(unsubscribed, Some(Unsubscribed { removed: subscriber(session), last: true }));
}

/// 100,000 sessions on one filter: with a scan a departure this would take minutes.
#[test]
fn sessions_leave_a_large_fan_out_in_any_order() {
    const SESSIONS: u32 = 100_000;
    let mut tree = SubscriptionTree::new(SEED);
    for session in 0..SESSIONS {
        tree.subscribe("news", subscriber(session));
    }
    let filter = tree.find("news").expect("subscribed above");
    let full_bytes = tree.memory_bytes();
    // 7,919 is prime and does not divide SESSIONS: each is named once.
    for step in 0..SESSIONS - 1 {
        let session = (u64::from(step) * 7_919 % u64::from(SESSIONS)) as u32;
        let unsubscribed = tree.unsubscribe(filter, SubscriberKind::Session, session);
        assert_eq!(unsubscribed, Some(Unsubscribed { removed: subscriber(session), last: false }));
        assert_eq!(tree.subscriber(filter, SubscriberKind::Session, session), None);
    }
    let left = matching_sessions(&tree, "news");
    assert_eq!(left.len(), 1);
    assert!(tree.memory_bytes() < full_bytes / 10, "{} bytes", tree.memory_bytes());
    remove(&mut tree, "news", left[0]);
    assert!(tree.is_empty());
}

fn level() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "", "$a", "$", "\u{fc}\u{1f980}", "a-level-longer-than-twenty-two"])
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/"))
}

fn filter() -> impl Strategy<Value = String> {
    let levels = prop::collection::vec(prop_oneof![3 => level(), 2 => Just("+")], 0..5);
    (levels, any::<bool>()).prop_map(|(mut levels, multi_level)| {
        if multi_level || levels.is_empty() {
            levels.push("#");
        }
        levels.join("/")
    })
}

fn kind() -> impl Strategy<Value = SubscriberKind> {
    select(vec![SubscriberKind::Session, SubscriberKind::Group])
}

type Model = BTreeMap<String, BTreeMap<(bool, u32), Subscriber>>;

fn key(kind: SubscriberKind, session: u32) -> (bool, u32) {
    (kind == SubscriberKind::Group, session)
}

fn apply(
    tree: &mut SubscriptionTree,
    model: &mut Model,
    filter: &str,
    entry: Subscriber,
    subscribe: bool,
) {
    if subscribe {
        let first = !model.contains_key(filter);
        let entries = model.entry(filter.to_owned()).or_default();
        let replaced = entries.insert(key(entry.kind, entry.session), entry);
        let subscribed = tree.subscribe(filter, entry);
        assert_eq!((subscribed.replaced, subscribed.first), (replaced, first));
        assert_eq!(filter_text(tree, subscribed.filter), filter);
        return;
    }
    let Some(id) = tree.find(filter) else {
        assert!(!model.contains_key(filter), "{filter} must be found");
        return;
    };
    let entries = model.get_mut(filter).expect("the tree found it, so the model has it");
    let removed = entries.remove(&key(entry.kind, entry.session));
    let last = entries.is_empty();
    if last {
        model.remove(filter);
    }
    assert_eq!(
        tree.unsubscribe(id, entry.kind, entry.session),
        removed.map(|removed| Unsubscribed { removed, last })
    );
}

fn sorted(mut entries: Vec<Subscriber>) -> Vec<Subscriber> {
    entries.sort_by_key(|entry| (key(entry.kind, entry.session), entry.identifier));
    entries
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The tree against every filter of a model asked one by one, while subscribers come and go.
    #[test]
    fn matches_what_the_filters_match_one_by_one(
        // Few sessions, so that subscribers replace each other; many, so that lists are indexed.
        sessions in select(vec![3_u32, 80]),
        filters in prop::collection::vec(filter(), 1..12),
        steps in prop::collection::vec(
            (any::<prop::sample::Index>(), kind(), any::<u32>(), any::<u32>(), 0..5_u8),
            0..300,
        ),
        topics in prop::collection::vec(topic(), 1..8),
    ) {
        let mut tree = SubscriptionTree::new(SEED);
        let mut model = Model::new();
        for (filter, kind, session, identifier, coin) in steps {
            let entry = with_kind(kind, session % sessions, identifier);
            apply(&mut tree, &mut model, filters[filter.index(filters.len())].as_str(), entry, coin < 3);
        }
        prop_assert_eq!(tree.len(), model.len());
        for topic in topics {
            let expected = model
                .iter()
                .filter(|(filter, _)| filter_matches(filter, &topic))
                .flat_map(|(_, entries)| entries.values().copied())
                .collect();
            let mut found = Vec::new();
            tree.matches(&topic, &mut found);
            prop_assert_eq!(sorted(found), sorted(expected), "topic {}", topic);
        }
        for (filter, entries) in std::mem::take(&mut model) {
            let id = tree.find(&filter).expect("the model has it");
            for entry in entries.into_values() {
                prop_assert!(tree.unsubscribe(id, entry.kind, entry.session).is_some());
            }
        }
        prop_assert!(tree.is_empty());
        prop_assert_eq!(tree.wildcards.node_count(), 0);
        prop_assert_eq!(tree.filter_heap_bytes, 0);
    }
}

//! Topic filters as text: what they match, one by one, without a tree.

/// Whether `filter` matches `topic`.
///
/// Both are taken as valid; nothing is normalised, an empty level is a level, and a filter that
/// starts with a wildcard does not match a topic that starts with `$`. The work is linear in the
/// shorter text, and nothing is allocated.
///
/// # Source
///
/// MQTT 5.0 §4.7 [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.2-1], [MQTT-4.7.3-4]; MQTT 3.1.1 §4.7
/// [MQTT-4.7.1-2], [MQTT-4.7.1-3], [MQTT-4.7.2-1], [MQTT-4.7.3-4].
#[must_use]
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic_levels = topic.split('/');
    for filter_level in filter.split('/') {
        if filter_level == "#" {
            return true;
        }
        match topic_levels.next() {
            Some(level) if filter_level == "+" || filter_level == level => {}
            Some(_) | None => return false,
        }
    }
    topic_levels.next().is_none()
}

/// Whether the valid `filter` contains a wildcard, that is, can match more than one topic.
#[must_use]
pub fn has_wildcard(filter: &str) -> bool {
    memchr::memchr2(b'+', b'#', filter.as_bytes()).is_some()
}

/// The levels of the valid `filter` before its first wildcard; all of them when it has none.
pub(super) fn literal_prefix(filter: &str) -> impl Iterator<Item = &str> {
    filter.split('/').take_while(|&level| level != "+" && level != "#")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(filter: &str, matching: &[&str], others: &[&str]) {
        for topic in matching {
            assert!(filter_matches(filter, topic), "{filter} must match {topic}");
        }
        for topic in others {
            assert!(!filter_matches(filter, topic), "{filter} must not match {topic}");
        }
    }

    /// MQTT 5.0 §4.7.1.2 [MQTT-4.7.1-1]; MQTT 3.1.1 §4.7.1.2 [MQTT-4.7.1-2].
    #[test]
    fn multi_level_wildcard_matches_the_parent_and_everything_below() {
        check(
            "sport/tennis/player1/#",
            &[
                "sport/tennis/player1",
                "sport/tennis/player1/ranking",
                "sport/tennis/player1/score/wimbledon",
                "sport/tennis/player1/",
            ],
            &["sport/tennis", "sport/tennis/player10", "sport/tennis/player2/ranking"],
        );
        check("sport/#", &["sport", "sport/", "sport/a/b"], &["sports", "Sport", "/sport"]);
        check("#", &["sport", "/", "a//b"], &[]);
        check("sport/tennis/+/#", &["sport/tennis/x", "sport/tennis/x/y"], &["sport/tennis"]);
        check("/#", &["/", "/a", "//"], &["a", "a/"]);
    }

    /// MQTT 5.0 §4.7.1.3 [MQTT-4.7.1-2]; MQTT 3.1.1 §4.7.1.3 [MQTT-4.7.1-3].
    #[test]
    fn single_level_wildcard_matches_exactly_one_level() {
        check(
            "sport/tennis/+",
            &["sport/tennis/player1", "sport/tennis/player2", "sport/tennis/"],
            &["sport/tennis/player1/ranking", "sport/tennis"],
        );
        check("sport/+", &["sport/"], &["sport"]);
        check("+", &["a", "finance"], &["/finance", "a/b"]);
        check("+/+", &["/finance", "a/b", "/"], &["finance", "a/b/c"]);
        check("/+", &["/finance"], &["finance", "a/finance", "/finance/x"]);
        check("+/tennis/#", &["a/tennis", "/tennis/b"], &["tennis", "a/b/tennis"]);
        check("sport/+/player1", &["sport/x/player1", "sport//player1"], &["sport/player1"]);
    }

    /// MQTT 5.0 §4.7.2 [MQTT-4.7.2-1]; MQTT 3.1.1 §4.7.2 [MQTT-4.7.2-1].
    #[test]
    fn leading_wildcard_does_not_match_dollar_topics() {
        check("#", &[], &["$SYS", "$SYS/monitor/Clients", "$"]);
        check("+", &[], &["$SYS"]);
        check("+/monitor/Clients", &["a/monitor/Clients"], &["$SYS/monitor/Clients"]);
        check("+/#", &["a"], &["$SYS"]);
        check("$SYS/#", &["$SYS/", "$SYS", "$SYS/monitor/Clients"], &["$SYSTEM", "SYS/a"]);
        check("$SYS/monitor/+", &["$SYS/monitor/Clients"], &["$SYS/monitor"]);
        check("a/#", &["a/$SYS"], &[]);
        check("a/+", &["a/$SYS"], &[]);
    }

    /// MQTT 5.0 §4.7.3 [MQTT-4.7.3-4]; MQTT 3.1.1 §4.7.3 [MQTT-4.7.3-4].
    #[test]
    fn literal_filter_matches_only_the_same_text() {
        check("ACCOUNTS", &["ACCOUNTS"], &["Accounts", "ACCOUNTS/", "/ACCOUNTS"]);
        check("a//b", &["a//b"], &["a/b", "a///b"]);
        check("/", &["/"], &["", "//"]);
        check("Accounts payable", &["Accounts payable"], &["Accounts  payable"]);
        check("\u{e9}", &["\u{e9}"], &["e\u{301}"]);
    }

    #[test]
    fn literal_prefix_ends_at_the_first_wildcard() {
        for (filter, prefix) in [
            ("a/b", &["a", "b"][..]),
            ("a/+/b", &["a"]),
            ("a/b/#", &["a", "b"]),
            ("#", &[]),
            ("+/a", &[]),
            ("/+", &[""]),
        ] {
            assert_eq!(literal_prefix(filter).collect::<Vec<_>>(), prefix, "{filter}");
        }
    }
}

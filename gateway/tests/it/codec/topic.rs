//! Topic names, topic filters and shared subscriptions. MQTT 5.0 §4.7, §4.8.2; MQTT 3.1.1 §4.7.

use gateway::proto::mqtt::{is_valid_filter, is_valid_topic_name, parse_shared};

/// MQTT 5.0 [MQTT-4.7.0-1] [MQTT-4.7.3-1] [MQTT-4.7.3-2];
/// MQTT 3.1.1 [MQTT-4.7.1-1] [MQTT-4.7.3-1] [MQTT-4.7.3-2].
#[test]
fn topic_names_have_characters_and_no_wildcards() {
    for good in ["a", "/", "//", " ", "a/b/c", "/a", "a/", "$SYS/x", "\u{feff}", "ACCOUNTS payable"]
    {
        assert!(is_valid_topic_name(good), "{good:?}");
    }
    for bad in ["", "+", "#", "a/+", "a/#", "a+", "a#b", "\0", "a\0"] {
        assert!(!is_valid_topic_name(bad), "{bad:?}");
    }
}

/// MQTT 5.0 [MQTT-4.7.1-1]; MQTT 3.1.1 [MQTT-4.7.1-2].
#[test]
fn the_multi_level_wildcard_is_the_whole_last_level() {
    check_filters(
        &["#", "sport/tennis/player1/#", "sport/#", "/#", "+/tennis/#"],
        &["sport/tennis#", "sport/tennis/#/ranking", "#/", "##", "a/##", "#a", "/#/"],
    );
}

/// MQTT 5.0 [MQTT-4.7.1-2]; MQTT 3.1.1 [MQTT-4.7.1-3].
#[test]
fn the_single_level_wildcard_is_a_whole_level() {
    check_filters(
        &["+", "+/tennis/#", "sport/+/player1", "/+", "+/+", "+/", "+/+/+"],
        &["sport+", "+sport", "a/+b/c", "a/b+/c", "++", "+#", "#+", "a/+#"],
    );
}

/// MQTT 5.0 [MQTT-4.7.3-1] [MQTT-4.7.3-2]; MQTT 3.1.1 [MQTT-4.7.3-1] [MQTT-4.7.3-2].
#[test]
fn filters_have_characters_and_no_u_0000() {
    check_filters(&["a", "/", "//", " "], &["", "\0", "a\0", "+/\0"]);
}

/// MQTT 5.0 [MQTT-4.8.2-1] [MQTT-4.8.2-2].
#[test]
fn a_shared_filter_has_a_share_name_and_a_filter() {
    for (filter, share_name, inner) in [
        ("$share/consumer/sport/tennis/+", "consumer", "sport/tennis/+"),
        ("$share/g/#", "g", "#"),
        ("$share/g//", "g", "/"),
        ("$share/g//finance", "g", "/finance"),
        ("$share/$share/$share/x", "$share", "$share/x"),
    ] {
        assert_eq!(parse_shared(filter), Ok(Some((share_name, inner))), "{filter}");
    }
    for filter in ["a", "", "$shared/g/a", "$Share/g/a", "/$share/g/a", "share/g/a"] {
        assert_eq!(parse_shared(filter), Ok(None), "{filter}");
    }
    for filter in ["$share/", "$share//a", "$share/g", "$share/g/", "$share/g+/a", "$share/#/a"] {
        assert!(parse_shared(filter).is_err(), "{filter}");
    }
}

#[track_caller]
fn check_filters(good: &[&str], bad: &[&str]) {
    for filter in good {
        assert!(is_valid_filter(filter), "{filter:?}");
    }
    for filter in bad {
        assert!(!is_valid_filter(filter), "{filter:?}");
    }
}

//! Topic names and filters on the way through a node.

use super::scene::everywhere;
use crate::packets::{framed, sized};

/// MQTT 5.0 [MQTT-4.7.2-1]; MQTT 3.1.1 [MQTT-4.7.2-1].
#[test]
fn a_leading_wildcard_does_not_match_topics_that_begin_with_a_dollar_sign() {
    everywhere(|mut scene| {
        let publisher = scene.enter(b'p');
        let retained = scene.packet(0x31, &[0, 4, b'$', b'S', b'/', b'a'], b"r");
        scene.check(publisher, &retained, &[]);
        for (letter, filter) in [(b'1', "#"), (b'2', "+/a"), (b'3', "+/#")] {
            let subscriber = scene.enter(letter);
            scene.subscribe(subscriber, filter, 1);
            scene.publish(publisher, "$S/a", b"x");
            scene.expect(subscriber, &[]);
        }
        for (letter, filter) in [(b'4', "$S/#"), (b'5', "$S/+"), (b'6', "$S/a")] {
            let subscriber = scene.enter(letter);
            let subscribe = scene.packet(0x82, &[0, 1], &[sized(filter), vec![1]].concat());
            let suback = scene.packet(0x90, &[0, 1], &[1]);
            let sent = scene.packet(0x31, &[0, 4, b'$', b'S', b'/', b'a'], b"r");
            scene.check(subscriber, &subscribe, &[suback, sent].concat());
            scene.publish(publisher, "$S/a", b"x");
            let delivered = scene.delivery(0x32, "$S/a", 1, b"x");
            scene.expect(subscriber, &delivered);
        }
    });
}

/// MQTT 5.0 [MQTT-4.7.3-4], [MQTT-3.3.2-3]; MQTT 3.1.1 [MQTT-4.7.3-4], [MQTT-3.3.2-3].
#[test]
fn topics_are_compared_character_by_character() {
    // Composed and decomposed, cases, empty levels, a byte order mark, spaces.
    let topics = [
        "\u{e5}",
        "a\u{30a}",
        "a",
        "A",
        "/a",
        "a/",
        "a//b",
        "a/b",
        "/",
        "//",
        "\u{feff}a",
        " a",
        "a/ /b",
        "\u{1f600}/\u{4e2d}",
    ];
    everywhere(|mut scene| {
        let (subscriber, publisher) = (scene.enter(b's'), scene.enter(b'p'));
        for (place, filter) in topics.into_iter().enumerate() {
            scene.subscribe(subscriber, filter, 1);
            for topic in topics {
                scene.publish(publisher, topic, b"x");
            }
            let id = u16::try_from(place + 1).unwrap();
            let delivered = scene.delivery(0x32, filter, id, b"x");
            scene.expect(subscriber, &delivered);
            let unsubscribe = scene.packet(0xA2, &[0, 1], &sized(filter));
            scene.node.exchange(subscriber, &unsubscribe);
        }
    });
}

/// MQTT 5.0 [MQTT-3.3.2-3], [MQTT-4.7.1-1], [MQTT-4.7.1-2]; MQTT 3.1.1 [MQTT-3.3.2-3],
/// [MQTT-4.7.1-2], [MQTT-4.7.1-3].
#[test]
fn wildcards_match_whole_levels_and_empty_ones() {
    let cases: [(&str, &[&str], &[&str]); 8] = [
        ("#", &["a", "/", "a/b", "/a"], &["$a"]),
        ("a/#", &["a", "a/", "a/b", "a/b/c"], &["ab", "/a", "A/b"]),
        ("+", &["a", "ab"], &["/", "a/", "/a", "a/b"]),
        ("/+", &["/", "/a"], &["a", "/a/b"]),
        ("+/+", &["/", "a/", "/a", "a/b"], &["a", "a/b/c"]),
        ("a/+/c", &["a/b/c", "a//c"], &["a/c", "a/b/b/c", "a/b/C"]),
        ("+/b/#", &["a/b", "a/b/c", "/b/"], &["b", "a/c/b"]),
        ("a/$b", &["a/$b"], &["a/b"]),
    ];
    everywhere(|mut scene| {
        for (filter, matching, other) in cases {
            let (subscriber, publisher) = (scene.enter(b's'), scene.enter(b'p'));
            scene.subscribe(subscriber, filter, 1);
            for (place, topic) in matching.iter().enumerate() {
                for no_match in other {
                    scene.publish(publisher, no_match, b"x");
                }
                scene.publish(publisher, topic, b"x");
                let id = u16::try_from(place + 1).unwrap();
                let delivered = scene.delivery(0x32, topic, id, b"x");
                scene.expect(subscriber, &delivered);
            }
            scene.node.drop_connection(subscriber);
            scene.node.drop_connection(publisher);
        }
    });
}

/// MQTT 5.0 [MQTT-4.7.3-3]; MQTT 3.1.1 [MQTT-4.7.3-3].
#[test]
fn the_longest_topic_is_a_topic_like_another() {
    everywhere(|mut scene| {
        let (subscriber, publisher) = (scene.enter(b's'), scene.enter(b'p'));
        let topic = "x".repeat(65_535);
        scene.subscribe(subscriber, &topic, 1);
        scene.publish(publisher, &topic, b"!");
        let delivered = scene.delivery(0x32, &topic, 1, b"!");
        scene.expect(subscriber, &delivered);
    });
}

/// MQTT 5.0 [MQTT-4.7.1-1], [MQTT-3.3.2-2], [MQTT-4.7.0-1], [MQTT-4.7.3-1]; MQTT 3.1.1
/// [MQTT-4.7.1-1], [MQTT-3.3.2-2], [MQTT-4.7.3-1].
#[test]
fn wildcards_and_nothing_are_no_topic_names() {
    everywhere(|mut scene| {
        for (topic, reason) in [("a/+", 0x90), ("#", 0x90), ("a/b#", 0x90)] {
            let publisher = scene.enter(b'p');
            let publish = scene.packet(0x30, &sized(topic), b"x");
            scene.check_closed(publisher, &publish, reason);
        }
        let publisher = scene.enter(b'p');
        let publish = scene.packet(0x30, &[0, 0], b"x");
        scene.check_closed(publisher, &publish, 0x82);
        let publisher = scene.enter(b'p');
        let not_utf8 = framed(0x30, &[0, 1, 0xFF, 0, b'x']);
        scene.check_closed(publisher, &not_utf8, 0x81);
    });
}

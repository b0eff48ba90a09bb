//! Topic filters as an operator writes them, for `subscribe_refused`.
//!
//! The codec has the same rules for what comes in packets. They stand here once more because
//! nothing in `config` uses `proto`; a property test holds the two together.

/// What every shared subscription starts with. Source: MQTT 5.0 §4.8.2.
const SHARE_PREFIX: &str = "$share/";
/// The longest string a packet can carry. Source: MQTT 5.0 §1.5.4; MQTT 3.1.1 §1.5.3.
const FILTER_BYTES_MAX: usize = 65_535;

/// Says what was expected if `text` is no topic filter, or one of a shared subscription.
///
/// Source: MQTT 5.0 §4.7.1, §4.7.3; MQTT 3.1.1 §4.7.1, §4.7.3.
pub(super) fn fault_of(text: &str) -> Option<&'static str> {
    if text.starts_with(SHARE_PREFIX) {
        Some("only the filter of a shared subscription, without $share/ and the share name")
    } else if text.is_empty() || text.len() > FILTER_BYTES_MAX || text.contains('\0') {
        Some("a topic filter of 1 to 65535 bytes without U+0000")
    } else if !wildcards_stand_alone(text) {
        Some("a topic filter with + and # alone in their level, and # in the last one")
    } else {
        None
    }
}

fn wildcards_stand_alone(filter: &str) -> bool {
    let mut levels = filter.split('/');
    let last = levels.next_back().unwrap_or_default();
    let is_plain = |level: &str| !level.contains(['+', '#']);
    (last == "#" || last == "+" || is_plain(last))
        && levels.all(|level| level == "+" || is_plain(level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        match (fault_of(text), expected) {
            (None, None) => {}
            (Some(fault), Some(part)) => assert!(fault.contains(part), "{text:?}: {fault}"),
            (fault, _) => panic!("{text:?}: {fault:?}"),
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_filter() {
        for filter in ["#", "+", "+/#", "/", "//", "a", "a/+/b", "a/#", "$SYS/#", "$share", " "] {
            check(filter, None);
        }
        check(&"x".repeat(FILTER_BYTES_MAX), None);
        for filter in ["", "a\0b", &"x".repeat(FILTER_BYTES_MAX + 1)] {
            check(filter, Some("of 1 to 65535 bytes"));
        }
        for filter in ["a#", "#/a", "a/#/b", "a+", "+a", "a/b+/c", "##", "++", "+#", "#/"] {
            check(filter, Some("alone in their level"));
        }
        for filter in ["$share/g/#", "$share/", "$share//", "$share/g/a#"] {
            check(filter, Some("without $share/"));
        }
    }
}

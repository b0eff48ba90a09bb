//! Topic names, topic filters and shared subscriptions as text. Source: MQTT 5.0 §4.7, §4.8.2.

/// Why a filter that starts like a shared subscription is none. Source: MQTT 5.0 §4.8.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidShare {
    /// "$share//filter". Source: MQTT 5.0 [MQTT-4.8.2-1].
    #[error("share name is empty")]
    ShareNameEmpty,
    /// The share name contains `+` or `#`. Source: MQTT 5.0 [MQTT-4.8.2-1].
    #[error("share name contains a wildcard")]
    ShareNameWildcard,
    /// "$share/name" or "$share/name/". Source: MQTT 5.0 [MQTT-4.8.2-2].
    #[error("no topic filter behind the share name")]
    FilterMissing,
}

/// Whether `topic` may be published to: not empty, no wildcard, no U+0000.
///
/// Source: MQTT 5.0 §4.7.1, §4.7.3; MQTT 3.1.1 §4.7.1, §4.7.3.
#[must_use]
pub fn is_valid_topic_name(topic: &str) -> bool {
    !topic.is_empty() && memchr::memchr3(0, b'+', b'#', topic.as_bytes()).is_none()
}

/// Whether `filter` may be subscribed to: not empty, `+` and `#` alone in their level, `#` in the
/// last one. Of a shared subscription, ask with the filter that [`parse_shared`] returns.
///
/// Source: MQTT 5.0 §4.7.1, §4.7.3; MQTT 3.1.1 §4.7.1, §4.7.3.
#[must_use]
pub fn is_valid_filter(filter: &str) -> bool {
    let bytes = filter.as_bytes();
    if bytes.is_empty() || memchr::memchr(0, bytes).is_some() {
        return false;
    }
    memchr::memchr2_iter(b'+', b'#', bytes).all(|index| {
        let starts_level = index == 0 || bytes.get(index - 1) == Some(&b'/');
        let ends_level = match bytes.get(index + 1) {
            None => true,
            Some(&next) => next == b'/' && bytes.get(index) == Some(&b'+'),
        };
        starts_level && ends_level
    })
}

/// Splits a shared subscription, "$share/ShareName/filter", into share name and filter.
///
/// Returns `None` for a filter that is not shared. The filter inside is not checked:
/// [`is_valid_filter`] does that.
///
/// # Errors
///
/// [`InvalidShare`] when `filter` starts with "$share/" and the rest is not a share name, a slash
/// and a filter.
///
/// # Source
///
/// MQTT 5.0 §4.8.2.
pub fn parse_shared(filter: &str) -> Result<Option<(&str, &str)>, InvalidShare> {
    let Some(shared) = filter.strip_prefix(SHARE_PREFIX) else {
        return Ok(None);
    };
    let (share_name, filter) = shared.split_once('/').unwrap_or((shared, ""));
    if share_name.is_empty() {
        Err(InvalidShare::ShareNameEmpty)
    } else if share_name.contains(['+', '#']) {
        Err(InvalidShare::ShareNameWildcard)
    } else if filter.is_empty() {
        Err(InvalidShare::FilterMissing)
    } else {
        Ok(Some((share_name, filter)))
    }
}

/// What a shared subscription starts with. Source: MQTT 5.0 §4.8.2.
pub const SHARE_PREFIX: &str = "$share/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_alone_in_their_level() {
        for filter in
            ["a", "/", "#", "+", "a/#", "+/+", "/+", "a/+/b", "+/#", "$SYS/#", "a//b", " "]
        {
            assert!(is_valid_filter(filter), "{filter}");
        }
        for filter in ["", "a#", "a/#/b", "#/", "a+", "+a", "a/b+/c", "##", "++", "#+", "a\0"] {
            assert!(!is_valid_filter(filter), "{filter}");
        }
    }

    #[test]
    fn topic_names_have_no_wildcards() {
        assert!(is_valid_topic_name("a/b"));
        assert!(is_valid_topic_name("/"));
        for topic in ["", "a/+", "#", "a\0b"] {
            assert!(!is_valid_topic_name(topic), "{topic}");
        }
    }

    /// MQTT 5.0 [MQTT-4.8.2-1, MQTT-4.8.2-2].
    #[test]
    fn splits_shared_subscriptions() {
        assert_eq!(parse_shared("a/b"), Ok(None));
        assert_eq!(parse_shared("$share"), Ok(None));
        assert_eq!(parse_shared("$shared/a"), Ok(None));
        assert_eq!(parse_shared("$share/g/a/#"), Ok(Some(("g", "a/#"))));
        assert_eq!(parse_shared("$share/g//"), Ok(Some(("g", "/"))));
        assert_eq!(parse_shared("$share//a"), Err(InvalidShare::ShareNameEmpty));
        assert_eq!(parse_shared("$share/"), Err(InvalidShare::ShareNameEmpty));
        assert_eq!(parse_shared("$share/g+/a"), Err(InvalidShare::ShareNameWildcard));
        assert_eq!(parse_shared("$share/#"), Err(InvalidShare::ShareNameWildcard));
        assert_eq!(parse_shared("$share/g"), Err(InvalidShare::FilterMissing));
        assert_eq!(parse_shared("$share/g/"), Err(InvalidShare::FilterMissing));
    }
}

//! What a server refuses on a link and goes on: which of it is worth a line in the log.

use crate::proto::time::Timestamp;
use std::time::Duration;

/// Kinds of refusals that are told apart; further ones are not said.
pub(super) const KINDS_MAX: usize = 32;
/// How often one kind is said at most: clients may cause it again and again.
pub(super) const INTERVAL: Duration = Duration::from_secs(60);
/// Bytes of a kind that are looked at.
const KIND_BYTES_MAX: usize = 128;

/// The kinds that were said, each with the time.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    said: Vec<(Box<[u8]>, Timestamp)>,
}

impl Refusals {
    /// Whether to say the text of an `-ERR` now.
    pub(super) fn is_news(&mut self, text: &[u8], now: Timestamp) -> bool {
        let kind = kind(text);
        if let Some((_, at)) = self.said.iter_mut().find(|(said, _)| **said == *kind) {
            let is_due = at.after(INTERVAL) <= now;
            if is_due {
                *at = now;
            }
            return is_due;
        }
        let has_room = self.said.len() < KINDS_MAX;
        if has_room {
            self.said.push((kind.into(), now));
        }
        has_room
    }
}

/// `Permissions Violation for Publish to "live.0.mqtt.a`: what a client chooses of a subject makes no
/// other kind of it. Four tokens of a subject that begins with `$`, else one.
fn kind(text: &[u8]) -> &[u8] {
    let text = text.get(..KIND_BYTES_MAX).unwrap_or(text);
    let Some(quote) = memchr::memchr(b'"', text) else { return text };
    let tokens = if text.get(quote + 1) == Some(&b'$') { 4 } else { 1 };
    let mut dots = memchr::memchr_iter(b'.', text).filter(|dot| *dot > quote);
    dots.nth(tokens - 1).and_then(|end| text.get(..end)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_said_once_a_minute() {
        let mut refusals = Refusals::default();
        let now = Timestamp(1_000);
        let mut is_news = |text: &str, now| refusals.is_news(text.as_bytes(), now);
        assert!(is_news("Permissions Violation for Publish to \"live.0.mqtt.a\"", now));
        assert!(!is_news("Permissions Violation for Publish to \"live.0.mqtt.b\"", now));
        assert!(is_news("Permissions Violation for Publish to \"retained.0.mqtt.b\"", now));
        assert!(is_news(
            "Permissions Violation for Publish to \"$JS.API.STREAM.INFO.MQTT_0\"",
            now
        ));
        assert!(is_news("Permissions Violation for Publish to \"$JS.API.DIRECT.GET.MQTT_0\"", now));
        assert!(is_news("Permissions Violation for Subscription to \"live.0.mqtt.a\"", now));
        assert!(is_news("Invalid Subject", now));
        let later = now.after(INTERVAL);
        assert!(!is_news("Invalid Subject", Timestamp(later.0 - 1)));
        assert!(is_news("Invalid Subject", later));
        assert!(!is_news("Invalid Subject", later));
    }

    #[test]
    fn more_kinds_than_may_be_are_not_said() {
        let mut refusals = Refusals::default();
        for number in 0..=KINDS_MAX {
            let text = format!("{number}{}", "x".repeat(KIND_BYTES_MAX));
            assert_eq!(refusals.is_news(text.as_bytes(), Timestamp(1)), number < KINDS_MAX);
        }
    }
}

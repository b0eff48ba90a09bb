//! Retained messages: the last one of each topic, found by filter.
//!
//! Value: received at (u64), partition (u16), sequence (u64), all big endian, then the body of the
//! record; without a body it is a tombstone, which keeps an older message of another
//! partition from coming back.

use super::fold::{TimerKind, set_timer};
use super::state::KeyedState;
use super::{Space, StoreError};
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::{Message, Record};
use crate::proto::routing::filter_matches;
use crate::proto::time::Timestamp;
use crate::upstream::embedded::quota::Usage;
use std::time::Duration;

/// A retained message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retained {
    /// Its topic name.
    pub topic: String,
    /// Where its record is.
    pub partition: PartitionId,
    /// Its place there.
    pub sequence: Sequence,
    /// The body of its [`Record::Message`].
    pub body: Vec<u8>,
}

/// How long a tombstone stays: far longer than partitions can be apart in their folds.
const TOMBSTONE_AGE: Duration = Duration::from_secs(24 * 3_600);
const STAMP_BYTES: usize = 18;

/// Takes over a retained message unless a newer one is known. Ties are decided by place, so every
/// order of folding ends the same.
pub(super) fn put(
    state: &mut KeyedState,
    partition: PartitionId,
    sequence: Sequence,
    message: &Message<'_>,
) -> Result<(), StoreError> {
    let mut value = stamp(message.received_at, partition, sequence);
    let known = state.get(Space::Retained, message.topic.as_bytes())?;
    if known.as_ref().is_some_and(|known| known.get(..STAMP_BYTES) > Some(value.as_slice())) {
        return Ok(());
    }
    let before = usage_of(message.topic, known.as_deref());
    if message.payload.is_empty() {
        let purge_at = message.received_at.after(TOMBSTONE_AGE);
        set_timer(state, purge_at, TimerKind::Retained, message.topic);
    } else {
        message.encode(&mut value);
        let expires_at = message.expires_at().unwrap_or(Timestamp::NEVER);
        set_timer(state, expires_at, TimerKind::Retained, message.topic);
    }
    state.count_retained(before, usage_of(message.topic, Some(&value)));
    state.put(Space::Retained, message.topic.as_bytes().to_vec(), value);
    Ok(())
}

/// What `topic` with this stored value counts for; nothing for a tombstone.
pub(super) fn usage_of(topic: &str, value: Option<&[u8]>) -> Usage {
    match value {
        Some(value) if value.len() > STAMP_BYTES => {
            Usage { messages: 1, bytes: (topic.len() + value.len() - STAMP_BYTES) as u64 }
        }
        Some(_) | None => Usage::default(),
    }
}

/// What a record adds to the retained messages if its topic is new, `None` if it is no message to
/// be retained. Counted when it is appended, and taken back when it is folded.
#[must_use]
pub fn retained_bytes(record: &Record<'_>) -> Option<u64> {
    match record {
        Record::Message(message) if message.retain && !message.payload.is_empty() => {
            Some((message.topic.len() + message.encoded_bytes()) as u64)
        }
        _ => None,
    }
}

/// Whether `topic` has a retained message, which a new one replaces.
///
/// # Errors
///
/// [`StoreError::Engine`].
pub fn is_retained(state: &KeyedState, topic: &str) -> Result<bool, StoreError> {
    let value = state.get(Space::Retained, topic.as_bytes())?;
    Ok(usage_of(topic, value.as_deref()).messages > 0)
}

/// Forgets the tombstone or expired message of `topic`, unless what is there now is neither.
pub(super) fn purge(state: &mut KeyedState, topic: &str, now: Timestamp) -> Result<(), StoreError> {
    let Some(value) = state.get(Space::Retained, topic.as_bytes())? else { return Ok(()) };
    let Some((received_at, body)) = value.split_first_chunk().and_then(|(received_at, rest)| {
        let received_at = Timestamp(u64::from_be_bytes(*received_at));
        Some((received_at, rest.get(STAMP_BYTES - 8..)?))
    }) else {
        return Ok(());
    };
    let ends_at = match Record::decode(body) {
        Some(Record::Message(message)) => message.expires_at().unwrap_or(Timestamp::NEVER),
        _ => received_at.after(TOMBSTONE_AGE),
    };
    if ends_at <= now {
        state.count_retained(usage_of(topic, Some(&value)), Usage::default());
        state.delete(Space::Retained, topic.as_bytes().to_vec());
    }
    Ok(())
}

/// Keys looked at for one page: others wait for the storage thread meanwhile.
const LOOKED_AT_MAX: usize = 65_536;

/// Visits the retained messages that match `filter` from `from` on, in the order of their topics,
/// while `visit` returns true. Looks at those only that begin like the filter up to its first
/// wildcard. Returns where to go on, `None` at the end.
///
/// # Errors
///
/// [`StoreError::Engine`].
pub fn matching(
    state: &KeyedState,
    filter: &str,
    from: &str,
    visit: &mut dyn FnMut(Retained) -> bool,
) -> Result<Option<String>, StoreError> {
    let (mut next, mut looked_at) = (None, 0);
    let mut show = |key: &[u8], value: &[u8]| {
        looked_at += 1;
        let Ok(topic) = std::str::from_utf8(key) else { return true };
        let found = filter_matches(filter, topic).then(|| decode(topic, value)).flatten();
        let goes_on = found.is_none_or(&mut *visit) && looked_at < LOOKED_AT_MAX;
        if !goes_on {
            // Nothing sorts between a topic name and this, and no topic name has a NUL.
            next = Some(format!("{topic}\0"));
        }
        goes_on
    };
    let Some(wildcard) = filter.find(['+', '#']) else {
        if let Some(value) = state.get(Space::Retained, filter.as_bytes())? {
            show(filter.as_bytes(), &value);
        }
        return Ok(None);
    };
    let prefix = filter.get(..wildcard).unwrap_or_default();
    // "a/#" matches "a", too, which does not begin with "a/". Source: MQTT 5.0 §4.7.1.2.
    let parent = filter.strip_suffix("/#").filter(|parent| parent.len() < wildcard);
    if let Some(parent) = parent.filter(|_| from.is_empty())
        && let Some(value) = state.get(Space::Retained, parent.as_bytes())?
        && !show(parent.as_bytes(), &value)
    {
        return Ok(next);
    }
    state.scan(Space::Retained, prefix.as_bytes(), from.as_bytes(), &mut show)?;
    Ok(next)
}

fn stamp(received_at: Timestamp, partition: PartitionId, sequence: Sequence) -> Vec<u8> {
    let mut value = Vec::with_capacity(STAMP_BYTES);
    value.extend_from_slice(&received_at.0.to_be_bytes());
    value.extend_from_slice(&partition.0.to_be_bytes());
    value.extend_from_slice(&sequence.0.to_be_bytes());
    value
}

/// The message in `value`, `None` for a tombstone.
fn decode(topic: &str, value: &[u8]) -> Option<Retained> {
    let (_, rest) = value.split_at_checked(8)?;
    let (partition, rest) = rest.split_first_chunk()?;
    let (sequence, body) = rest.split_first_chunk()?;
    (!body.is_empty()).then(|| Retained {
        topic: topic.to_owned(),
        partition: PartitionId(u16::from_be_bytes(*partition)),
        sequence: Sequence(u64::from_be_bytes(*sequence)),
        body: body.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_specification_says() {
        let table = [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a/b/c", false),
            ("a/+", "a", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("+", "/", false),
            ("+/+", "/", true),
        ];
        for (filter, topic, expected) in table {
            assert_eq!(filter_matches(filter, topic), expected, "{filter} {topic}");
        }
    }
}

//! Groups of shared subscriptions in the keyed store.
//!
//! Key of [`Space::Groups`]: length of the name (u16, big endian), name, kind; for a message that was
//! taken, its partition (u16) and sequence (u64), big endian.

use super::fold::SessionValue;
use super::state::KeyedState;
use super::{Space, StoreError};
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::session::Place;
use crate::proto::session::record::shared_of;
use crate::upstream::embedded::groups::record::GroupRecord;
use std::collections::BTreeMap;

/// The longest name of a group that can be stored; the engine's keys hold 65,535 bytes.
pub const GROUP_NAME_BYTES_MAX: usize = 65_535 - 16;

/// What a key of [`Space::Groups`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// The group's last record.
    Record = 0,
    /// A message that a member has taken over since.
    Taken = 1,
}

/// A group as the last process left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredGroup {
    /// `ShareName/filter`.
    pub name: Box<str>,
    /// Stored sessions that have the subscription.
    pub members: u32,
    /// Its last record; `None` where the group has ended, and the end of its last member's
    /// subscription was not committed any more.
    pub record: Option<GroupRecord>,
    /// Messages that members have taken over since.
    pub taken: Vec<Place>,
}

pub(super) fn put_group(
    state: &mut KeyedState,
    name: &str,
    bytes: &[u8],
) -> Result<(), StoreError> {
    if let Some(record) = GroupRecord::decode(bytes) {
        for key in state.keys(Space::Groups, &key(name, Kind::Taken))? {
            if place_of(&key).is_none_or(|place| record.is_settled(place)) {
                state.delete(Space::Groups, key);
            }
        }
    }
    state.put(Space::Groups, key(name, Kind::Record), bytes.to_vec());
    Ok(())
}

pub(super) fn delete_group(state: &mut KeyedState, name: &str) -> Result<(), StoreError> {
    for key in state.keys(Space::Groups, &prefix(name))? {
        state.delete(Space::Groups, key);
    }
    Ok(())
}

pub(super) fn take(state: &mut KeyedState, name: &str, place: Place) {
    let mut key = key(name, Kind::Taken);
    key.extend_from_slice(&place.0.0.to_be_bytes());
    key.extend_from_slice(&place.1.0.to_be_bytes());
    state.put(Space::Groups, key, Vec::new());
}

/// The groups that stored sessions are members of. Whatever else is stored of groups is deleted: the
/// process ended before it could do so.
///
/// # Errors
///
/// [`StoreError::Engine`].
pub fn stored_groups(state: &mut KeyedState) -> Result<Vec<StoredGroup>, StoreError> {
    let mut members: BTreeMap<Box<str>, u32> = BTreeMap::new();
    state.scan(Space::Sessions, &[], &[], &mut |_, value| {
        if let Some(session) = SessionValue::decode(value) {
            for name in shared_of(session.record) {
                *members.entry(name).or_default() += 1;
            }
        }
        true
    })?;
    for key in state.keys(Space::Groups, &[])? {
        if name_of(&key).is_none_or(|name| !members.contains_key(name)) {
            state.delete(Space::Groups, key);
        }
    }
    let mut groups = Vec::with_capacity(members.len());
    for (name, members) in members {
        let record = state.get(Space::Groups, &key(&name, Kind::Record))?;
        let record = record.as_deref().and_then(GroupRecord::decode);
        let taken = state.keys(Space::Groups, &key(&name, Kind::Taken))?;
        let taken = taken.iter().filter_map(|key| place_of(key)).collect();
        groups.push(StoredGroup { name, members, record, taken });
    }
    Ok(groups)
}

/// Names have different lengths: the length in front keeps one from being another's prefix.
fn prefix(name: &str) -> Vec<u8> {
    let length = u16::try_from(name.len()).expect("an MQTT string has at most 65,535 bytes");
    [&length.to_be_bytes()[..], name.as_bytes()].concat()
}

fn key(name: &str, kind: Kind) -> Vec<u8> {
    let mut key = prefix(name);
    key.push(kind as u8);
    key
}

fn name_of(key: &[u8]) -> Option<&str> {
    let (length, rest) = key.split_first_chunk()?;
    let name = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    std::str::from_utf8(name).ok()
}

/// The place in the key of a message that was taken.
fn place_of(key: &[u8]) -> Option<Place> {
    let (rest, sequence) = key.split_last_chunk()?;
    let (_, partition) = rest.split_last_chunk()?;
    let partition = PartitionId(u16::from_be_bytes(*partition));
    Some((partition, Sequence(u64::from_be_bytes(*sequence))))
}

//! A session's shared subscriptions: it is one member of each of these groups.
//!
//! Who gets which message is decided by the group, behind the upstream. The session sends what it is
//! given, in its own window, and says when the group need not care any more.
//! Source: MQTT 5.0 §4.8.2.

use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::routing::PackedOptions;
use std::num::NonZeroU32;

/// Names a group while the node runs; used again only when all numbers were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub NonZeroU32);

/// A message's place: which log, and where in it.
pub type Place = (PartitionId, Sequence);

/// One shared subscription of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSubscription {
    /// `ShareName/filter`: the group's name.
    pub name: Box<str>,
    /// Subscription Options.
    pub options: PackedOptions,
    /// Subscription Identifier, 0 for none.
    pub identifier: u32,
    /// Tells it from earlier ones of the same name.
    pub number: u64,
    /// The group has said that the session is a member.
    pub group: Option<GroupId>,
    /// The group would find the session in its record: from then on the session's may name it.
    pub granted: bool,
    /// The session was offline, and the group counts it among those.
    pub returning: bool,
}

impl SharedSubscription {
    /// The filter inside.
    #[must_use]
    pub fn filter(&self) -> &str {
        filter_of(&self.name)
    }
}

/// The filter in a group's name.
#[must_use]
pub fn filter_of(name: &str) -> &str {
    name.split_once('/').map_or("", |(_, filter)| filter)
}

/// On whose account a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Subscriptions of the session's own.
    Own,
    /// A shared subscription; the group waits to hear what becomes of it.
    Group(GroupId),
    /// A shared subscription, and the session alone has to finish it.
    Shared,
}

impl Origin {
    /// Whether a shared subscription asked for the message.
    #[must_use]
    pub fn is_shared(self) -> bool {
        self != Self::Own
    }
}

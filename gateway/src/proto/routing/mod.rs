//! Who gets a message: the subscription tree of a shard and the interest table of a node.
//!
//! [`SubscriptionTree`] answers for one shard which sessions and shared groups a topic reaches;
//! [`InterestTable`] answers for a whole node which shards are worth asking. Both are keyed by
//! seeded hashes that live in memory only. Sharing within a group, delivery options and the
//! validation of filters are the business of the callers.

mod fan_out;
pub mod filter;
mod index_table;
pub mod interest;
mod slab;
pub mod subscriber;
pub mod subscription_tree;
mod wildcard_trie;

pub use filter::{filter_matches, has_wildcard};
pub use interest::{InterestOwner, InterestTable};
pub use subscriber::{PackedOptions, Subscriber, SubscriberKind};
pub use subscription_tree::{FilterId, Subscribed, SubscriptionTree, Unsubscribed};

/// The hash of the tables here: keyed, so a client that chooses topics cannot choose collisions.
fn seeded_hash(seed: u64) -> ahash::RandomState {
    ahash::RandomState::with_seeds(seed, !seed, seed.rotate_left(21), seed.rotate_right(21))
}

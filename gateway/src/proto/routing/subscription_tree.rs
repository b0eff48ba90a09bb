//! The subscriptions of one shard, by filter.
//!
//! Filters without wildcards, usually almost all, lie in one hash table by their whole text, so a
//! topic finds its own with one look; only the others are searched level by level
//! (`wildcard_trie.rs`). The cost of a match follows the depth of the topic and the number of
//! matches, not the number of filters: `benches/routing.rs` measures it.
//!
//! Memory of a literal filter of 24 bytes with one subscriber: 32 bytes for its entry, 24 and the
//! allocator's 8 for the text, 5 to 11 for its place in the table.

use super::fan_out::FanOut;
use super::filter::has_wildcard;
use super::index_table::IndexTable;
use super::seeded_hash;
use super::slab::Slab;
use super::subscriber::{Subscriber, SubscriberKind};
use super::wildcard_trie::{Leaf, WildcardTrie};
use ahash::RandomState;

/// Filters with their subscribers.
///
/// Shared subscriptions appear as their inner filter with a [`SubscriberKind::Group`].
#[derive(Debug)]
pub struct SubscriptionTree {
    filters: Slab<Filter>,
    /// Numbers of `filters`: those without wildcards.
    literals: IndexTable,
    wildcards: WildcardTrie,
    hash: RandomState,
    /// Allocated by the entries of `filters`.
    filter_heap_bytes: usize,
}

/// A filter of a tree, valid from its first subscriber to its last. Numbers are reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FilterId(pub u32);

/// What [`SubscriptionTree::subscribe`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// Names the filter from now on.
    pub filter: FilterId,
    /// The entry the same subscriber had at this filter before.
    pub replaced: Option<Subscriber>,
    /// The filter was not in the tree before.
    pub first: bool,
}

/// What [`SubscriptionTree::unsubscribe`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribed {
    /// The entry that is gone.
    pub removed: Subscriber,
    /// It was the filter's last: the filter is gone too, and its id means nothing any more.
    pub last: bool,
}

#[derive(Debug)]
struct Filter {
    place: Place,
    subscribers: FanOut,
}

const _: () = assert!(size_of::<Option<Filter>>() == 32, "there may be millions of filters");

/// Where the text of a filter is kept.
#[derive(Debug)]
enum Place {
    Literal(Box<str>),
    Wildcard(Leaf),
}

impl SubscriptionTree {
    /// An empty tree. `hash_seed` keeps clients from choosing colliding topics: it should be random
    /// in production, and fixed in a simulation.
    #[must_use]
    pub fn new(hash_seed: u64) -> Self {
        let hash = seeded_hash(hash_seed);
        Self {
            filters: Slab::new(),
            literals: IndexTable::new(),
            wildcards: WildcardTrie::new(hash.clone()),
            hash,
            filter_heap_bytes: 0,
        }
    }

    /// Adds `subscriber` to the valid `filter`, in place of its earlier entry if it has one.
    ///
    /// # Source
    ///
    /// MQTT 5.0 §3.8.4 [MQTT-3.8.4-3]; MQTT 3.1.1 §3.8.4 [MQTT-3.8.4-3]: replaces a subscription
    /// whose filter is identical.
    pub fn subscribe(&mut self, filter: &str, subscriber: Subscriber) -> Subscribed {
        let Some(id) = self.find(filter) else {
            let filter = self.add_filter(filter, subscriber);
            return Subscribed { filter, replaced: None, first: true };
        };
        let subscribers = &mut self.filters.at_mut(id.0).subscribers;
        let before_bytes = subscribers.heap_bytes();
        let replaced = subscribers.put(subscriber, &self.hash);
        self.filter_heap_bytes += subscribers.heap_bytes();
        self.filter_heap_bytes -= before_bytes;
        Subscribed { filter: id, replaced, first: false }
    }

    /// Takes the subscriber out of `filter`, `None` when it is not there.
    pub fn unsubscribe(
        &mut self,
        filter: FilterId,
        kind: SubscriberKind,
        session: u32,
    ) -> Option<Unsubscribed> {
        let subscribers = &mut self.filters.get_mut(filter.0)?.subscribers;
        let before_bytes = subscribers.heap_bytes();
        let removed = subscribers.remove(kind, session, &self.hash)?;
        self.filter_heap_bytes += subscribers.heap_bytes();
        self.filter_heap_bytes -= before_bytes;
        if removed.last {
            self.remove_filter(filter);
        }
        Some(Unsubscribed { removed: removed.subscriber, last: removed.last })
    }

    /// The id of `filter`, `None` when nobody subscribes to it.
    #[must_use]
    pub fn find(&self, filter: &str) -> Option<FilterId> {
        if has_wildcard(filter) {
            return self.wildcards.find(filter).map(FilterId);
        }
        self.find_literal(filter).map(FilterId)
    }

    /// The entry of a subscriber at `filter`.
    #[must_use]
    pub fn subscriber(
        &self,
        filter: FilterId,
        kind: SubscriberKind,
        session: u32,
    ) -> Option<Subscriber> {
        self.filters.get(filter.0)?.subscribers.find(kind, session, &self.hash)
    }

    /// Appends the text of `filter`; nothing when the id is not in use.
    pub fn write_filter(&self, filter: FilterId, out: &mut String) {
        match self.filters.get(filter.0).map(|filter| &filter.place) {
            Some(Place::Literal(text)) => out.push_str(text),
            Some(Place::Wildcard(leaf)) => self.wildcards.write_filter(*leaf, out),
            None => {}
        }
    }

    /// Appends the subscribers of every filter that matches `topic`.
    ///
    /// A subscriber with several matching filters appears once for each, with the options of
    /// each; what to make of that is the caller's decision (MQTT 5.0 §3.3.4 [MQTT-3.3.4-2]).
    pub fn matches(&self, topic: &str, out: &mut Vec<Subscriber>) {
        if let Some(index) = self.find_literal(topic) {
            out.extend_from_slice(self.filters.at(index).subscribers.as_slice());
        }
        self.wildcards.matches(topic, |index| {
            out.extend_from_slice(self.filters.at(index).subscribers.as_slice());
        });
    }

    /// Distinct filters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filters.len()
    }

    /// Whether nobody subscribes to anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes allocated, without the allocator's own overhead.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.filters.memory_bytes()
            + self.literals.memory_bytes()
            + self.wildcards.memory_bytes()
            + self.filter_heap_bytes
    }

    fn find_literal(&self, text: &str) -> Option<u32> {
        self.literals.find(self.hash.hash_one(text), |index| {
            matches!(&self.filters.at(index).place, Place::Literal(other) if &**other == text)
        })
    }

    fn add_filter(&mut self, filter: &str, subscriber: Subscriber) -> FilterId {
        let subscribers = FanOut::One(subscriber);
        if has_wildcard(filter) {
            // The trie wants the number of the entry, the entry the place in the trie.
            let place = Place::Literal(Box::default());
            let index = self.filters.insert(Filter { place, subscribers });
            let leaf = self.wildcards.insert(filter, index);
            self.filters.at_mut(index).place = Place::Wildcard(leaf);
            return FilterId(index);
        }
        self.filter_heap_bytes += filter.len();
        let place = Place::Literal(filter.into());
        let index = self.filters.insert(Filter { place, subscribers });
        let Self { filters, literals, hash, .. } = self;
        literals.insert(hash.hash_one(filter), index, |other| match &filters.at(other).place {
            Place::Literal(text) => hash.hash_one(&**text),
            Place::Wildcard(_) => unreachable!("wildcard filters are not among the literals"),
        });
        FilterId(index)
    }

    fn remove_filter(&mut self, filter: FilterId) {
        match self.filters.remove(filter.0).place {
            Place::Literal(text) => {
                self.filter_heap_bytes -= text.len();
                self.literals.remove(self.hash.hash_one(&*text), filter.0);
            }
            Place::Wildcard(leaf) => self.wildcards.remove(leaf),
        }
    }
}

#[cfg(test)]
mod tests;

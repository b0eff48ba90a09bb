//! The subscribers of one filter: mostly one, sometimes a hundred thousand.

use super::subscriber::{Subscriber, SubscriberKind};
use ahash::RandomState;
use hashbrown::HashTable;

/// The subscribers of one filter, in no particular order; never empty.
#[derive(Debug)]
pub(super) enum FanOut {
    /// The usual case, without an allocation.
    One(Subscriber),
    /// Two or more.
    Many(Box<Many>),
}

const _: () = assert!(size_of::<FanOut>() == 16, "the single subscriber must stay inline");

#[derive(Debug)]
pub(super) struct Many {
    list: Vec<Subscriber>,
    /// Places in `list` by subscriber, kept while the list is long.
    places: Option<HashTable<u32>>,
}

/// Lists longer than this have an index: scanning twelve-byte entries is as fast up to here.
const SCANNED_MAX: usize = 32;
/// An index is dropped below this; the gap keeps a list on the edge from rebuilding it.
const INDEXED_MIN: usize = 16;
const _: () = assert!(INDEXED_MIN < SCANNED_MAX);

impl FanOut {
    /// Adds `subscriber`, or puts it in the place of its earlier entry, which is returned.
    pub(super) fn put(&mut self, subscriber: Subscriber, hash: &RandomState) -> Option<Subscriber> {
        match self {
            Self::One(only) if is(only, subscriber.kind, subscriber.session) => {
                Some(std::mem::replace(only, subscriber))
            }
            Self::One(only) => {
                let list = vec![*only, subscriber];
                *self = Self::Many(Box::new(Many { list, places: None }));
                None
            }
            Self::Many(many) => many.put(subscriber, hash),
        }
    }

    /// Takes a subscriber out, `None` when it is not there. The last one is returned but stays:
    /// the filter goes with it.
    pub(super) fn remove(
        &mut self,
        kind: SubscriberKind,
        session: u32,
        hash: &RandomState,
    ) -> Option<Removed> {
        match self {
            Self::One(only) => {
                is(only, kind, session).then_some(Removed { subscriber: *only, last: true })
            }
            Self::Many(many) => {
                let subscriber = many.remove(kind, session, hash)?;
                if let [only] = many.list.as_slice() {
                    *self = Self::One(*only);
                }
                Some(Removed { subscriber, last: false })
            }
        }
    }

    pub(super) fn find(
        &self,
        kind: SubscriberKind,
        session: u32,
        hash: &RandomState,
    ) -> Option<Subscriber> {
        match self {
            Self::One(only) => is(only, kind, session).then_some(*only),
            Self::Many(many) => {
                let place = many.place(kind, session, hash)?;
                many.list.get(place).copied()
            }
        }
    }

    pub(super) fn as_slice(&self) -> &[Subscriber] {
        match self {
            Self::One(only) => std::slice::from_ref(only),
            Self::Many(many) => &many.list,
        }
    }

    /// Bytes allocated.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Many(many) => {
                size_of::<Many>()
                    + many.list.capacity() * size_of::<Subscriber>()
                    + many.places.as_ref().map_or(0, HashTable::allocation_size)
            }
        }
    }
}

/// What [`FanOut::remove`] took out.
pub(super) struct Removed {
    pub(super) subscriber: Subscriber,
    /// No other is left.
    pub(super) last: bool,
}

impl Many {
    fn put(&mut self, subscriber: Subscriber, hash: &RandomState) -> Option<Subscriber> {
        if let Some(place) = self.place(subscriber.kind, subscriber.session, hash) {
            return Some(std::mem::replace(self.entry_mut(place), subscriber));
        }
        let place = self.list.len();
        self.list.push(subscriber);
        if self.places.is_some() {
            self.index(place, hash);
        } else if self.list.len() > SCANNED_MAX {
            self.places = Some(HashTable::with_capacity(self.list.len()));
            for place in 0..self.list.len() {
                self.index(place, hash);
            }
        }
        None
    }

    /// The last entry moves into the gap, so a departure costs the same however many there are.
    fn remove(
        &mut self,
        kind: SubscriberKind,
        session: u32,
        hash: &RandomState,
    ) -> Option<Subscriber> {
        let place = self.place(kind, session, hash)?;
        self.unindex(place, hash);
        let last = self.list.len() - 1;
        if place != last {
            self.unindex(last, hash);
        }
        let removed = self.list.swap_remove(place);
        if place != last {
            self.index(place, hash);
        }
        if self.list.len() < INDEXED_MIN {
            self.places = None;
        }
        if self.list.len() < self.list.capacity() / 4 {
            self.shrink(hash);
        }
        Some(removed)
    }

    fn place(&self, kind: SubscriberKind, session: u32, hash: &RandomState) -> Option<usize> {
        let Some(places) = &self.places else {
            return self.list.iter().position(|entry| is(entry, kind, session));
        };
        places
            .find(hash_of(kind, session, hash), |&place| {
                self.list.get(place as usize).is_some_and(|entry| is(entry, kind, session))
            })
            .map(|&place| place as usize)
    }

    /// Enters the entry at `place` into the index, if there is one.
    fn index(&mut self, place: usize, hash: &RandomState) {
        let Self { list, places: Some(places) } = self else { return };
        let hash_at = |place: u32| {
            let entry = list.get(place as usize).expect("the index holds places of the list");
            hash_of(entry.kind, entry.session, hash)
        };
        let place = u32::try_from(place).expect("a shard has fewer than 2^32 subscribers");
        places.insert_unique(hash_at(place), place, |&other| hash_at(other));
    }

    fn unindex(&mut self, place: usize, hash: &RandomState) {
        let Self { list, places: Some(places) } = self else { return };
        let entry = list.get(place).expect("the caller found this place in the list");
        match places
            .find_entry(hash_of(entry.kind, entry.session, hash), |&other| other as usize == place)
        {
            Ok(found) => {
                found.remove();
            }
            Err(_) => unreachable!("every entry of an indexed list is in its index"),
        }
    }

    /// Gives back memory after most have left; a quarter full, so this is rare.
    fn shrink(&mut self, hash: &RandomState) {
        let Self { list, places } = self;
        list.shrink_to(list.len() * 2);
        if let Some(places) = places {
            places.shrink_to(list.len() * 2, |&place| {
                let entry = list.get(place as usize).expect("the index holds places of the list");
                hash_of(entry.kind, entry.session, hash)
            });
        }
    }

    fn entry_mut(&mut self, place: usize) -> &mut Subscriber {
        self.list.get_mut(place).expect("the caller found this place in the list")
    }
}

fn is(entry: &Subscriber, kind: SubscriberKind, session: u32) -> bool {
    entry.session == session && entry.kind == kind
}

fn hash_of(kind: SubscriberKind, session: u32, hash: &RandomState) -> u64 {
    hash.hash_one((kind as u8, session))
}

//! The filters a shard wants messages for, and the subscription ids they have on its links.

use ahash::RandomState;
use hashbrown::HashTable;

/// The distinct filters of a shard.
///
/// Each has two subscription ids, the same on every link: one for the subject of the filter, one
/// for the level above it that `#` matches too. A filter without wildcards is subscribed to on one
/// link only. Cost: some 50 bytes a filter and the filter itself.
#[derive(Debug, Default)]
pub struct Interest {
    entries: Vec<Entry>,
    vacant: Vec<u32>,
    by_filter: HashTable<u32>,
    random: RandomState,
}

#[derive(Debug, Default)]
struct Entry {
    filter: Box<str>,
    /// How often it was added; 0 for a vacant place.
    count: u32,
}

/// A filter's place in [`Interest`]; used again once the filter is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterPlace(u32);

impl FilterPlace {
    /// The ids of SUB and UNSUB: of the filter's subject, and of the level above.
    #[must_use]
    pub fn sids(self) -> [u64; 2] {
        let first = FIRST_SID + 2 * u64::from(self.0);
        [first, first + 1]
    }
}

impl Interest {
    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_filter.is_empty()
    }

    /// Adds a filter once more; its place if it is new.
    pub fn add(&mut self, filter: &str) -> Option<FilterPlace> {
        if let Some(place) = self.find(filter) {
            if let Some(entry) = self.entries.get_mut(place as usize) {
                entry.count += 1;
            }
            return None;
        }
        let entry = Entry { filter: filter.into(), count: 1 };
        let place = match self.vacant.pop() {
            Some(place) => {
                if let Some(slot) = self.entries.get_mut(place as usize) {
                    *slot = entry;
                }
                place
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("filters are bounded by memory")
            }
        };
        let Self { entries, by_filter, random, .. } = self;
        by_filter.insert_unique(random.hash_one(filter), place, |&other| {
            random.hash_one(&*entries.get(other as usize).expect("the table holds places").filter)
        });
        Some(FilterPlace(place))
    }

    /// Takes back one [`Interest::add`]; the place the filter had if that was the last.
    pub fn remove(&mut self, filter: &str) -> Option<FilterPlace> {
        let place = self.find(filter)?;
        let entry = self.entries.get_mut(place as usize)?;
        entry.count -= 1;
        if entry.count > 0 {
            return None;
        }
        *entry = Entry::default();
        let hash = self.random.hash_one(filter);
        if let Ok(entry) = self.by_filter.find_entry(hash, |&other| other == place) {
            entry.remove();
        }
        self.vacant.push(place);
        Some(FilterPlace(place))
    }

    /// All filters.
    pub fn iter(&self) -> impl Iterator<Item = (FilterPlace, &str)> {
        let places = (0..).zip(&self.entries).filter(|(_, entry)| entry.count > 0);
        places.map(|(place, entry)| (FilterPlace(place), &*entry.filter))
    }

    fn find(&self, filter: &str) -> Option<u32> {
        let hash = self.random.hash_one(filter);
        let same = |place: &u32| {
            self.entries.get(*place as usize).is_some_and(|entry| *entry.filter == *filter)
        };
        self.by_filter.find(hash, same).copied()
    }
}

/// Those below are for answers.
pub const FIRST_SID: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_there_as_long_as_anyone_wants_it() {
        let mut interest = Interest::default();
        let place = interest.add("a/+").unwrap();
        assert_eq!(interest.add("a/+"), None);
        let other = interest.add("b").unwrap();
        assert_eq!([place.sids(), other.sids()], [[8, 9], [10, 11]]);
        assert_eq!(interest.remove("a/+"), None);
        assert_eq!(interest.remove("a/+"), Some(place));
        assert_eq!(interest.remove("a/+"), None, "it is gone");
        assert_eq!(interest.iter().collect::<Vec<_>>(), [(other, "b")]);
        assert_eq!(interest.add("c"), Some(place), "the place is used again");
    }
}

//! Values under small numbers that are reused, in chunks so that growing never moves a value.

/// A slab of `T`, addressed by `u32`.
///
/// It grows by chunks of [`CHUNK_SLOTS`], so there is neither a copy of everything nor a half of
/// unused memory when it grows, and hands out freed numbers before new ones. Chunks are kept: a
/// slab is as large as it ever was.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    len: usize,
}

/// Slots a chunk: of the order of 32 KiB, so an almost empty tree costs little.
const CHUNK_SLOTS: usize = 1 << CHUNK_SHIFT;
const CHUNK_SHIFT: u32 = 10;

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), len: 0 }
    }

    /// Stores `value` under the number it returns.
    ///
    /// # Panics
    ///
    /// Past 2^32 - 1 values, which would take over 100 GiB: limits on sessions and memory end
    /// long before.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if let Some(index) = self.free.pop() {
            *self.slot_mut(index) = Some(value);
            return index;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK_SLOTS) {
            self.chunks.push(Vec::with_capacity(CHUNK_SLOTS));
        }
        let full = (self.chunks.len() - 1) << CHUNK_SHIFT;
        let chunk = self.chunks.last_mut().expect("pushed above when there was none");
        let index = u32::try_from(full + chunk.len()).expect("fewer than 2^32 values");
        assert!(index != u32::MAX, "u32::MAX is kept free for `Link::NONE`");
        chunk.push(Some(value));
        index
    }

    /// Takes the value out; its number is free afterwards.
    pub(super) fn remove(&mut self, index: u32) -> T {
        let value = self.slot_mut(index).take().expect("only numbers in use are removed");
        self.free.push(index);
        self.len -= 1;
        value
    }

    /// The value, `None` when the number is not in use.
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        self.chunks.get(chunk_of(index))?.get(place_of(index))?.as_ref()
    }

    /// The value, `None` when the number is not in use.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.chunks.get_mut(chunk_of(index))?.get_mut(place_of(index))?.as_mut()
    }

    /// The value of a number that is known to be in use.
    pub(super) fn at(&self, index: u32) -> &T {
        self.get(index).expect("the number came from this slab and is in use")
    }

    /// The value of a number that is known to be in use.
    pub(super) fn at_mut(&mut self, index: u32) -> &mut T {
        self.get_mut(index).expect("the number came from this slab and is in use")
    }

    /// Values stored.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes allocated, without what the values own themselves.
    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.len() * CHUNK_SLOTS * size_of::<Option<T>>()
            + self.chunks.capacity() * size_of::<Vec<Option<T>>>()
            + self.free.capacity() * size_of::<u32>()
    }

    fn slot_mut(&mut self, index: u32) -> &mut Option<T> {
        self.chunks
            .get_mut(chunk_of(index))
            .and_then(|chunk| chunk.get_mut(place_of(index)))
            .expect("the number came from this slab")
    }
}

fn chunk_of(index: u32) -> usize {
    (index >> CHUNK_SHIFT) as usize
}

fn place_of(index: u32) -> usize {
    index as usize & (CHUNK_SLOTS - 1)
}

/// A number of a slab, or none, in four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link(u32);

impl Link {
    pub(super) const NONE: Self = Self(u32::MAX);

    pub(super) fn to(index: u32) -> Self {
        Self(index)
    }

    pub(super) fn get(self) -> Option<u32> {
        (self != Self::NONE).then_some(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_numbers_are_handed_out_again() {
        let mut slab = Slab::new();
        let count = CHUNK_SLOTS as u32 * 2 + 1;
        for value in 0..count {
            assert_eq!(slab.insert(value), value);
        }
        assert_eq!(slab.remove(7), 7);
        assert_eq!(slab.get(7), None);
        assert_eq!(slab.len(), count as usize - 1);
        assert_eq!(slab.insert(99), 7);
        assert_eq!(slab.at(7), &99);
        assert_eq!(slab.at(count - 1), &(count - 1));
        assert_eq!(slab.get(count), None);
    }
}

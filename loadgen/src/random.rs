//! Random numbers that a seed repeats, on every machine and in every version of the program.

/// SplitMix64: eight bytes of state, so that each of a million devices has its own.
///
/// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// The numbers of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The numbers of `seed` for one of many things, `kind` of which there are: `index` is which.
    pub(crate) fn of(seed: u64, kind: u64, index: u64) -> Self {
        let mut outer = Self::new(seed ^ kind.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let key = outer.next_u64();
        Self::new(Self::new(key ^ index.wrapping_mul(0xA076_1D64_78BD_642F)).next_u64())
    }

    /// The next number.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// The next number, in [0, 1), in steps of 2^-53.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether something of this probability happens.
    pub(crate) fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_seed_never_change() {
        // The first of seed 0 is the one the authors publish.
        let mut random = Random::new(0);
        assert_eq!(random.next_u64(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(Random::of(1, 2, 3).next_u64(), Random::of(1, 2, 3).next_u64());
    }

    #[test]
    fn neighbours_have_nothing_in_common() {
        let first: Vec<u64> = (0..100).map(|n| Random::of(7, 1, n).next_u64()).collect();
        let other: Vec<u64> = (0..100).map(|n| Random::of(7, 2, n).next_u64()).collect();
        let mut all: Vec<u64> = first.into_iter().chain(other).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 200);
    }

    #[test]
    fn a_probability_is_met() {
        let mut random = Random::new(1);
        let hits = (0..100_000).filter(|_| random.happens(0.3)).count();
        assert!((29_000..31_000).contains(&hits), "{hits}");
    }
}

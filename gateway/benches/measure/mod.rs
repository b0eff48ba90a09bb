//! How long a small operation takes, for benches of more than one subject.

use std::time::Instant;

/// Nanoseconds an operation: the median of [`ROUNDS`].
#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
pub(crate) fn measure(operations: u32, mut operation: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..operations {
                operation();
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(operations)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds.get(ROUNDS / 2).copied().unwrap_or_default()
}

const ROUNDS: usize = 9;
/// Of a round, where time counts.
pub(crate) const OPERATIONS: u32 = 1_000_000;

//! The open-loop schedule: when each message should be sent, whatever the broker does.
//!
//! Latency counted from these times includes the wait of a message that could not be sent because
//! an earlier one was slow, which a loop that waits for answers leaves out ("coordinated
//! omission"; the method is wrk2's).

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Sends at a constant rate, spread evenly over time, round robin over senders.
///
/// The time of message `n` is computed from `n`, not from the time of the one before, so rounding
/// never adds up to a wrong rate. Several schedules with different `lane`s of one `lanes` make up
/// one rate together: lane `k` sends the messages `k`, `k + lanes`, `k + 2 * lanes`, ...
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    start_ns: u64,
    rate_per_s: u64,
    lane: u64,
    lanes: u64,
    next: u64,
}

impl Schedule {
    /// A schedule of `rate_per_s` messages a second over all `lanes`, from `start_ns` on.
    ///
    /// # Panics
    ///
    /// If `rate_per_s` or `lanes` is 0, or `lane` is not below `lanes`: the caller validates.
    pub(crate) fn new(start_ns: u64, rate_per_s: u64, lane: u64, lanes: u64) -> Self {
        assert!(rate_per_s > 0, "a schedule without a rate has no times");
        assert!(lane < lanes, "lane {lane} of {lanes}");
        Self { start_ns, rate_per_s, lane, lanes, next: 0 }
    }

    /// When the next message is to be sent.
    pub(crate) fn next_due_ns(&self) -> u64 {
        let message = u128::from(self.next) * u128::from(self.lanes) + u128::from(self.lane);
        let offset_ns = message * NANOS_PER_SECOND / u128::from(self.rate_per_s);
        self.start_ns.saturating_add(u64::try_from(offset_ns).unwrap_or(u64::MAX))
    }

    /// Takes the next message if it is due: its intended time, and its number in this lane.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> Option<(u64, u64)> {
        let due_ns = self.next_due_ns();
        if due_ns > now_ns {
            return None;
        }
        let number = self.next;
        self.next += 1;
        Some((due_ns, number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn a_rate_that_does_not_divide_a_second_is_exact_in_the_long_run() {
        let mut schedule = Schedule::new(5, 7, 0, 1);
        let mut taken = 0;
        while schedule.take_due(5 + 1_000 * SECOND_NS - 1).is_some() {
            taken += 1;
        }
        assert_eq!(taken, 7_000);
    }

    #[test]
    fn a_late_caller_gets_every_message_with_the_time_it_should_have_had() {
        let mut schedule = Schedule::new(0, 10, 0, 1);
        let late = 350_000_000;
        let taken: Vec<_> = std::iter::from_fn(|| schedule.take_due(late)).collect();
        assert_eq!(taken, [(0, 0), (100_000_000, 1), (200_000_000, 2), (300_000_000, 3)]);
        assert_eq!(schedule.next_due_ns(), 400_000_000);
    }

    #[test]
    fn lanes_interleave_to_one_rate() {
        let mut all: Vec<u64> = (0..3)
            .flat_map(|lane| {
                let mut schedule = Schedule::new(0, 9, lane, 3);
                std::iter::from_fn(move || schedule.take_due(SECOND_NS - 1)).map(|(due, _)| due)
            })
            .collect();
        all.sort_unstable();
        let mut whole = Schedule::new(0, 9, 0, 1);
        let expected: Vec<u64> =
            std::iter::from_fn(|| whole.take_due(SECOND_NS - 1)).map(|(due, _)| due).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn nothing_is_due_before_the_start() {
        assert_eq!(Schedule::new(10, 1, 0, 1).take_due(9), None);
    }
}

//! Whether wills came when they had to, and only then.

use ahash::AHashMap;

use crate::device::Ending;

/// What became of the connections of members that have wills.
#[derive(Debug, Default)]
pub(crate) struct Wills {
    connections: AHashMap<(u32, u32), Connection>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    ending: Option<Ending>,
    came: u32,
}

/// The outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WillSettlement {
    /// Connections that ended without DISCONNECT, whose will had to come.
    pub(crate) owed: u64,
    /// Of these, those whose will never came.
    pub(crate) missing: u64,
    /// Wills of connections that ended with DISCONNECT or not at all.
    pub(crate) unexpected: u64,
    /// Wills that came again.
    pub(crate) duplicated: u64,
}

impl Wills {
    /// Connection `connect` of `member` ended.
    pub(crate) fn ended(&mut self, member: u32, connect: u32, ending: Ending) {
        self.connections.entry((member, connect)).or_default().ending = Some(ending);
    }

    /// Nobody can say how connection `connect` of `member` ended for the broker. Whether it counted
    /// as ended by DISCONNECT.
    pub(crate) fn doubt(&mut self, member: u32, connect: u32) -> bool {
        let connection = self.connections.get_mut(&(member, connect));
        let ending = connection.and_then(|connection| connection.ending.as_mut());
        match ending {
            Some(ending) if *ending == Ending::Graceful => {
                *ending = Ending::Unknown;
                true
            }
            _ => false,
        }
    }

    /// The will of connection `connect` of `member` came.
    pub(crate) fn came(&mut self, member: u32, connect: u32) {
        self.connections.entry((member, connect)).or_default().came += 1;
    }

    /// Whether every will that is owed came.
    pub(crate) fn is_complete(&self) -> bool {
        self.settle().missing == 0
    }

    /// Holds what came against how connections ended.
    pub(crate) fn settle(&self) -> WillSettlement {
        let mut settlement = WillSettlement::default();
        for connection in self.connections.values() {
            match connection.ending {
                Some(Ending::Ungraceful) => {
                    settlement.owed += 1;
                    settlement.missing += u64::from(connection.came == 0);
                }
                Some(Ending::Graceful) | None => {
                    settlement.unexpected += u64::from(connection.came > 0);
                }
                Some(Ending::ByBroker | Ending::Unknown) => {}
            }
            settlement.duplicated += u64::from(connection.came.saturating_sub(1));
        }
        settlement
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ending: Option<Ending>, came: u32, missing: u64, unexpected: u64) {
        let mut wills = Wills::default();
        if let Some(ending) = ending {
            wills.ended(1, 0, ending);
        }
        for _ in 0..came {
            wills.came(1, 0);
        }
        let settlement = wills.settle();
        assert_eq!((settlement.missing, settlement.unexpected), (missing, unexpected));
    }

    #[test]
    fn a_will_comes_when_a_connection_is_lost_and_not_after_disconnect() {
        check(Some(Ending::Ungraceful), 1, 0, 0);
        check(Some(Ending::Ungraceful), 0, 1, 0);
        check(Some(Ending::Graceful), 0, 0, 0);
        check(Some(Ending::Graceful), 1, 0, 1);
        check(None, 1, 0, 1);
        check(Some(Ending::Unknown), 1, 0, 0);
        check(Some(Ending::Unknown), 0, 0, 0);
    }

    #[test]
    fn a_will_after_a_goodbye_that_may_have_come_too_late_is_excused() {
        let mut wills = Wills::default();
        wills.ended(1, 0, Ending::Graceful);
        wills.ended(1, 1, Ending::Ungraceful);
        wills.came(1, 0);
        assert!(wills.doubt(1, 0));
        assert!(!wills.doubt(1, 1), "it said nothing");
        let settlement = wills.settle();
        assert_eq!((settlement.unexpected, settlement.missing), (0, 1));
    }

    #[test]
    fn a_will_that_comes_twice_is_counted() {
        let mut wills = Wills::default();
        wills.ended(1, 0, Ending::Ungraceful);
        wills.came(1, 0);
        wills.came(1, 0);
        assert_eq!(wills.settle().duplicated, 1);
    }
}

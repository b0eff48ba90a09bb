//! Subscribers that are slow, for the log: each change of state once, and not more lines than
//! [`Sampled`] lets through. Who is slow stays connected; what it costs is in ARCHITECTURE.md, "Limits".

use super::{Context, ShardState};
use crate::proto::sampled::Sampled;
use crate::proto::time::Timestamp;
use ahash::AHashMap;

/// Looks, one a second, at which a session was behind and came no closer, until it is called slow. Who
/// comes back and reads what it missed is behind, too, and comes closer all the time.
const LOOKS: u8 = 5;
/// Sessions watched at the same time, some 40 bytes each. Others are not told about.
const WATCHED_MAX: usize = 1_024;

/// A subscriber is slow, or no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowNews {
    /// Client Identifier.
    pub client_id: Box<str>,
    /// What it is now.
    pub state: SlowState,
    /// As many others became slow in this way untold since the last line.
    pub untold: u64,
}

/// How a subscriber fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowState {
    /// It is so far behind in what it reads from the log, and comes no closer.
    Behind {
        /// Over all partitions: messages of JetStream, bytes of an embedded log.
        lag: u64,
    },
    /// It does not take what is sent: QoS 0 messages for it are dropped.
    Dropping,
    /// It has caught up.
    Well {
        /// QoS 0 messages that were dropped meanwhile.
        dropped: u64,
    },
}

/// Sessions that are behind, or for which messages were dropped, by place in the slab.
#[derive(Debug, Default)]
pub(super) struct SlowWatch {
    watched: AHashMap<u32, Watched>,
    /// Of those that are behind, and of those that do not take what is sent.
    behind_lines: Sampled,
    dropping_lines: Sampled,
    news: Vec<SlowNews>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    epoch: u32,
    /// How far behind, at the last look.
    lag: u64,
    looks: u8,
    /// Found behind in this pass.
    is_behind: bool,
    /// Dropped since it is watched.
    dropped: u64,
    /// Of these, up to the last pass.
    dropped_before: u64,
    /// The log has a line about it.
    is_told: bool,
}

impl SlowWatch {
    /// In a pass over sessions: this one is behind.
    pub(super) fn note_behind(&mut self, session: u32, epoch: u32, lag: u64) {
        let Some(watched) = self.watch(session, epoch) else { return };
        let comes_closer = lag < watched.lag;
        watched.looks = if comes_closer { 0 } else { watched.looks.saturating_add(1) };
        (watched.lag, watched.is_behind) = (lag, true);
    }

    /// A QoS 0 message for it was dropped, as its connection takes no more.
    pub(super) fn note_dropped(&mut self, session: u32, epoch: u32) {
        if let Some(watched) = self.watch(session, epoch) {
            watched.dropped += 1;
        }
    }

    fn watch(&mut self, session: u32, epoch: u32) -> Option<&mut Watched> {
        if self.watched.len() >= WATCHED_MAX && !self.watched.contains_key(&session) {
            return None;
        }
        let watched = self.watched.entry(session).or_default();
        if watched.epoch != epoch {
            *watched = Watched { epoch, ..Watched::default() };
        }
        Some(watched)
    }

    /// After a pass. `look` knows a session's client id, `None` if it is gone or not connected, and
    /// whether its connection still takes no more.
    fn end_pass<'s>(&mut self, now: Timestamp, look: impl Fn(u32, u32) -> Option<(&'s str, bool)>) {
        let Self { watched, behind_lines, dropping_lines, news } = self;
        watched.retain(|session, watched| {
            let Some((client_id, is_full)) = look(*session, watched.epoch) else { return false };
            let is_behind = std::mem::take(&mut watched.is_behind);
            let dropped_before = std::mem::replace(&mut watched.dropped_before, watched.dropped);
            let is_dropping = watched.dropped > dropped_before || (watched.dropped > 0 && is_full);
            let mut tell = |state, untold| {
                news.push(SlowNews { client_id: client_id.into(), state, untold });
            };
            if !is_behind && !is_dropping {
                if watched.is_told {
                    tell(SlowState::Well { dropped: watched.dropped }, 0);
                }
                return false;
            }
            let (state, lines) = match is_dropping {
                true => (SlowState::Dropping, &mut *dropping_lines),
                false => (SlowState::Behind { lag: watched.lag }, &mut *behind_lines),
            };
            if !watched.is_told
                && (is_dropping || watched.looks >= LOOKS)
                && let Some(untold) = lines.tell(now)
            {
                watched.is_told = true;
                tell(state, untold);
            }
            true
        });
    }

    /// Whether another pass has to look again.
    pub(super) fn is_watching(&self) -> bool {
        !self.watched.is_empty()
    }
}

impl ShardState {
    /// Subscribers that became slow, or well again, since the last call.
    pub fn take_slow_news(&mut self) -> Vec<SlowNews> {
        std::mem::take(&mut self.slow.news)
    }

    /// After the pass that noted who is behind.
    pub(super) fn tell_slow(&mut self, context: &Context<'_>) {
        if !self.slow.is_watching() {
            return;
        }
        let mut slow = std::mem::take(&mut self.slow);
        let full = self.limits.client_write_bytes_max / 2;
        slow.end_pass(context.now, |index, epoch| {
            let session = self.session(index).filter(|session| session.epoch == epoch)?;
            let connection = session.connection?;
            let is_full = context.outbox.pending_bytes(connection.index) >= full;
            Some((&*session.client_id, is_full))
        });
        self.slow = slow;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Scene {
        watch: SlowWatch,
        now: Timestamp,
    }

    impl Scene {
        fn new() -> Self {
            Self { watch: SlowWatch::default(), now: Timestamp::START }
        }

        /// A second passes; what is told of client `c` after it.
        fn look(&mut self, behind: Option<u64>, is_full: bool) -> Vec<SlowState> {
            self.now = self.now.after(Duration::from_secs(1));
            if let Some(lag) = behind {
                self.watch.note_behind(7, 1, lag);
            }
            self.watch.end_pass(self.now, |_, _| Some(("c", is_full)));
            std::mem::take(&mut self.watch.news).into_iter().map(|news| news.state).collect()
        }
    }

    #[test]
    fn who_comes_no_closer_is_slow_and_told_once() {
        let mut scene = Scene::new();
        for _ in 1..LOOKS {
            assert_eq!(scene.look(Some(100), false), []);
        }
        assert_eq!(scene.look(Some(110), false), [SlowState::Behind { lag: 110 }]);
        for lag in [120, 60, 120] {
            assert_eq!(scene.look(Some(lag), false), []);
        }
        assert_eq!(scene.look(None, false), [SlowState::Well { dropped: 0 }]);
        assert_eq!(scene.look(None, false), []);
        assert!(!scene.watch.is_watching());
    }

    #[test]
    fn who_comes_closer_is_not() {
        let mut scene = Scene::new();
        for lag in (1..=60).rev() {
            assert_eq!(scene.look(Some(lag * 1_000), false), []);
        }
        assert_eq!(scene.look(None, false), []);
    }

    #[test]
    fn dropped_messages_are_told_until_the_connection_takes_more() {
        let mut scene = Scene::new();
        for _ in 0..3 {
            scene.watch.note_dropped(7, 1);
        }
        assert_eq!(scene.look(None, true), [SlowState::Dropping]);
        scene.watch.note_dropped(7, 1);
        assert_eq!(scene.look(None, true), []);
        assert_eq!(scene.look(None, false), [SlowState::Well { dropped: 4 }]);
        // For less than a second: told all the same, as they are lost. Not twice in ten seconds.
        (0..10).for_each(|_| assert_eq!(scene.look(None, false), []));
        scene.watch.note_dropped(7, 1);
        assert_eq!(scene.look(None, false), [SlowState::Dropping]);
        assert_eq!(scene.look(None, false), [SlowState::Well { dropped: 1 }]);
    }

    #[test]
    fn many_are_one_line_and_a_number() {
        let mut watch = SlowWatch::default();
        let count = u32::try_from(WATCHED_MAX).unwrap() + 10;
        (0..count).for_each(|session| watch.note_dropped(session, 1));
        watch.end_pass(Timestamp::START.after(Duration::from_secs(1)), |_, _| Some(("c", true)));
        assert_eq!(watch.news.len(), 1);
        watch.end_pass(Timestamp::START.after(Duration::from_secs(60)), |_, _| Some(("c", true)));
        let untold = u64::try_from(WATCHED_MAX).unwrap() - 1;
        assert_eq!(watch.news[1].untold, untold, "another one, and those of the first pass");
        // Whoever is gone is forgotten without a word.
        watch.end_pass(Timestamp::START.after(Duration::from_secs(61)), |_, _| None);
        assert_eq!((watch.news.len(), watch.is_watching()), (2, false));
    }
}

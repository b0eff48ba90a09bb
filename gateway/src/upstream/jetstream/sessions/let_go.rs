//! What was written last of sessions that this shard has let go of lately.
//!
//! A server that loses its power loses what it had not synced: the record of a session may be one of before it was
//! let go of, or of before it ended. Whoever has a session in memory writes it again; this is for those that
//! nobody has.

use super::entry::SURE_FOR;
use super::value::SessionValue;
use crate::proto::partition::Sequence;
use crate::proto::time::Timestamp;
use ahash::RandomState;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// The last write of a session, which names no owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LetGo {
    pub(super) sequence: Sequence,
    pub(super) epoch: u64,
    pub(super) nonce: u64,
    /// Empty if the session has ended.
    pub(super) bytes: Vec<u8>,
    pub(super) time_to_live_s: Option<u32>,
}

impl LetGo {
    /// What it says; of a session that has ended, that there is none.
    pub(super) fn value(&self) -> SessionValue {
        let ended = || SessionValue {
            owner: None,
            epoch: self.epoch,
            nonce: self.nonce,
            state: None,
            wills: Vec::new(),
        };
        SessionValue::decode(&self.bytes).unwrap_or_else(ended)
    }

    /// Whether it was written after what another process of the server has at the key, there.
    pub(super) fn is_behind(&self, sequence: Sequence, value: Option<&SessionValue>) -> bool {
        match value {
            Some(value) => {
                (value.epoch, value.nonce) != (self.epoch, self.nonce) && value.epoch <= self.epoch
            }
            None => sequence < self.sequence,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lately {
    by_client: HashMap<Arc<str>, Kept, RandomState>,
    /// In the order in which they were written; some were written anew since.
    order: VecDeque<(u64, Arc<str>)>,
    next: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    place: usize,
    life: Option<u32>,
    at: Timestamp,
    let_go: LetGo,
}

/// Bytes of all that is kept; the oldest go first.
const BYTES_MAX: usize = 1_024 * 1_024;
/// How long one is kept. So long a server may take to sync, too, if nobody tells it otherwise. Source: nats-server,
/// `sync_interval`.
const KEPT_FOR: Duration = SURE_FOR;
/// Places in line of those that were written anew since, beside one for each that is kept.
const SPARE: usize = 64;
/// Bytes of one beside its client id and its value, about.
const BYTES_EACH: usize = 160;

impl Lately {
    /// A session of the home at `place` was let go of, as process `life` of its server has acknowledged.
    pub(super) fn keep(
        &mut self,
        client_id: &Arc<str>,
        let_go: LetGo,
        (place, life): (usize, Option<u32>),
        now: Timestamp,
    ) {
        self.next += 1;
        let number = self.next;
        self.bytes += cost(client_id, &let_go);
        let kept = Kept { number, place, life, at: now, let_go };
        if let Some(before) = self.by_client.insert(client_id.clone(), kept) {
            self.bytes -= cost(client_id, &before.let_go);
        }
        self.order.push_back((number, client_id.clone()));
        while let Some((number, client_id)) = self.order.front() {
            let kept = self.by_client.get(client_id).filter(|kept| kept.number == *number);
            if kept.is_some_and(|kept| self.bytes <= BYTES_MAX && !kept.is_old(now)) {
                break;
            }
            if kept.is_some()
                && let Some(old) = self.by_client.remove(client_id)
            {
                self.bytes -= cost(client_id, &old.let_go);
            }
            self.order.pop_front();
        }
        if self.order.len() > 2 * self.by_client.len() + SPARE {
            let Self { order, by_client, .. } = self;
            order.retain(|(number, client_id)| {
                by_client.get(client_id).is_some_and(|kept| kept.number == *number)
            });
        }
    }

    /// What is kept of a client's session and was acknowledged by another process than `life`.
    pub(super) fn find(
        &self,
        client_id: &str,
        life: Option<u32>,
        now: Timestamp,
    ) -> Option<&LetGo> {
        let kept = self.by_client.get(client_id)?;
        (kept.life != life && !kept.is_old(now)).then_some(&kept.let_go)
    }

    /// All at a home that another process than `life` has acknowledged, in order: they are to be looked up.
    pub(super) fn due(
        &self,
        place: usize,
        life: Option<u32>,
        now: Timestamp,
    ) -> Vec<(Arc<str>, LetGo)> {
        let is_due = |kept: &Kept| kept.place == place && kept.life != life && !kept.is_old(now);
        let due = self.order.iter().filter_map(|(number, client_id)| {
            let kept = self.by_client.get(client_id)?;
            (kept.number == *number && is_due(kept))
                .then(|| (client_id.clone(), kept.remaining(now)))
        });
        due.collect()
    }
}

impl Kept {
    fn is_old(&self, now: Timestamp) -> bool {
        let lasts = self.let_go.time_to_live_s.map(|seconds| Duration::from_secs(seconds.into()));
        now >= self.at.after(lasts.map_or(KEPT_FOR, |lasts| lasts.min(KEPT_FOR)))
    }

    /// What is to be written now, which lives no longer for that.
    fn remaining(&self, now: Timestamp) -> LetGo {
        let gone_s = u32::try_from(now.millis_since(self.at) / 1_000).unwrap_or(u32::MAX);
        let time_to_live_s = self.let_go.time_to_live_s.map(|all| all.saturating_sub(gone_s));
        LetGo { time_to_live_s, ..self.let_go.clone() }
    }
}

fn cost(client_id: &str, let_go: &LetGo) -> usize {
    client_id.len() + let_go.bytes.len() + BYTES_EACH
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    fn let_go(bytes: usize) -> LetGo {
        let (sequence, bytes) = (Sequence(7), vec![0; bytes]);
        LetGo { sequence, epoch: 5, nonce: 9, bytes, time_to_live_s: None }
    }

    #[test]
    fn what_another_process_acknowledged_is_taken_as_long_as_it_may_be_lost() {
        let mut lately = Lately::default();
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        lately.keep(&one, let_go(3), (0, Some(1)), NOW);
        lately.keep(&two, LetGo { time_to_live_s: Some(60), ..let_go(4) }, (0, Some(1)), NOW);
        lately.keep(&one, let_go(5), (0, Some(1)), NOW);
        assert_eq!(lately.find("one", Some(1), NOW), None, "it is there");
        assert_eq!(lately.find("one", Some(2), NOW), Some(&let_go(5)));
        let later = NOW.after_seconds(59);
        let names = |lately: &Lately, place, life, now| {
            let taken = lately.due(place, life, now).into_iter();
            taken.map(|(name, one)| (name.to_string(), one.time_to_live_s)).collect::<Vec<_>>()
        };
        let both = [("two".to_owned(), Some(1)), ("one".to_owned(), None)];
        assert_eq!(names(&lately, 0, Some(2), later), both);
        assert_eq!(names(&lately, 0, Some(1), later), []);
        assert_eq!(names(&lately, 1, Some(2), later), []);
        assert_eq!(names(&lately, 0, Some(2), NOW.after_seconds(60)), both[1..]);
        assert_eq!(names(&lately, 0, Some(2), NOW.after(KEPT_FOR)), []);
        lately.keep(&two, let_go(1), (0, Some(1)), NOW.after(KEPT_FOR));
        assert_eq!((lately.by_client.len(), lately.order.len()), (1, 1));
        assert_eq!(lately.bytes, cost("two", &let_go(1)));
    }

    #[test]
    fn the_oldest_go_where_there_are_too_many() {
        let mut lately = Lately::default();
        for number in 0..10_000 {
            lately.keep(&format!("{number}").into(), let_go(1_000), (0, None), NOW);
            assert!(lately.bytes <= BYTES_MAX);
        }
        assert!(
            lately.find("9999", Some(1), NOW).is_some() && lately.find("0", Some(1), NOW).is_none()
        );
        assert_eq!(lately.order.len(), lately.by_client.len());
        for _ in 0..10_000 {
            lately.keep(&"9999".into(), let_go(1_000), (0, None), NOW);
        }
        assert!(lately.order.len() <= 2 * lately.by_client.len() + SPARE);
    }

    #[test]
    fn what_was_written_later_is_told_by_its_epoch() {
        let value = |epoch, nonce| SessionValue {
            owner: None,
            epoch,
            nonce,
            state: None,
            wills: Vec::new(),
        };
        let let_go = let_go(0);
        for (epoch, nonce, is_behind) in [(5, 9, false), (5, 8, true), (4, 9, true), (6, 1, false)]
        {
            let value = value(epoch, nonce);
            assert_eq!(let_go.is_behind(Sequence(3), Some(&value)), is_behind, "{epoch} {nonce}");
        }
        assert!(let_go.is_behind(Sequence::ZERO, None) && !let_go.is_behind(Sequence(8), None));
    }
}

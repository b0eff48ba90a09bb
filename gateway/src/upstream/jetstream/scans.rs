//! Answers to questions for stored messages, and who asked.

use super::direct_get::{Answer, InvalidAnswer};
use super::partition::{FeedStage, Partition, RETRY};
use super::place::outside;
use super::requests::{Claim, Purpose, Scan};
use super::retained::hash_of_payload;
use super::shard::{Deliver, JetStream, encoded, is_delivered};
use super::stored::Stored;
use crate::proto::nats::Message as NatsMessage;
use crate::proto::partition::Sequence;

impl JetStream {
    /// One message that answers a question for stored ones. Whether more are to come.
    pub(super) fn handle_scan(
        &mut self,
        place: usize,
        scan: &Scan,
        message: &NatsMessage<'_>,
        deliver: &mut Deliver<'_>,
    ) -> bool {
        let more = match scan.request().read(message.headers, message.payload) {
            Ok(Answer::Message(stored)) => {
                let more = self.handle_found(place, scan.purpose, &stored, message, deliver);
                if more && scan.last_only {
                    self.end_scan(place, scan.purpose, false, deliver);
                }
                return more && !scan.last_only;
            }
            Ok(Answer::End { pending_count, last_sequence, .. }) => {
                self.pass_over(place, scan.purpose, last_sequence);
                if scan.purpose == Purpose::Known
                    && let Some(partition) = self.partitions.get_mut(place)
                {
                    partition.known.note_backlog(pending_count);
                }
                pending_count > 0
            }
            Ok(Answer::NotFound) => false,
            Ok(answer @ (Answer::NoResponders | Answer::TooManyResults)) => {
                tracing::debug!(place, ?answer, "scan: no answer for now");
                self.fail_scan(place, scan.purpose);
                return false;
            }
            // Something that a native client has published, with headers that are none.
            Err(InvalidAnswer::NotStored(_)) => {
                self.counters.unreadable += 1;
                return true;
            }
            Err(fault) => {
                tracing::debug!(place, %fault, "scan: unreadable answer");
                self.fail_scan(place, scan.purpose);
                return false;
            }
        };
        let Some(partition) = self.partitions.get_mut(place) else {
            return false;
        };
        if !more && partition.may_lag(scan.purpose) {
            // Or what was to come has been removed: behind another mark that is known.
            partition.marks.want();
            self.fail_scan(place, scan.purpose);
            return false;
        }
        if more || !self.confirm_absent(place, scan) {
            self.end_scan(place, scan.purpose, more, deliver);
        }
        false
    }

    /// Everything that was asked for has come; with `more` there is more of it.
    pub(super) fn end_scan(
        &mut self,
        place: usize,
        purpose: Purpose,
        more: bool,
        deliver: &mut Deliver<'_>,
    ) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        match purpose {
            Purpose::Feed => {
                if let FeedStage::Reading { until, .. } = partition.feed.stage
                    && !more
                {
                    partition.feed.fed = until.max(partition.feed.fed);
                }
                self.read_on(place, deliver);
            }
            Purpose::First { replay } => self.begin(place, replay, None, deliver),
            Purpose::Lost => self.end_lost(place, None, deliver),
            Purpose::Check(number) => self.end_check(place, number, None),
            Purpose::Newest => {}
            Purpose::Retained(query) => self.end_retained(query, more),
            Purpose::Known => self.end_look(place, more),
            Purpose::RetainedLast(token) => self.replace_retained(place, token, None),
            Purpose::RetainedPlace(claim) => self.end_claim(place, claim, false),
            Purpose::Stored(publish) => self.end_search(place, publish, more),
            Purpose::Subject { .. } | Purpose::Page(_) | Purpose::Fetch { .. } => {
                partition.replays.take_end(purpose, more);
            }
        }
    }

    /// Everything up to `sequence` that was asked for has come, whatever it was.
    fn pass_over(&mut self, place: usize, purpose: Purpose, sequence: Sequence) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        match purpose {
            // What is behind the end is in the tail, or comes by itself.
            Purpose::Feed => {
                if let FeedStage::Reading { until, .. } = partition.feed.stage {
                    partition.feed.fed = sequence.next().min(until).max(partition.feed.fed);
                }
            }
            Purpose::Stored(publish) => partition.searches.reach(publish, sequence.next()),
            Purpose::Subject { .. }
            | Purpose::Page(_)
            | Purpose::Fetch { .. }
            | Purpose::First { .. }
            | Purpose::Retained(_)
            | Purpose::Known
            | Purpose::Lost
            | Purpose::Check(_)
            | Purpose::Newest
            | Purpose::RetainedLast(_)
            | Purpose::RetainedPlace(_) => partition.replays.pass_over(purpose, sequence),
        }
    }

    pub(super) fn fail_scan(&mut self, place: usize, purpose: Purpose) {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        match purpose {
            Purpose::Check(_) => partition.lives.ask_again(now.after(RETRY)),
            Purpose::Newest => {}
            Purpose::Feed | Purpose::Lost | Purpose::First { replay: None } => {
                partition.expect_mark();
                partition.marks.fail(now.after(RETRY));
            }
            Purpose::Retained(query) => self.out.retained_failed.extend(self.retained.fail(query)),
            Purpose::Known => {
                let waited = partition.known.fail(now.after(RETRY));
                self.go_on(place, waited);
            }
            Purpose::RetainedLast(token) | Purpose::RetainedPlace(Claim { token, .. }) => {
                partition.lane.retry_at(token, now.after(RETRY));
            }
            Purpose::Stored(publish) => partition.searches.fail(publish, now.after(RETRY)),
            Purpose::Subject { .. }
            | Purpose::Page(_)
            | Purpose::Fetch { .. }
            | Purpose::First { replay: Some(_) } => {
                partition.retry_scan(purpose, now);
            }
        }
    }

    /// A stored message that was asked for. Whether more are to come.
    fn handle_found(
        &mut self,
        place: usize,
        purpose: Purpose,
        stored: &Stored<'_>,
        message: &NatsMessage<'_>,
        deliver: &mut Deliver<'_>,
    ) -> bool {
        let is_of_topics = match purpose {
            Purpose::Stored(publish) => self.searched(publish).is_none_or(|one| !one.is_uplink),
            Purpose::Retained(_) | Purpose::Known | Purpose::RetainedLast(_) => false,
            // What is behind was not there when it was asked.
            Purpose::Lost | Purpose::Check(_) | Purpose::RetainedPlace(_) => false,
            _ => true,
        };
        if is_of_topics && let Some(partition) = self.partitions.get_mut(place) {
            partition.lives.note(stored.sequence, stored.stored_at);
        }
        match purpose {
            Purpose::Lost => {
                self.end_lost(place, Some(stored.sequence), deliver);
                return false;
            }
            Purpose::Check(number) => {
                self.end_check(place, number, Some(stored.sequence));
                return false;
            }
            Purpose::Newest => return false,
            Purpose::RetainedLast(token) => {
                let last = (stored.sequence, message.headers, message.payload);
                self.replace_retained(place, token, Some(last));
                return false;
            }
            Purpose::RetainedPlace(claim) => {
                let is_it = stored.sequence == claim.sequence
                    && hash_of_payload(message.payload) == claim.hash;
                self.end_claim(place, claim, is_it);
                return false;
            }
            Purpose::First { replay } => {
                self.begin(place, replay, Some(stored.sequence), deliver);
                return false;
            }
            Purpose::Retained(query) => {
                self.take_retained(place, query, stored, message);
                return true;
            }
            Purpose::Known => {
                if let Some(partition) = self.partitions.get_mut(place) {
                    let (is_cleared, bytes) = (message.payload.is_empty(), message.payload.len());
                    partition.known.take(stored.subject, stored.sequence, is_cleared, bytes);
                }
                return true;
            }
            Purpose::Stored(publish) => {
                return self.is_another(place, publish, stored, message.headers);
            }
            Purpose::Feed | Purpose::Subject { .. } | Purpose::Page(_) | Purpose::Fetch { .. } => {}
        }
        let sequence = stored.sequence;
        let is_feed = purpose == Purpose::Feed;
        if is_feed && let Some(partition) = self.partitions.get_mut(place) {
            // What is behind the end comes by itself, into the tail, where replays look for it.
            let is_live = !matches!(partition.feed.stage, FeedStage::Reading { until, .. } if sequence < until);
            if is_live || sequence < partition.feed.fed {
                return true;
            }
            partition.feed.fed = sequence.next();
        }
        self.pass_over(place, purpose, sequence);
        let id = self.partitions.get(place).map(|partition| partition.id);
        self.with_message(stored, message.headers, message.payload, |this, message| {
            if id.is_some_and(|id| this.ring.is_void(message.topic, id, sequence)) {
                return;
            }
            if is_feed {
                let is_new = |partition: &mut Partition| partition.is_new(sequence);
                if let Some(id) = id.filter(|_| is_delivered(message))
                    && this.partitions.get_mut(place).is_some_and(is_new)
                {
                    deliver(this, Some((id, outside(sequence))), message);
                }
            } else if let Some(partition) = this.partitions.get_mut(place)
                && is_delivered(message)
            {
                partition.replays.take_message(purpose, sequence, encoded(message));
            }
        });
        true
    }

    /// Whoever knew only from when on messages are wanted begins at the first of them.
    fn begin(
        &mut self,
        place: usize,
        replay: Option<u64>,
        first: Option<Sequence>,
        deliver: &mut Deliver<'_>,
    ) {
        match replay {
            None => self.begin_feed(place, first, deliver),
            Some(replay) => {
                if let Some(partition) = self.partitions.get_mut(place) {
                    partition.replays.begin(replay, first);
                }
            }
        }
    }
}

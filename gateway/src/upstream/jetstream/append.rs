//! Publishes that are stored: into the lane, to the server, and looked for where it is not known
//! what became of them.

use super::direct_get::Start;
use super::inbox::Token;
use super::lane::Append;
use super::lanes::LaneNumber;
use super::partition::{FeedStage, Search, message_of};
use super::place;
use super::publish::{MESSAGE_ID, PublishAnswer, read_publish_answer};
use super::requests::{Purpose, Scan};
use super::shard::JetStream;
use super::stored::Stored;
use crate::proto::nats::{Headers, Message as NatsMessage};
use crate::proto::partition::Sequence;
use crate::proto::record::{Message, MessageId};
use crate::proto::session::StoredWill;
use crate::proto::shard_state::AppendToken;
use std::mem;
use std::num::NonZeroU16;

/// Messages of a topic looked at at once for one that may have been stored before a crash.
const SEARCH_BATCH: u16 = 100;

impl JetStream {
    /// Stores a message.
    pub(super) fn append(&mut self, message: &Message<'_>) -> AppendToken {
        let id = self.next_message_id();
        self.append_named(message, id)
    }

    /// Stores a message that has a name.
    pub(super) fn append_named(&mut self, message: &Message<'_>, id: MessageId) -> AppendToken {
        let (place, token, send) = self.push(message, id, 0, true);
        let Self { partitions, stored, now, .. } = self;
        if let Some(partition) = partitions.get_mut(place).filter(|one| send && one.ready) {
            partition.send(token, stored, *now);
        }
        self.append_token(place, token)
    }

    /// Stores a will; the record of its client, if there is one, has it until then.
    pub(super) fn append_will(&mut self, message: &Message<'_>, will: &StoredWill) -> AppendToken {
        let client_id = message.publisher;
        let now = self.now;
        let is_noted =
            self.sessions.as_mut().is_some_and(|sessions| sessions.note_will(client_id, will, now));
        let (place, token, send) = self.push(message, will.id, 0, true);
        if is_noted {
            self.wills.insert((place, token), (client_id.into(), will.id));
        }
        let Self { partitions, stored, now, .. } = self;
        if let Some(partition) = partitions.get_mut(place).filter(|one| send && one.ready) {
            partition.send(token, stored, *now);
        }
        self.append_token(place, token)
    }

    /// Stores a message once `recorded` is committed.
    pub(super) fn append_recorded(
        &mut self,
        message: &Message<'_>,
        id: MessageId,
        recorded: AppendToken,
    ) -> AppendToken {
        let number = self.recording_lane(message.publisher);
        let (place, token, _) = self.push(message, id, number, false);
        self.intents.push(recorded, place, token);
        self.note_intent(message, place, token);
        self.append_token(place, token)
    }

    /// Stores a message unless it is there already, at `from` or later.
    pub(super) fn append_unless_stored(
        &mut self,
        message: &Message<'_>,
        id: MessageId,
        from: Sequence,
    ) -> AppendToken {
        let number = self.recording_lane(message.publisher);
        let (place, token, _) = self.push(message, id, number, false);
        self.note_intent(message, place, token);
        if let Some(partition) = self.partitions.get_mut(place) {
            partition.searches.push(Search::new(token, place::inside(from)));
        }
        self.append_token(place, token)
    }

    /// The lane of what is stored once something is recorded of the session of `client_id`. The node's own
    /// log is never away.
    fn recording_lane(&self, client_id: &str) -> LaneNumber {
        if self.has_sessions() { 1 + self.owner(client_id) as u64 } else { 0 }
    }

    fn push(
        &mut self,
        message: &Message<'_>,
        id: MessageId,
        number: LaneNumber,
        ready: bool,
    ) -> (usize, Token, bool) {
        let place = self.owner(message.topic);
        let mut body = Vec::with_capacity(message.encoded_bytes());
        message.encode(&mut body);
        let topic_hash = self.topic_hashes.hash_one(message.topic);
        let (sent, stored, pushed_at) = (None, None, self.now);
        let append = Append { body, id, topic_hash, ready, sent, stored, pushed_at };
        let now = self.now;
        let partition = self.partitions.get_mut(place).expect("the owner is a partition");
        let (token, send) = partition.lane.push(number, append, now);
        (place, token, send)
    }

    /// Looks for what may have been stored before a crash.
    pub(super) fn search(&mut self, place: usize) {
        let Self { partitions, stored, now, .. } = self;
        let Some(partition) = partitions.get_mut(place).filter(|one| one.ready) else {
            return;
        };
        let mut searches = mem::take(&mut partition.searches);
        for search in searches.iter_mut().filter(|one| !one.asked && one.retry_at <= *now) {
            let Some(append) = partition.lane.get(search.token) else {
                continue;
            };
            let mut subject = Vec::new();
            if stored.subject(message_of(&append.body).topic, &mut subject).is_ok() {
                search.asked = true;
                let (purpose, from) = (Purpose::Stored(search.token), search.next);
                let batch = NonZeroU16::new(SEARCH_BATCH).expect("not 0");
                let subject = Some(subject.into_boxed_slice());
                partition.ask(
                    Scan { purpose, from, subject, batch, last_only: false },
                    false,
                    *now,
                );
            }
        }
        searches.append(&mut partition.searches);
        partition.searches = searches;
    }

    /// A message with the topic of one that may have been stored before a crash. Whether it is not
    /// the one.
    pub(super) fn is_another(
        &mut self,
        place: usize,
        token: Token,
        stored: &Stored<'_>,
        headers: Headers<'_>,
    ) -> bool {
        let Some(partition) = self.partitions.get_mut(place) else {
            return false;
        };
        let id = partition.lane.get(token).map(|append| append.id.text());
        let is_it = id.is_some_and(|id| headers.get(MESSAGE_ID) == Some(&id[..]));
        if !is_it {
            let search = partition.searches.iter_mut().find(|search| search.token == token);
            if let Some(search) = search {
                search.next = Start::At(stored.sequence.next());
            }
            return true;
        }
        partition.searches.retain(|search| search.token != token);
        self.handle_stored(place, token, stored.sequence);
        false
    }

    /// All there is of a topic was looked at, or with `more` not yet.
    pub(super) fn end_search(&mut self, place: usize, token: Token, more: bool) {
        let Self { partitions, stored, now, .. } = self;
        let Some(partition) = partitions.get_mut(place) else {
            return;
        };
        if more {
            let search = partition.searches.iter_mut().find(|search| search.token == token);
            search.into_iter().for_each(|search| search.asked = false);
            return;
        }
        partition.searches.retain(|search| search.token != token);
        if partition.lane.make_ready(token, *now) && partition.ready {
            partition.send(token, stored, *now);
        }
    }

    /// A name for a message that is new.
    pub(super) fn next_message_id(&mut self) -> MessageId {
        self.next_message += 1;
        MessageId { origin: self.origin, number: self.next_message }
    }

    pub(super) fn handle_acknowledged(&mut self, place: usize, message: &NatsMessage<'_>) {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let Some(token) = partition.acks.token(message.subject) else {
            return;
        };
        match read_publish_answer(message.headers, message.payload) {
            Ok(PublishAnswer::Stored(ack)) => {
                partition.refused = 0;
                if partition.feed.stage == FeedStage::Live && !ack.is_duplicate {
                    // Everything before it was republished before it was acknowledged.
                    partition.feed.fed = ack.sequence.next().max(partition.feed.fed);
                }
                self.handle_stored(place, token, ack.sequence);
            }
            Ok(answer @ (PublishAnswer::Refused(_) | PublishAnswer::NoResponders)) => {
                self.counters.refused += 1;
                tracing::debug!(partition = partition.id.0, ?answer, "publish: refused for now");
                let again_at = partition.refused_until(now);
                partition.lane.retry_at(token, again_at);
            }
            Err(fault) => {
                tracing::debug!(partition = partition.id.0, %fault, "publish: unreadable answer");
            }
        }
    }

    /// A message is stored; one with the RETAIN flag is to be retained, too.
    fn handle_stored(&mut self, place: usize, token: Token, sequence: Sequence) {
        let append = self.partitions.get(place).and_then(|partition| partition.lane.get(token));
        if append.is_some_and(|append| message_of(&append.body).retain) {
            self.put_retained(place, token, sequence);
        } else {
            self.end_append(place, token, sequence);
        }
    }

    /// A publish is done with: the next of its topic goes out.
    pub(super) fn end_append(&mut self, place: usize, token: Token, sequence: Sequence) {
        let Self { partitions, stored, now, .. } = self;
        let Some(partition) = partitions.get_mut(place) else {
            return;
        };
        let next = partition.lane.end(token, sequence, *now);
        if let Some(next) = next.filter(|_| partition.ready) {
            partition.send(next, stored, *now);
        }
        let released = partition.lane.release(token);
        if !self.wills.is_empty()
            && let Some((client_id, id)) = self.wills.remove(&(place, token))
            && let Some(sessions) = &mut self.sessions
        {
            sessions.forget_will(&client_id, id, self.now);
        }
        if let Some(last) = released {
            self.out.appended.push(self.append_token(place, last));
        }
    }
}

//! Retained messages: a stream with one message a topic, beside the stream of each partition.
//!
//! ```text
//! message stored at S ─▶ what is retained now? ─▶ later than S: nothing to do
//!                                               └▶ earlier, or nothing: put, if it is still that ─▶ PUBACK
//! ```
//! What says that it was stored later may have been lost since, with the end of the stream, and S been given
//! again: so it is looked for in its place. That is rare, as otherwise only who publishes to the same topic at the
//! same time finds it.
//!
//! A cleared one stays for an hour as a message without payload, so that an older one cannot come
//! back. Source: MQTT 5.0 §3.3.1.3.

use super::direct_get::Start;
use super::inbox::Token;
use super::known::{Looked, Word};
use super::partition::{Kept, Partition, RETRY, message_of};
use super::place::outside;
use super::publish::{
    ApiError, PublishAnswer, RetainedPut, read_publish_answer, retained_from, retained_sequence,
};
use super::requests::{Claim, Pending, Purpose, Scan};
use super::shard::JetStream;
use super::stored::Stored;
use crate::proto::bridge::message_headers::read_message;
use crate::proto::nats::{Headers, Message as NatsMessage};
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::Record;
use crate::proto::routing::has_wildcard;
use crate::proto::shard_state::{RetainedMessage, RetainedPage};
use std::collections::HashMap;
use std::num::NonZeroU16;

/// Questions of new subscriptions for retained messages.
#[derive(Debug, Default)]
pub(super) struct RetainedQueries {
    queries: HashMap<u64, Query, ahash::RandomState>,
    /// The last that came; they are numbered in that order.
    last: u64,
}

#[derive(Debug)]
struct Query {
    filter: Box<str>,
    cursor: Cursor,
    walk: Walk,
    count_max: u32,
    /// A server was asked; otherwise it waits for a look of [`super::known`].
    is_asked: bool,
    found: Vec<RetainedMessage>,
}

/// The subjects of a filter in each partition are looked through one after the other, and all of them
/// a second time from where they ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Walk {
    /// Where those looked through so far have ended.
    First(Vec<Cursor>),
    /// Those that are still to be looked through, backwards.
    Second(Vec<Cursor>),
}

/// Where a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    /// Place of the partition.
    place: usize,
    /// Which of the filter's subjects.
    subject: usize,
    /// Of the stream of retained messages.
    from: Sequence,
}

impl Cursor {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(':').map(str::parse);
        let mut number = || numbers.next()?.ok();
        let (place, subject, from): (u64, u64, u64) = (number()?, number()?, number()?);
        let place = usize::try_from(place).ok()?;
        Some(Self { place, subject: usize::try_from(subject).ok()?, from: Sequence(from) })
    }

    fn text(self) -> String {
        format!("{}:{}:{}", self.place, self.subject, self.from.0)
    }
}

/// See [`Walk::step`].
enum Step {
    Next(Cursor, Walk),
    /// With where a second look begins, after the first.
    End(Option<Box<str>>),
}

impl Walk {
    /// Where a page begins, out of what [`Walk::text`] has made; with two signs that are in no number.
    fn parse(text: &str) -> Option<(Cursor, Self)> {
        let (text, is_second) = match text.strip_prefix(SECOND) {
            Some(text) => (text, true),
            None => (text, false),
        };
        let mut cursors = text.split(BETWEEN).map(Cursor::parse);
        let cursor = cursors.next()??;
        let others = cursors.collect::<Option<Vec<_>>>()?;
        Some((cursor, if is_second { Self::Second(others) } else { Self::First(others) }))
    }

    /// A subject was looked through up to `cursor`, or cannot be; `next` is behind it. The next has its
    /// turn.
    fn step(self, cursor: Cursor, next: Option<Cursor>) -> Step {
        match self {
            Self::First(mut seen) => {
                seen.push(cursor);
                if let Some(next) = next {
                    return Step::Next(next, Self::First(seen));
                }
                let first = seen.remove(0);
                seen.reverse();
                Step::End(Some(Self::Second(seen).text(first)))
            }
            Self::Second(mut open) => match open.pop() {
                Some(next) => Step::Next(next, Self::Second(open)),
                None => Step::End(None),
            },
        }
    }

    fn text(&self, cursor: Cursor) -> Box<str> {
        let (sign, others) = match self {
            Self::First(seen) => ("", seen),
            Self::Second(open) => (SECOND, open),
        };
        let mut text = format!("{sign}{}", cursor.text());
        for other in others {
            text.push(BETWEEN);
            text.push_str(&other.text());
        }
        text.into()
    }
}

const SECOND: &str = "again ";
const BETWEEN: char = ' ';

impl RetainedQueries {
    /// Where the next message of a question would be.
    pub(super) fn reached(&self, query: u64) -> Option<Sequence> {
        self.queries.get(&query).map(|query| query.cursor.from)
    }

    /// A question that cannot be answered, to be told.
    pub(super) fn fail(&mut self, query: u64) -> Option<u64> {
        self.queries.remove(&query).map(|_| query)
    }

    /// The questions that a lost link leaves unanswered.
    pub(super) fn lose(&mut self, place: usize) -> Vec<u64> {
        let lost = self.queries.iter().filter(|(_, query)| query.cursor.place == place);
        let lost: Vec<u64> = lost.map(|(id, _)| *id).collect();
        self.queries.retain(|id, _| !lost.contains(id));
        lost
    }
}

/// By which a payload is known again, within this process.
pub(super) fn hash_of_payload(payload: &[u8]) -> u64 {
    ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(payload)
}

impl JetStream {
    /// A message with the RETAIN flag is stored: looks at what is retained before it is put.
    ///
    /// `at` is where it is stored: in the partition at `place`, or in one that had the topic before.
    pub(super) fn put_retained(&mut self, place: usize, token: Token, at: (PartitionId, Sequence)) {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        partition.lane.note_stored(token, at, now);
        let Some(append) = partition.lane.get(token) else {
            return;
        };
        let mut subject = Vec::new();
        if partition.retained.subject(message_of(&append.body).topic, &mut subject).is_err() {
            // Longer than a subject may be, although the message's own is not.
            self.end_append(place, token, at.1);
            return;
        }
        let (purpose, batch) = (Purpose::RetainedLast(token), NonZeroU16::MIN);
        let subject = Some(subject.into_boxed_slice());
        let from = Start::At(Sequence(1));
        let scan = Scan { purpose, from, subject, batch, last_only: false };
        partition.ask(scan, Kept::Retained, now);
    }

    /// What is retained now is known: its place among the retained, and its headers.
    pub(super) fn replace_retained(
        &mut self,
        place: usize,
        token: Token,
        last: Option<(Sequence, Headers<'_>, &[u8])>,
    ) {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let Partition { id, lane, .. } = partition;
        let Some(append) = lane.get(token) else {
            return;
        };
        let Some(at) = append.stored else {
            return;
        };
        let message = message_of(&append.body);
        let is_later = |there: Headers<'_>| {
            let there = retained_from(there).or_else(|| Some((*id, retained_sequence(there)?)));
            there.is_some_and(|there| {
                self.ring.order(message.topic, there) >= self.ring.order(message.topic, at)
            })
        };
        let Some((retained_at, headers, payload)) = last else {
            self.write_retained(place, token, Sequence::ZERO);
            return;
        };
        if !is_later(headers) {
            self.write_retained(place, token, retained_at);
            return;
        }
        let here = retained_from(headers).is_none().then(|| retained_sequence(headers)).flatten();
        let Some(sequence) = here else {
            self.end_append(place, token, at.1);
            return;
        };
        let is_uplink = append.is_uplink;
        let (prefix, kept) = match is_uplink {
            true => (&self.stored.uplink, Kept::Uplink),
            false => (&self.stored.messages, Kept::Messages),
        };
        let mut subject = Vec::new();
        if prefix.subject(message.topic, &mut subject).is_err() {
            return;
        }
        let hash = hash_of_payload(payload);
        let claim = Claim { token, sequence, is_uplink, retained_at, hash };
        let purpose = Purpose::RetainedPlace(claim);
        let (from, subject) = (Start::At(sequence), Some(subject.into_boxed_slice()));
        let scan = Scan { purpose, from, subject, batch: NonZeroU16::MIN, last_only: false };
        partition.ask(scan, kept, now);
    }

    /// What says that it was stored later is there, or not.
    pub(super) fn end_claim(&mut self, place: usize, claim: Claim, is_there: bool) {
        let partition = self.partitions.get(place);
        let append = partition.and_then(|partition| partition.lane.get(claim.token));
        let Some((_, sequence)) = append.and_then(|append| append.stored) else {
            return;
        };
        match is_there {
            true => self.end_append(place, claim.token, sequence),
            false => self.write_retained(place, claim.token, claim.retained_at),
        }
    }

    /// Puts the message in the place of what is retained at `expected_last`.
    fn write_retained(&mut self, place: usize, token: Token, expected_last: Sequence) {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let Partition { id, lane, retained, answers, requests, out, .. } = partition;
        let Some(append) = lane.get(token) else {
            return;
        };
        let Some((partition, sequence)) = append.stored else {
            return;
        };
        let message = message_of(&append.body);
        let from = Some(partition).filter(|partition| partition != id);
        let (mut subject, mut reply) = (Vec::new(), Vec::new());
        let Ok(subject) = retained.subject(message.topic, &mut subject) else {
            return;
        };
        let request = requests.ask(Pending::RetainedPut(token), now);
        let reply_to = answers.reply_to(request, &mut reply);
        RetainedPut { subject, message: &message, sequence, from, expected_last }
            .encode(reply_to, now, out);
    }

    pub(super) fn handle_retained_put(
        &mut self,
        place: usize,
        token: Token,
        message: &NatsMessage<'_>,
    ) {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let Some(at) = partition.lane.get(token).and_then(|append| append.stored) else {
            return;
        };
        match read_publish_answer(message.headers, message.payload) {
            Ok(PublishAnswer::Stored(_)) => self.end_append(place, token, at.1),
            Ok(PublishAnswer::Refused(error))
                if error.err_code == ApiError::WRONG_LAST_SEQUENCE =>
            {
                // Somebody was faster.
                self.put_retained(place, token, at);
            }
            answer => {
                tracing::debug!(place, ?answer, "retained message: not stored for now");
                partition.lane.retry_at(token, now.after(RETRY));
            }
        }
    }

    /// A subscription asks for a page of retained messages.
    pub(super) fn ask_retained(&mut self, id: u64, filter: Box<str>, from: &str, count_max: u32) {
        let places = self.owners_of(&filter);
        let first = Cursor { place: places.start, subject: 0, from: Sequence(1) };
        let (mut cursor, mut walk) = Walk::parse(from).unwrap_or((first, Walk::First(Vec::new())));
        if !places.contains(&cursor.place) {
            // The topic has moved since.
            (cursor, walk) = (first, Walk::First(Vec::new()));
        }
        for place in places {
            self.partitions.get_mut(place).into_iter().for_each(|one| one.known.earn());
        }
        let (is_asked, found) = (false, Vec::new());
        self.retained.last = id;
        self.retained
            .queries
            .insert(id, Query { filter, cursor, walk, count_max, is_asked, found });
        self.proceed(id);
    }

    /// Takes a question past what is known to have nothing for it; asks, or lets it wait, where it ends.
    fn proceed(&mut self, id: u64) {
        while let Some(query) = self.retained.queries.get(&id) {
            let Cursor { place, subject, from } = query.cursor;
            let partition = self.partitions.get_mut(place).filter(|one| one.ready);
            let Some(partition) = partition else {
                self.pass_by(id);
                continue;
            };
            let mut buffer = Vec::new();
            let found = retained_subject(partition, &query.filter, subject, &mut buffer);
            let Some(subject) = found else {
                self.retained.queries.remove(&id);
                self.out.retained.push((id, RetainedPage::default()));
                return;
            };
            match partition.known.word(id, &subject, from, self.now) {
                Word::Nothing => {
                    self.counters.retained_known += 1;
                    let next = partition.known.next().max(from);
                    self.step(id, next);
                }
                Word::Something => {
                    self.ask_server(id, subject);
                    return;
                }
                Word::Wait => {
                    self.wait_for_looks(id, place);
                    return;
                }
            }
        }
    }

    /// The partition at which a question is, is away. Where others have some, too, it must not keep them
    /// back.
    fn pass_by(&mut self, id: u64) {
        let query = self.retained.queries.get(&id);
        if let Some(query) = query.filter(|query| has_wildcard(&query.filter))
            && self.partitions.len() > 1
        {
            let Cursor { place, from, .. } = query.cursor;
            let is_away = self.partitions.get(place).is_some_and(|one| one.is_configured);
            self.counters.retained_skipped += u64::from(is_away);
            self.step(id, from);
        } else {
            self.out.retained_failed.extend(self.retained.fail(id));
        }
    }

    /// A question is done with its subject at its place, up to `end`, without a message.
    fn step(&mut self, id: u64, end: Sequence) {
        let Some(Query { filter, cursor, walk, .. }) = self.retained.queries.get(&id) else {
            return;
        };
        let cursor = Cursor { from: end, ..*cursor };
        match walk.clone().step(cursor, self.next_subject(filter, cursor)) {
            Step::Next(cursor, walk) => {
                if let Some(query) = self.retained.queries.get_mut(&id) {
                    (query.cursor, query.walk) = (cursor, walk);
                }
            }
            Step::End(again) => {
                let found = self.retained.queries.remove(&id).map(|query| query.found);
                let messages = found.unwrap_or_default();
                self.out.retained.push((id, RetainedPage { messages, next: None, again }));
            }
        }
    }

    /// All that is still to be looked through is looked at at once.
    fn wait_for_looks(&mut self, id: u64, first: usize) {
        let now = self.now;
        let Some(query) = self.retained.queries.get(&id) else {
            return;
        };
        let others = match &query.walk {
            Walk::First(_) => (first + 1..self.owners_of(&query.filter).end).collect(),
            Walk::Second(open) => open.iter().map(|cursor| cursor.place).collect::<Vec<_>>(),
        };
        for place in [first].into_iter().chain(others) {
            if let Some(partition) = self.partitions.get_mut(place).filter(|one| one.ready)
                && (place == first || partition.known.is_open(id, now))
            {
                partition.known.wait(id);
            }
        }
    }

    /// Asks a server for what a question wants next.
    fn ask_server(&mut self, id: u64, subject: Box<[u8]>) {
        let now = self.now;
        let Some(query) = self.retained.queries.get_mut(&id) else {
            return;
        };
        let Some(partition) = self.partitions.get_mut(query.cursor.place) else {
            return;
        };
        query.is_asked = true;
        self.counters.retained_asked += 1;
        let batch = u16::try_from(query.count_max).ok().and_then(NonZeroU16::new);
        let (purpose, batch) = (Purpose::Retained(id), batch.unwrap_or(BATCH_MAX).min(BATCH_MAX));
        let last_only = !has_wildcard(&query.filter);
        let (from, subject) = (Start::At(query.cursor.from), Some(subject));
        let scan = Scan { purpose, from, subject, batch, last_only };
        partition.ask(scan, Kept::Retained, now);
    }

    /// Looks at what is new in a partition, if somebody waits for that.
    pub(super) fn look(&mut self, place: usize) {
        let now = self.now;
        let last = self.retained.last;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        if partition.ready && partition.known.is_due(now) {
            partition.ask_known(last, now);
        }
    }

    /// A look has brought all it asked for.
    pub(super) fn end_look(&mut self, place: usize, more: bool) {
        let (now, last) = (self.now, self.retained.last);
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        match partition.known.looked(more, now) {
            Looked::More => partition.ask_known(last, now),
            Looked::Over(waited) => self.go_on(place, waited),
        }
    }

    /// Questions that waited for a look at a partition go on, if they are there by now.
    pub(super) fn go_on(&mut self, place: usize, waited: Vec<u64>) {
        for id in waited {
            let query = self.retained.queries.get(&id);
            if query.is_some_and(|query| query.cursor.place == place && !query.is_asked) {
                self.proceed(id);
            }
        }
    }

    pub(super) fn take_retained(
        &mut self,
        place: usize,
        id: u64,
        stored: &Stored<'_>,
        message: &NatsMessage<'_>,
    ) {
        let Some(partition) = self.partitions.get(place) else {
            return;
        };
        let Some(query) = self.retained.queries.get_mut(&id) else {
            return;
        };
        if stored.sequence < query.cursor.from {
            // The last of its subject, which was seen before.
            return;
        }
        query.cursor.from = stored.sequence.next();
        let Some(sequence) = retained_sequence(message.headers) else {
            self.counters.unreadable += 1;
            return;
        };
        if message.payload.is_empty() {
            return;
        }
        let (mut topic, mut buffers) = Default::default();
        let Ok(topic) = partition.retained.topic(stored.subject, &mut topic) else {
            self.counters.unreadable += 1;
            return;
        };
        if self.ring.owner(topic) != partition.id {
            // It moved, and has a copy where it is now.
            return;
        }
        let received_at = stored.stored_at.timestamp();
        let read = read_message(topic, message.headers, message.payload, received_at, &mut buffers);
        let mut body = Vec::with_capacity(read.message.encoded_bytes());
        Record::Message(read.message).encode(&mut body);
        let (partition, sequence) =
            retained_from(message.headers).unwrap_or((partition.id, sequence));
        let sequence = outside(sequence);
        query.found.push(RetainedMessage { partition, sequence, body: body.into() });
    }

    /// A page is complete; with `more` its subject has more.
    pub(super) fn end_retained(&mut self, id: u64, more: bool) {
        let Some(Query { filter, cursor, walk, found: messages, .. }) =
            self.retained.queries.remove(&id)
        else {
            return;
        };
        let (next, again) = if more {
            (Some(walk.text(cursor)), None)
        } else {
            match walk.step(cursor, self.next_subject(&filter, cursor)) {
                Step::Next(cursor, walk) => (Some(walk.text(cursor)), None),
                Step::End(again) => (None, again),
            }
        };
        self.out.retained.push((id, RetainedPage { messages, next, again }));
    }

    /// The subject behind the one at `cursor`, there or in the next partition.
    fn next_subject(&self, filter: &str, cursor: Cursor) -> Option<Cursor> {
        let from = Sequence(1);
        let above = Cursor { subject: cursor.subject + 1, from, ..cursor };
        let partition = self.partitions.get(cursor.place)?;
        if retained_subject(partition, filter, above.subject, &mut Vec::new()).is_some() {
            return Some(above);
        }
        let place = cursor.place + 1;
        self.owners_of(filter).contains(&place).then_some(Cursor { place, subject: 0, from })
    }
}

/// The subject numbered `which` of a filter among the retained messages.
fn retained_subject(
    partition: &Partition,
    filter: &str,
    which: usize,
    buffer: &mut Vec<u8>,
) -> Option<Box<[u8]>> {
    let subjects = partition.retained.filter_subjects(filter, buffer).ok()?;
    let subject = match which {
        0 => Some(subjects.first),
        1 => subjects.parent,
        _ => None,
    };
    subject.map(|subject| subject.as_bytes().into())
}

/// Messages in a page at most.
const BATCH_MAX: NonZeroU16 = NonZeroU16::new(1_000).expect("not 0");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_text_and_back() {
        let cursor = Cursor { place: 2, subject: 1, from: Sequence(77) };
        assert_eq!(cursor.text(), "2:1:77");
        let other = Cursor { place: 3, subject: 0, from: Sequence(1) };
        for walk in [Walk::First(Vec::new()), Walk::First(vec![other]), Walk::Second(vec![other])] {
            assert_eq!(Walk::parse(&walk.text(cursor)), Some((cursor, walk)));
        }
        assert_eq!(Cursor::parse("2:1:77"), Some(cursor));
        for text in ["", "2", "2:1", "x:1:1", "2:1:-1"] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}

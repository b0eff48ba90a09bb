//! nats-server with the three JetStream streams of one partition, as a value: bytes in, bytes out.
//!
//! What a stream republishes and how it answers publishes leaves through one queue, in order;
//! answers to Direct Get leave by another way, PONG and messages of QoS 0 by a third. Publishes may wait in a
//! queue of their stream, although they are read, before they are stored. Whoever drives this says by
//! [`NatsServer::step`] what happens next.
//!
//! Source: NATS client protocol; nats-server 2.15.1, whose answers `tests/it/nats` reads.

use crate::simulation::random::Random;
use gateway::proto::nats::json::{self, Value, decimal};
use gateway::proto::nats::{Headers, subject_matches};
use gateway::proto::time::Timestamp;
use gateway::upstream::jetstream::stored::StoreTime;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

/// A connection, as whoever made it numbers them.
pub(crate) type ClientId = u64;

/// See the module.
pub(crate) struct NatsServer {
    number: u16,
    now: Timestamp,
    pub(crate) messages: Stream,
    pub(crate) retained: Stream,
    pub(crate) sessions: Stream,
    /// Without it nobody listens to the subjects of the streams.
    pub(crate) has_streams: bool,
    /// Answers to Direct Get do not know so many of the last messages: a follower gives them.
    pub(crate) lag: u64,
    /// A batch has no more messages than these, however many were asked for.
    pub(crate) batch_max: u64,
    clients: BTreeMap<ClientId, Client>,
    /// Publishes are stored some time after they were read.
    pub(crate) stores_late: bool,
    /// Of each stream: what was read and is not stored yet, in order.
    inbound: [VecDeque<Inbound>; STREAMS],
    /// Of each stream: what is republished and answered, in order.
    queues: [VecDeque<Delivery>; STREAMS],
    /// Direct Gets that were not looked up yet.
    asked: Vec<Read>,
    /// Answers to Direct Gets, each in order.
    answered: Vec<VecDeque<Delivery>>,
    /// How many Direct Gets were answered.
    pub(crate) read_count: u64,
    pub(crate) elections: u64,
    restart_count: u64,
    /// When the stream of messages was made.
    pub(crate) created: u64,
}

#[derive(Default)]
struct Client {
    received: Vec<u8>,
    out: Vec<u8>,
    /// It gets what it publishes itself.
    echo: bool,
    subscriptions: Vec<(u64, Vec<u8>)>,
}

/// A message on its way to whoever subscribes to its subject by then.
struct Delivery {
    subject: Vec<u8>,
    headers: Vec<u8>,
    payload: Vec<u8>,
}

/// A publish that was read.
struct Inbound {
    subject: Vec<u8>,
    reply_to: Option<Vec<u8>>,
    headers: Vec<u8>,
    payload: Vec<u8>,
}

struct Read {
    stream: usize,
    /// The leader is asked, not any server.
    of_leader: bool,
    /// How the stream is.
    is_info: bool,
    reply_to: Vec<u8>,
    body: Vec<u8>,
}

/// What one stream keeps.
pub(crate) struct Stream {
    name: String,
    /// In front of the subjects of what it republishes.
    live_prefix: Option<String>,
    /// It keeps the last message of each subject only.
    is_last_only: bool,
    pub(crate) kept: BTreeMap<u64, StoredMessage>,
    pub(crate) last: u64,
    /// When that was stored.
    last_at: Timestamp,
    /// Everything up to here outlives a crash that loses the tail; and when that was stored.
    synced: u64,
    synced_at: Timestamp,
    /// Removed since, by later messages of their subjects.
    superseded: Vec<(u64, StoredMessage)>,
    /// `Nats-Msg-Id`, with place and time.
    ids: BTreeMap<Vec<u8>, (u64, Timestamp)>,
    pub(crate) duplicate_window_ms: u64,
    /// `discard: new`: more messages than these are refused.
    pub(crate) count_max: u64,
}

/// A message that is stored.
#[derive(Clone)]
pub(crate) struct StoredMessage {
    pub(crate) subject: Vec<u8>,
    /// Without the empty line at the end.
    pub(crate) headers: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    at: Timestamp,
    expires_at: Timestamp,
}

impl StoredMessage {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        Headers::from_block(&self.headers).get(name)
    }
}

impl Stream {
    fn new(name: String, live_prefix: Option<String>) -> Self {
        Self {
            name,
            is_last_only: live_prefix.is_none(),
            live_prefix,
            kept: BTreeMap::new(),
            last: 0,
            last_at: Timestamp::START,
            synced: 0,
            synced_at: Timestamp::START,
            superseded: Vec::new(),
            ids: BTreeMap::new(),
            duplicate_window_ms: 120_000,
            count_max: u64::MAX,
        }
    }

    /// The first sequence that is still kept.
    pub(crate) fn first(&self) -> u64 {
        self.kept.keys().next().copied().unwrap_or(self.last + 1)
    }

    /// When a message was stored that is kept, or the last one.
    pub(crate) fn stored_at(&self, sequence: u64) -> Option<StoreTime> {
        let kept = self.kept.get(&sequence).map(|message| message.at);
        let is_last = sequence == self.last && sequence > 0;
        let at = kept.or_else(|| is_last.then_some(self.last_at))?;
        Some(StoreTime(at.0 * 1_000_000))
    }

    /// What it keeps, to print.
    pub(crate) fn shown(&self) -> Vec<String> {
        let one = |(sequence, message): (&u64, &StoredMessage)| {
            let (subject, headers) =
                (message.subject.escape_ascii(), message.headers.escape_ascii());
            format!("{sequence} {subject}: {headers} {}", message.payload.escape_ascii())
        };
        self.kept.iter().map(one).collect()
    }

    /// Records of sessions that it keeps, to print.
    pub(crate) fn records(&self) -> Vec<String> {
        let kept = self.kept.values();
        let records = kept.filter(|one| !one.payload.is_empty());
        let records = records.map(|one| one.subject.escape_ascii().to_string());
        records.filter(|subject| subject.contains(".client")).collect()
    }

    /// Whoever changes the ring writes a copy of a retained message in the place of one that `is_earlier`, or
    /// of none. What it is of is told by `from`.
    pub(crate) fn copy(
        &mut self,
        subject: &[u8],
        from: &str,
        message: &StoredMessage,
        is_earlier: impl Fn(&StoredMessage) -> bool,
    ) {
        let there = self.kept.iter().find(|(_, one)| one.subject == subject);
        let place = there.map(|(sequence, _)| *sequence);
        if there.is_some_and(|(_, one)| !is_earlier(one)) {
            return;
        }
        place.and_then(|place| self.kept.remove(&place));
        self.last += 1;
        let text = String::from_utf8(message.headers.clone()).unwrap();
        let is_kept = |line: &&str| !line.starts_with("Nats-") && !line.starts_with("Gateway-");
        let mut headers: String = text.split_inclusive("\r\n").filter(is_kept).collect();
        headers.push_str(&format!("Gateway-Sequence: 0\r\nGateway-From: {from}\r\n"));
        let copy = StoredMessage {
            subject: subject.to_vec(),
            headers: headers.into_bytes(),
            ..message.clone()
        };
        self.kept.insert(self.last, copy);
    }

    /// And clears one that it knows to be stale.
    pub(crate) fn clear(&mut self, sequence: u64, from: &str) {
        if let Some(stale) = self.kept.get(&sequence).cloned() {
            let cleared = StoredMessage { payload: Vec::new(), ..stale.clone() };
            self.copy(&stale.subject, from, &cleared, |_| true);
        }
    }

    /// What was written so far is on the disk.
    pub(crate) fn sync(&mut self) {
        (self.synced, self.synced_at) = (self.last, self.last_at);
        self.superseded.clear();
    }

    /// What was lost, by the first bytes of the payload.
    fn lose_tail(&mut self) -> Vec<u64> {
        let lost = self.kept.range(self.synced + 1..).map(|(_, message)| message);
        let lost = lost.filter_map(|message| message.payload.first_chunk());
        let lost = lost.map(|head| u64::from_le_bytes(*head)).collect();
        self.kept.retain(|sequence, _| *sequence <= self.synced);
        let back = self.superseded.drain(..).filter(|(sequence, _)| *sequence <= self.synced);
        self.kept.extend(back);
        self.ids.retain(|_, (sequence, _)| *sequence <= self.synced);
        (self.last, self.last_at) = (self.synced, self.synced_at);
        lost
    }

    fn expire(&mut self, now: Timestamp) {
        self.kept.retain(|_, message| message.expires_at > now);
        let window_ms = self.duplicate_window_ms;
        self.ids.retain(|_, (_, at)| now.millis_since(*at) < window_ms);
    }

    /// The answer to a publish, and what is republished before it.
    fn publish(
        &mut self,
        subject: &[u8],
        headers: &[u8],
        payload: &[u8],
        now: Timestamp,
    ) -> (String, Option<Delivery>) {
        let read = Headers::from_block(headers);
        let number = |name: &str| read.get(name).and_then(decimal);
        let name = self.name.clone();
        let id = read.get("Nats-Msg-Id");
        if let Some((sequence, _)) = id.and_then(|id| self.ids.get(id)) {
            return (format!(r#"{{"stream":"{name}","seq":{sequence},"duplicate": true}}"#), None);
        }
        let refused = |code, err_code, text: &str| {
            let error = format!(
                r#"{{"code":{code},"err_code":{err_code},"description":"{text}"}},"stream":"{name}","seq":0"#
            );
            (format!(r#"{{"error":{error}}}"#), None)
        };
        let of_subject = |one: &&StoredMessage| one.subject == subject;
        let last_of_subject = self.kept.iter().rev().find(|(_, one)| of_subject(one));
        let last_of_subject = last_of_subject.map_or(0, |(sequence, _)| *sequence);
        for (header, last) in [
            ("Nats-Expected-Last-Sequence", self.last),
            ("Nats-Expected-Last-Subject-Sequence", last_of_subject),
        ] {
            if number(header).is_some_and(|expected| expected != last) {
                return refused(400, 10_071, &format!("wrong last sequence: {last}"));
            }
        }
        if self.kept.len() as u64 >= self.count_max {
            return refused(503, 10_077, "maximum messages exceeded");
        }
        (self.last, self.last_at) = (self.last + 1, now);
        let sequence = self.last;
        if self.is_last_only
            && let Some(earlier) = self.kept.remove(&last_of_subject)
        {
            self.superseded.push((last_of_subject, earlier));
        }
        let time_to_live_s = number("Nats-TTL").unwrap_or_else(|| u64::from(u32::MAX));
        let message = StoredMessage {
            subject: subject.to_vec(),
            headers: opened(headers),
            payload: payload.to_vec(),
            at: now,
            expires_at: Timestamp(now.0 + time_to_live_s * 1_000),
        };
        if let Some(id) = id {
            self.ids.insert(id.to_vec(), (sequence, now));
        }
        let republished = self.live_prefix.as_ref().map(|prefix| Delivery {
            subject: [prefix.as_bytes(), subject].concat(),
            headers: self.placed(
                sequence,
                &message,
                &format!("Nats-Last-Sequence: {last_of_subject}\r\n"),
            ),
            payload: payload.to_vec(),
        });
        if std::env::var_os("TRACE").is_some() {
            let id = payload.first().copied().unwrap_or_default();
            eprintln!("{name}: {sequence} is {id} on {}", subject.escape_ascii());
        }
        self.kept.insert(sequence, message);
        (format!(r#"{{"stream":"{name}","seq":{sequence}}}"#), republished)
    }

    /// The headers with which a stored message is delivered.
    fn placed(&self, sequence: u64, message: &StoredMessage, more: &str) -> Vec<u8> {
        let mut headers = message.headers.clone();
        let text = format!(
            "Nats-Stream: {}\r\nNats-Subject: {}\r\nNats-Sequence: {sequence}\r\n\
             Nats-Time-Stamp: {}\r\n{more}\r\n",
            self.name,
            String::from_utf8_lossy(&message.subject),
            time_stamp(message.at),
        );
        headers.extend_from_slice(text.as_bytes());
        headers
    }

    /// The answer to `STREAM.MSG.GET`.
    fn get(&self, body: &[u8]) -> String {
        let (mut from, mut next, mut last) = (1, None, None);
        json::members(body, |key, value| match key {
            "seq" => from = value.u64().unwrap(),
            "next_by_subj" => next = value.text(),
            "last_by_subj" => last = value.text(),
            _ => panic!("{key} in a question to the leader"),
        })
        .unwrap();
        let of = |filter: &String| {
            let mut found = self.kept.range(from..);
            let filter = filter.as_bytes().to_vec();
            std::iter::from_fn(move || {
                found.by_ref().find(|(_, one)| subject_matches(&filter, &one.subject))
            })
        };
        let found =
            next.as_ref().map_or_else(|| of(last.as_ref().unwrap()).last(), |next| of(next).next());
        let Some((sequence, message)) = found else {
            let error = r#"{"code":404,"err_code":10037,"description":"no message found"}"#;
            return format!(r#"{{"error":{error}}}"#);
        };
        let (subject, at) = (String::from_utf8_lossy(&message.subject), time_stamp(message.at));
        let message = format!(r#"{{"subject":"{subject}","seq":{sequence},"time":"{at}"}}"#);
        format!(r#"{{"message":{message}}}"#)
    }

    /// The answers to a Direct Get, as the stream is up to `end`.
    fn read(&self, read: &Read, end: u64, batch_max: u64) -> VecDeque<Delivery> {
        let (mut from, mut batch, mut filter, mut is_last) = (1, None, None, false);
        let mut since = StoreTime(0);
        json::members(&read.body, |key, value| match key {
            "seq" => from = value.u64().unwrap(),
            "start_time" => since = StoreTime::parse(value.text().unwrap().as_bytes()).unwrap(),
            "batch" => batch = value.u64(),
            "next_by_subj" => filter = value.text(),
            "last_by_subj" => (filter, is_last) = (value.text(), true),
            "max_bytes" => {}
            _ => panic!("{key} in a Direct Get"),
        })
        .unwrap();
        let answer = |headers: Vec<u8>, payload: &[u8]| Delivery {
            subject: read.reply_to.clone(),
            headers,
            payload: payload.to_vec(),
        };
        let wanted = |message: &StoredMessage| {
            filter
                .as_ref()
                .is_none_or(|filter| subject_matches(filter.as_bytes(), &message.subject))
        };
        let from_there = self.kept.range(from..);
        let reached = from_there
            .filter(|(at, one)| **at <= end && one.at.0 * 1_000_000 >= since.0 && wanted(one));
        let mut all: Vec<_> = reached.collect();
        if is_last {
            all = all.pop().into_iter().collect();
        }
        let count = usize::try_from(batch.unwrap_or(1).min(batch_max)).unwrap().min(all.len());
        let mut answers = VecDeque::new();
        let mut last = 0;
        for (place, &(sequence, message)) in all.iter().take(count).enumerate() {
            let pending = all.len() - place - 1;
            let in_batch = format!("Nats-Num-Pending: {pending}\r\nNats-Last-Sequence: {last}\r\n");
            let more = if batch.is_some() { &in_batch } else { "" };
            answers.push_back(answer(self.placed(*sequence, message, more), &message.payload));
            last = *sequence;
        }
        if answers.is_empty() {
            answers.push_back(answer(b"NATS/1.0 404 Message Not Found\r\n\r\n".to_vec(), b""));
        } else if batch.is_some() {
            let pending = all.len() - count;
            let end = format!(
                "NATS/1.0 204 EOB\r\nNats-Num-Pending: {pending}\r\nNats-Last-Sequence: {last}\r\n\r\n"
            );
            answers.push_back(answer(end.into_bytes(), b""));
        }
        answers
    }
}

impl NatsServer {
    /// The one of partition `number`, without messages.
    pub(crate) fn new(number: u16) -> Self {
        let live = Some(format!("live.{number}."));
        Self {
            number,
            now: Timestamp::START,
            messages: Stream::new(format!("MQTT_{number}"), live),
            retained: Stream::new(format!("MQTT_RETAINED_{number}"), None),
            sessions: Stream::new(format!("MQTT_SESSIONS_{number}"), None),
            has_streams: true,
            lag: 0,
            batch_max: u64::MAX,
            clients: BTreeMap::new(),
            stores_late: false,
            inbound: Default::default(),
            queues: Default::default(),
            asked: Vec::new(),
            answered: Vec::new(),
            read_count: 0,
            elections: 0,
            restart_count: 0,
            created: 1,
        }
    }

    /// The time of what happens next.
    pub(crate) fn set_now(&mut self, now: Timestamp) {
        self.now = now;
        self.messages.expire(now);
        self.retained.expire(now);
        self.sessions.expire(now);
    }

    /// The time, to print.
    pub(crate) fn shown_time(&self) -> String {
        time_stamp(self.now)
    }

    /// What INFO says of the process.
    pub(crate) fn server_id(&self) -> String {
        format!("N{}B{}", self.number, self.restart_count)
    }

    /// A client connects.
    pub(crate) fn open(&mut self, id: ClientId) {
        let info = format!(
            r#"INFO {{"server_id":"{}","server_name":"n{}","version":"2.15.1","headers":true,"max_payload":1048576,"jetstream":true}} "#,
            self.server_id(),
            self.number
        );
        let out = format!("{info}\r\n").into_bytes();
        self.clients.insert(id, Client { out, echo: true, ..Client::default() });
    }

    /// A client is gone.
    pub(crate) fn close(&mut self, id: ClientId) {
        self.clients.remove(&id);
    }

    /// The process ends, and begins again. What was on its way is lost; with `loses_tail` also what
    /// was not synced: the messages lost, by the first bytes of their payload.
    pub(crate) fn restart(&mut self, loses_tail: bool) -> Vec<u64> {
        self.restart_count += 1;
        self.clients.clear();
        self.inbound = Default::default();
        self.queues = Default::default();
        self.asked.clear();
        self.answered.clear();
        if !loses_tail {
            return Vec::new();
        }
        self.retained.lose_tail();
        self.sessions.lose_tail();
        self.messages.lose_tail()
    }

    /// A backup is put back while the server runs: what was not synced is not in it.
    pub(crate) fn restore(&mut self) {
        self.created += 1;
        self.queues = Default::default();
        self.messages.lose_tail();
    }

    /// Another server takes over, and this one again: what the stream had stored and not yet sent,
    /// nobody sends.
    pub(crate) fn elect(&mut self) {
        self.queues = Default::default();
        self.elections += 1;
    }

    /// Direct Gets that were not looked up yet.
    pub(crate) fn asked_count(&self) -> usize {
        self.asked.len()
    }

    /// How many subscriptions all clients have.
    pub(crate) fn subscription_count(&self) -> usize {
        self.clients.values().map(|client| client.subscriptions.len()).sum()
    }

    /// What is to be sent to a client.
    pub(crate) fn take(&mut self, id: ClientId) -> Vec<u8> {
        self.clients.get_mut(&id).map(|client| std::mem::take(&mut client.out)).unwrap_or_default()
    }

    /// A client sent bytes.
    pub(crate) fn receive(&mut self, id: ClientId, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.received.extend_from_slice(bytes);
        let received = std::mem::take(&mut client.received);
        let mut at = 0;
        while let Some(length) = self.operation(id, &received[at..]) {
            at += length;
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.received = received[at..].to_vec();
        }
    }

    /// Performs the first operation; its length, `None` when it is not complete.
    fn operation(&mut self, id: ClientId, bytes: &[u8]) -> Option<usize> {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let line = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut fields = line.split(' ');
        let name = fields.next().unwrap();
        let fields: Vec<&str> = fields.collect();
        let client = self.clients.get_mut(&id).unwrap();
        match (name, fields.as_slice()) {
            ("CONNECT", [options]) => json::members(options.as_bytes(), |key, value| {
                if key == "echo" {
                    client.echo = value.bool().unwrap();
                }
                let needed = ["headers", "no_responders"].contains(&key);
                assert!(!needed || value == Value::Bool(true), "{key}");
            })
            .unwrap(),
            ("PING", []) => client.out.extend_from_slice(b"PONG\r\n"),
            ("PONG", []) => {}
            ("SUB", [subject, sid]) => {
                let sid = sid.parse().unwrap();
                assert!(client.subscriptions.iter().all(|(other, _)| *other != sid), "{line}");
                client.subscriptions.push((sid, subject.as_bytes().to_vec()));
            }
            ("UNSUB", [sid]) => {
                let sid: u64 = sid.parse().unwrap();
                client.subscriptions.retain(|(other, _)| *other != sid);
            }
            ("PUB" | "HPUB", [subject, rest @ .., total]) => {
                let total: usize = total.parse().unwrap();
                let (reply_to, header_bytes) = match (name, rest) {
                    ("PUB", rest) => (rest.first(), 0),
                    (_, [reply_to, bytes]) => (Some(reply_to), bytes.parse().unwrap()),
                    (_, [bytes]) => (None, bytes.parse().unwrap()),
                    _ => panic!("{line}"),
                };
                let body = bytes.get(end + 2..end + 2 + total)?;
                bytes.get(end + 2 + total..end + 4 + total)?;
                let (headers, payload) = body.split_at(header_bytes);
                let reply_to = reply_to.map(|text| text.as_bytes());
                self.publish(id, subject.as_bytes(), reply_to, headers, payload);
                return Some(end + 4 + total);
            }
            _ => panic!("{line}"),
        }
        Some(end + 2)
    }

    fn publish(
        &mut self,
        from: ClientId,
        subject: &[u8],
        reply_to: Option<&[u8]>,
        headers: &[u8],
        payload: &[u8],
    ) {
        let stream = self.stream_of(subject);
        let direct = subject.strip_prefix(b"$JS.API.DIRECT.GET.");
        let info = subject.strip_prefix(b"$JS.API.STREAM.INFO.");
        let read = direct.or_else(|| subject.strip_prefix(b"$JS.API.STREAM.MSG.GET.")).or(info);
        if !self.has_streams && (stream.is_some() || read.is_some()) {
            self.say_nobody_listens(subject, reply_to.expect("streams answer"));
        } else if let Some(name) = read {
            let mut streams =
                (0..STREAMS).filter(|which| self.stream(*which).name.as_bytes() == name);
            let stream = streams.next().expect("a stream that is there");
            let reply_to = reply_to.expect("a question").to_vec();
            let (of_leader, is_info, body) = (direct.is_none(), info.is_some(), payload.to_vec());
            self.asked.push(Read { stream, of_leader, is_info, reply_to, body });
        } else if let Some(which) = stream {
            let (subject, reply_to) = (subject.to_vec(), reply_to.map(<[u8]>::to_vec));
            let (headers, payload) = (headers.to_vec(), payload.to_vec());
            self.inbound[which].push_back(Inbound { subject, reply_to, headers, payload });
            if !self.stores_late {
                while self.store(which) {}
            }
        } else {
            let is_heard = self.deliver(Some(from), subject, reply_to, headers, payload);
            if let Some(reply_to) = reply_to.filter(|_| !is_heard) {
                self.say_nobody_listens(subject, reply_to);
            }
        }
    }

    /// All that was read is stored.
    pub(crate) fn store_all(&mut self) {
        (0..STREAMS).for_each(|which| while self.store(which) {});
    }

    /// Publishes to all streams that were read and are not stored yet.
    pub(crate) fn unstored(&self) -> usize {
        self.inbound.iter().map(VecDeque::len).sum()
    }

    /// Stores the first of what was read for a stream. False when there is none.
    fn store(&mut self, which: usize) -> bool {
        let Some(Inbound { subject, reply_to, headers, payload }) = self.inbound[which].pop_front()
        else {
            return false;
        };
        let now = self.now;
        let (answer, republished) =
            self.stream_mut(which).publish(&subject, &headers, &payload, now);
        let queue = &mut self.queues[which];
        queue.extend(republished);
        queue.extend(reply_to.map(|subject| {
            let (headers, payload) = (Vec::new(), answer.into_bytes());
            Delivery { subject, headers, payload }
        }));
        true
    }

    /// Which stream listens to a subject.
    fn stream_of(&self, subject: &[u8]) -> Option<usize> {
        let retained = format!("retained.{}.", self.number);
        let sessions = format!("sessions.{}.", self.number);
        let prefixes = [(0, "mqtt."), (0, "mqtt$."), (1, &retained), (2, &sessions)];
        let mut found =
            prefixes.iter().filter(|(_, prefix)| subject.starts_with(prefix.as_bytes()));
        found.next().map(|(which, _)| *which)
    }

    fn stream(&self, which: usize) -> &Stream {
        [&self.messages, &self.retained, &self.sessions][which]
    }

    fn stream_mut(&mut self, which: usize) -> &mut Stream {
        let Self { messages, retained, sessions, .. } = self;
        [messages, retained, sessions].into_iter().nth(which).expect("one of three")
    }

    fn say_nobody_listens(&mut self, subject: &[u8], reply_to: &[u8]) {
        let text = format!("NATS/1.0 503\r\nNats-Subject: {}\r\n\r\n", subject.escape_ascii());
        self.deliver(None, reply_to, None, text.as_bytes(), b"");
    }

    /// Whether anyone was there.
    fn deliver(
        &mut self,
        from: Option<ClientId>,
        subject: &[u8],
        reply_to: Option<&[u8]>,
        headers: &[u8],
        payload: &[u8],
    ) -> bool {
        let mut is_heard = false;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        for (id, client) in &mut self.clients {
            if Some(*id) == from && !client.echo {
                continue;
            }
            let Client { subscriptions, out, .. } = client;
            for (sid, filter) in subscriptions.iter() {
                if !subject_matches(filter, subject) {
                    continue;
                }
                is_heard = true;
                let mut line = format!("{} {sid}", text(subject));
                if let Some(reply_to) = reply_to {
                    write!(line, " {}", text(reply_to)).unwrap();
                }
                let line = match headers.len() {
                    0 => format!("MSG {line} {}\r\n", payload.len()),
                    length => format!("HMSG {line} {length} {}\r\n", length + payload.len()),
                };
                for part in [line.as_bytes(), headers, payload, b"\r\n"] {
                    out.extend_from_slice(part);
                }
            }
        }
        is_heard
    }

    /// Lets one of the things leave that can. False when there is none.
    pub(crate) fn step(&mut self, random: &mut Random) -> bool {
        let late = (0..STREAMS).filter(|which| !self.inbound[*which].is_empty());
        let late: Vec<usize> = late.collect();
        let full = (0..STREAMS).filter(|which| !self.queues[*which].is_empty());
        let full: Vec<usize> = full.collect();
        let queues = full.len();
        let choices = queues + self.asked.len() + self.answered.len() + late.len();
        if choices == 0 {
            return false;
        }
        let choice = usize::try_from(random.below(choices as u64)).unwrap();
        if let Some(which) = late.get(choices - 1 - choice) {
            self.store(*which)
        } else if choice < queues {
            self.step_stream(full[choice])
        } else if choice < queues + self.asked.len() {
            self.look_up(choice - queues)
        } else {
            self.step_answer(choice - queues - self.asked.len())
        }
    }

    /// Lets one message or answer of a stream leave: 0 for messages, 1 for the retained ones, 2 for
    /// sessions.
    pub(crate) fn step_stream(&mut self, stream: usize) -> bool {
        let Some(delivery) = self.queues[stream].pop_front() else { return false };
        self.hand_out(&delivery);
        true
    }

    /// Looks a Direct Get up, of which the answers do not leave yet.
    pub(crate) fn look_up(&mut self, which: usize) -> bool {
        if which >= self.asked.len() {
            return false;
        }
        let read = self.asked.remove(which);
        let stream = self.stream(read.stream);
        let end = stream.last.saturating_sub(self.lag);
        let answers = match read.of_leader {
            true => VecDeque::from([Delivery {
                subject: read.reply_to.clone(),
                headers: Vec::new(),
                payload: match read.is_info {
                    true => format!(r#"{{"state":{{"last_seq":{}}}}}"#, stream.last).into_bytes(),
                    false => stream.get(&read.body).into_bytes(),
                },
            }]),
            false => stream.read(&read, end, self.batch_max),
        };
        if std::env::var_os("TRACE").is_some() {
            let (name, body) = (&stream.name, read.body.escape_ascii());
            eprintln!("{name}: {body} for {}: {}", read.reply_to.escape_ascii(), answers.len());
        }
        self.answered.push(answers);
        // Others' leases are looked at for ever.
        let is_lease = read.body.windows(7).any(|text| text == b".lease.");
        self.read_count += u64::from(!is_lease);
        true
    }

    /// Lets one answer to a Direct Get that was looked up leave.
    pub(crate) fn step_answer(&mut self, which: usize) -> bool {
        let Some(answers) = self.answered.get_mut(which) else { return false };
        let delivery = answers.pop_front();
        if answers.is_empty() {
            self.answered.remove(which);
        }
        if let Some(delivery) = delivery {
            self.hand_out(&delivery);
        }
        true
    }

    fn hand_out(&mut self, delivery: &Delivery) {
        let Delivery { subject, headers, payload } = delivery;
        self.deliver(None, subject, None, headers, payload);
    }
}

const STREAMS: usize = 3;

/// A header block that more headers can follow.
fn opened(headers: &[u8]) -> Vec<u8> {
    match headers {
        [] => b"NATS/1.0\r\n".to_vec(),
        [block @ .., b'\r', b'\n'] => block.to_vec(),
        _ => panic!("a header block without its end"),
    }
}

/// As in RFC 3339. Source of the calendar: Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`.
fn time_stamp(at: Timestamp) -> String {
    let (seconds, millis) = (at.0 / 1_000, at.0 % 1_000);
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let day = day - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[test]
fn a_time_stamp_is_what_the_gateway_reads() {
    for millis in [0, 951_782_400_123, 1_700_000_000_000, 1_709_251_199_999] {
        let text = time_stamp(Timestamp(millis));
        let read = StoreTime::parse(text.as_bytes()).map(StoreTime::timestamp);
        assert_eq!(read, Some(Timestamp(millis)), "{text}");
    }
}

//! What sessions ask and write, on the links of a shard.
//!
//! | subject | what |
//! |---|---|
//! | `sessions.<n>.client.<client id>` | the record of a session, in the stream `MQTT_SESSIONS_<n>` |
//! | `sessions.<n>.floor.<gateway>.<shard>.<boot>` | the floor of a shard: see [`Record::Floor`](crate::proto::record::Record) |
//! | `sessions.<n>.lease.<gateway>.<shard>.<boot>` | the lease of a shard: see `lease.rs` |
//! | `_GW.release.<gateway>.<shard>.<boot>` | asks an owner to let go: a flag, then the client id |
//! | `_GW.connected` | announces a CONNECT: who has it, then the client id |

use super::super::control::{sessions_prefix, sessions_stream_name};
use super::super::direct_get::{Answer, DirectGet, Start};
use super::super::inbox::{Inbox, Token};
use super::super::partition::Partition;
use super::super::publish::{
    ApiError, NO_RESPONDERS, PublishAnswer, Put, mark_sequence, read_publish_answer,
};
use super::super::requests::Pending;
use super::super::shard::{JetStream, PARTITIONS_MAX, lane_of};
use super::entry::{Action, TOMBSTONE_S, Written};
use super::lease::{AdoptionAction, LeaseAction, Taken};
use super::value::{Input, Owner};
use super::{Sessions, SessionsDo};
use crate::proto::bridge::topic_subject::TopicPrefix;
use crate::proto::nats::{
    Message as NatsMessage, Subject, encode_publish, encode_subscribe, encode_unsubscribe,
};
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::{Message, Record};
use crate::proto::session::Ticket;
use crate::proto::session::record::Floor;
use crate::proto::shard_state::{AppendToken, SessionUse, SessionUser};
use crate::proto::time::Timestamp;
use std::num::NonZeroU16;
use std::sync::Arc;

/// What a shard asked about a session.
#[derive(Debug)]
pub enum SessionRequest {
    /// The record of a client.
    Read(Arc<str>),
    /// The floor that the session of a client followed.
    ReadFloor(Arc<str>, Box<[u8]>),
    /// A record is being written, with this nonce.
    Write(Arc<str>, u64),
    /// The floor of this shard is being written.
    WriteFloor,
    /// The lease of this shard is being written, or looked up.
    WriteLease,
    /// See above.
    ReadLease,
    /// The oldest leases.
    Leases,
    /// The lease of a shard that is dead is being written.
    WriteDead,
    /// Its floor, under this subject.
    ReadDeadFloor(Box<[u8]>),
    /// Records, some of which are a dead shard's, from this place on.
    ScanDead(Start),
}

/// Subscription ids: answers of owners, questions to this one, announcements.
pub(in crate::upstream::jetstream) const LET_GO_SID: u64 = 4;
const RELEASE_SID: u64 = 5;
pub(in crate::upstream::jetstream) const CONNECTED_SID: u64 = 6;

const CONNECTED: &[u8] = b"_GW.connected";
/// Seconds for which a floor is kept that its shard does not write any more.
const FLOOR_S: u32 = 7 * 24 * 3_600;

/// The names of a home.
#[derive(Debug)]
pub(in crate::upstream::jetstream) struct HomeSubjects {
    clients: TopicPrefix,
    floors: String,
    leases: String,
    all_leases: String,
    everything: String,
    direct_get: String,
    /// Where owners answer, on the link that is there.
    let_go: Option<Inbox>,
}

impl HomeSubjects {
    pub(in crate::upstream::jetstream) fn new(partition: PartitionId) -> Self {
        let prefix = sessions_prefix(partition);
        Self {
            clients: TopicPrefix::new(&format!("{prefix}.client")).expect("letters and digits"),
            floors: format!("{prefix}.floor"),
            leases: format!("{prefix}.lease"),
            all_leases: format!("{prefix}.lease.>"),
            everything: format!("{prefix}.>"),
            direct_get: format!("$JS.API.DIRECT.GET.{}", sessions_stream_name(partition)),
            let_go: None,
        }
    }

    fn floor(&self, owner: &Owner) -> Vec<u8> {
        of_owner(&self.floors, owner)
    }

    fn lease(&self, owner: &Owner) -> Vec<u8> {
        of_owner(&self.leases, owner)
    }

    /// The request for the leases that were renewed longest ago: the servers keep the last of each.
    fn oldest_leases(&self) -> DirectGet<'_> {
        DirectGet::Scan {
            from: Start::At(Sequence(1)),
            subject: Some(Subject::from_checked(self.all_leases.as_bytes())),
            batch: LEASES_BATCH,
            bytes_max: None,
        }
    }

    /// The request for records of all kinds. Leases are among them: who has come to one that was
    /// written after the dead owner's was taken has seen all that lies before.
    fn records(&self, from: Start) -> DirectGet<'_> {
        DirectGet::Scan {
            from,
            subject: Some(Subject::from_checked(self.everything.as_bytes())),
            batch: RECORDS_BATCH,
            bytes_max: Some(RECORDS_BYTES_MAX),
        }
    }
}

fn release_subject(owner: &Owner) -> Vec<u8> {
    of_owner("_GW.release", owner)
}

fn of_owner(prefix: &str, owner: &Owner) -> Vec<u8> {
    let Owner { gateway, shard, boot } = owner;
    format!("{prefix}.{gateway}.{shard}.{boot:016x}").into_bytes()
}

/// Leases looked at at once.
const LEASES_BATCH: NonZeroU16 = NonZeroU16::new(64).expect("not 0");
/// Records looked through at once, and their bytes.
const RECORDS_BATCH: NonZeroU16 = NonZeroU16::new(256).expect("not 0");
const RECORDS_BYTES_MAX: u32 = 4 * 1_024 * 1_024;

impl JetStream {
    /// Whether sessions are here, and not in a local log.
    pub(in crate::upstream::jetstream) fn has_sessions(&self) -> bool {
        self.sessions.is_some()
    }

    /// Asks for the session of a client.
    pub(in crate::upstream::jetstream) fn ask_session(
        &mut self,
        ticket: Ticket,
        client_id: &str,
        session_use: SessionUse,
        user: SessionUser,
    ) {
        let (place, now) = (self.home(client_id), self.now);
        let Some(sessions) = &mut self.sessions else {
            return;
        };
        let is_home_there = self.partitions.get(place).is_some_and(|partition| partition.ready);
        match session_use {
            SessionUse::Looks => sessions.look(ticket, client_id),
            // A home that is away must not keep those away who need nothing of it.
            SessionUse::StartsOver { expiry_s: 0 }
                if !is_home_there && !sessions.has(client_id) =>
            {
                sessions.answer_unknown(ticket, client_id);
            }
            _ => sessions.ask(ticket, client_id, (session_use, user), place, now),
        }
    }

    /// Takes in a record of a session; committed when it is written, or of no use any more.
    pub(in crate::upstream::jetstream) fn append_session(
        &mut self,
        record: &Record<'_>,
    ) -> AppendToken {
        let now = self.now;
        let client_id = match record {
            Record::SessionPut(put) => put.client_id,
            Record::SessionDelete { client_id }
            | Record::Qos2Intent { client_id, .. }
            | Record::Qos2Released { client_id, .. }
            | Record::Qos2Outbound { client_id, .. }
            | Record::SharedSent { client_id, .. } => client_id,
            Record::Floor { cursors, .. } => {
                if let Some(sessions) = &mut self.sessions {
                    sessions.append_floor(cursors);
                }
                return self.session_token(0, 0);
            }
            Record::Message(_) | Record::GroupPut { .. } | Record::GroupDelete { .. } => {
                unreachable!("neither messages nor groups are records of sessions")
            }
        };
        let place = self.home(client_id);
        let sessions = self.sessions.as_mut().expect("asked only where there are sessions");
        let number = sessions.append(record, client_id, place, now);
        self.session_token(place, number)
    }

    /// In the lane of the sessions at home there: those of messages come first.
    fn session_token(&self, place: usize, number: u64) -> AppendToken {
        AppendToken { lane: lane_of(PARTITIONS_MAX + place), number }
    }

    /// A message of a session with a record is on its way: see [`Sessions::note_intent`].
    pub(in crate::upstream::jetstream) fn note_intent(
        &mut self,
        message: &Message<'_>,
        place: usize,
        token: Token,
    ) {
        if let (Some(sessions), Some(packet_id)) = (&mut self.sessions, message.packet_id) {
            sessions.note_intent(message.publisher, packet_id, place, token);
        }
    }

    pub(in crate::upstream::jetstream) fn sessions_timeout(&self) -> Timestamp {
        let Some(sessions) = &self.sessions else {
            return Timestamp::NEVER;
        };
        let places = self.partitions.iter().enumerate().filter(|(_, partition)| partition.ready);
        let leases = places.map(|(place, _)| sessions.lease_timeout(place, self.now));
        leases.fold(sessions.next_timeout(), Timestamp::min)
    }

    /// Whether nobody else can have published the will of a session that is here: see
    /// [`crate::proto::shard_state::Upstream::may_publish_will`].
    pub(in crate::upstream::jetstream) fn may_publish_will(&self, client_id: &str) -> bool {
        let Some(sessions) = self.sessions.as_ref().filter(|one| one.has(client_id)) else {
            return true;
        };
        let home = self.partitions.get(self.home(client_id));
        home.is_some_and(|home| home.ready) && sessions.is_held(client_id, self.now)
    }

    /// Whether nothing of its sessions is left to be done where there is a link.
    pub(in crate::upstream::jetstream) fn have_leases_ended(&self) -> bool {
        let has_ended = |place| self.sessions.as_ref().is_none_or(|one| one.has_finished(place));
        let places = self.partitions.iter().enumerate();
        places.into_iter().all(|(place, partition)| !partition.ready || has_ended(place))
    }

    /// Whether there is room for one more session.
    pub(in crate::upstream::jetstream) fn has_session_room(&self) -> bool {
        self.sessions.as_ref().is_none_or(Sessions::has_room)
    }

    /// The shard's state has heard an answer.
    pub fn settle_session_answer(&mut self, client_id: &Arc<str>) {
        let now = self.now;
        if let Some(sessions) = &mut self.sessions {
            sessions.settle_answer(client_id, now);
        }
    }

    /// The shard's state has no session that another gateway wants.
    pub fn give_up_session(&mut self, client_id: &Arc<str>) {
        let now = self.now;
        if let Some(sessions) = &mut self.sessions {
            sessions.give_up(client_id, now);
        }
    }

    /// A link is there: gateways can ask for sessions over it.
    pub(in crate::upstream::jetstream) fn attach_sessions(&mut self, place: usize) {
        let Self { sessions, session_homes, partitions, now, .. } = self;
        let (Some(sessions), Some(home), Some(partition)) =
            (sessions, session_homes.get_mut(place), partitions.get_mut(place))
        else {
            return;
        };
        sessions.attach(place, partition.lives.of_link(), *now);
        let prefix = [&partition.group_prefix[..], b"s"].concat();
        let prefix = std::str::from_utf8(&prefix).expect("made of letters and digits");
        let let_go = Inbox::new(prefix).expect("made of letters and digits");
        encode_subscribe(let_go.filter(), None, LET_GO_SID, &mut partition.out);
        home.let_go = Some(let_go);
        let release = release_subject(sessions.owner_at(place));
        let release = Subject::from_checked(&release);
        encode_subscribe(release, None, RELEASE_SID, &mut partition.out);
        let connected = Subject::from_checked(CONNECTED);
        encode_subscribe(connected, None, CONNECTED_SID, &mut partition.out);
    }

    pub(in crate::upstream::jetstream) fn lose_sessions(&mut self, place: usize) {
        let now = self.now;
        if let Some(sessions) = &mut self.sessions {
            sessions.lose(place, now);
        }
    }

    /// Reads, writes, asks and answers whatever can be.
    pub(in crate::upstream::jetstream) fn drive_sessions(&mut self) {
        let now = self.now;
        let Some(mut sessions) = self.sessions.take() else {
            return;
        };
        sessions.handle_timeout(now);
        for place in 0..self.partitions.len() {
            if self.partitions.get(place).is_some_and(|partition| partition.ready) {
                self.drive_home(place, &mut sessions);
            }
        }
        let SessionsDo { committed, cancelled, abandoned, replies, announcements } =
            std::mem::take(&mut sessions.to_do);
        // The last first: what ends lets the next of its topic go out, which is not to go out either.
        for (place, number) in cancelled.into_iter().rev() {
            self.cancel_intended(self.session_token(place, number));
        }
        for (place, token) in abandoned.into_iter().rev() {
            self.abandon(place, token);
        }
        for (place, number) in committed {
            let token = self.session_token(place, number);
            self.recorded(token);
            self.out.appended.push(token);
        }
        for (place, reply_to) in replies {
            if let (Ok(reply_to), Some(partition)) =
                (Subject::literal(&reply_to[..]), self.partitions.get_mut(place))
                && partition.ready
            {
                encode_publish(reply_to, None, b"", &mut partition.out);
            }
        }
        for (place, client_id, user) in announcements {
            let payload = announcement(sessions.owner_at(place), &client_id, &user);
            if let Some(partition) = self.partitions.get_mut(place).filter(|one| one.ready) {
                let connected = Subject::from_checked(CONNECTED);
                encode_publish(connected, None, &payload, &mut partition.out);
            }
        }
        let out = sessions.take_out();
        self.abandon_wills(&out.lost);
        self.out.sessions.append(out);
        self.sessions = Some(sessions);
    }

    fn drive_home(&mut self, place: usize, sessions: &mut Sessions) {
        let now = self.now;
        let Self { session_homes, partitions, .. } = self;
        let (Some(home), Some(partition)) = (session_homes.get(place), partitions.get_mut(place))
        else {
            return;
        };
        let api = Subject::from_checked(home.direct_get.as_bytes());
        drive_leases(place, home, partition, sessions, now);
        let mut buffer = Vec::new();
        while let Some((client_id, action)) = sessions.next_action(place, now) {
            let subject = home.clients.subject(&client_id, &mut buffer);
            let subject = subject.expect("client ids that are too long are refused");
            match action {
                Action::Read => {
                    let request = Pending::Session(SessionRequest::Read(client_id));
                    partition.ask_with(request, now, |reply_to, out| {
                        DirectGet::Last { subject }.encode(api, reply_to, out);
                    });
                }
                Action::ReadFloor(owner) => {
                    let floor = home.floor(&owner);
                    let subject = floor.clone().into();
                    let request = Pending::Session(SessionRequest::ReadFloor(client_id, subject));
                    partition.ask_with(request, now, |reply_to, out| {
                        let subject = Subject::from_checked(&floor);
                        DirectGet::Last { subject }.encode(api, reply_to, out);
                    });
                }
                Action::Write { nonce, bytes, expected, time_to_live_s } => {
                    let request = Pending::Session(SessionRequest::Write(client_id, nonce));
                    let put = Put {
                        subject,
                        value: &bytes,
                        expected_last: Some(expected),
                        time_to_live_s,
                    };
                    partition.ask_with(request, now, |reply_to, out| put.encode(reply_to, out));
                }
                Action::AskOwner { owner, ends } => {
                    let number = sessions.note_asked(&client_id, now);
                    let mut reply = Vec::new();
                    let inbox = home.let_go.as_ref().expect("the link is there");
                    let reply_to = inbox.reply_to(Token(number), &mut reply);
                    let payload = [&[u8::from(ends)], client_id.as_bytes()].concat();
                    let release = release_subject(&owner);
                    let release = Subject::from_checked(&release);
                    encode_publish(release, Some(reply_to), &payload, &mut partition.out);
                }
            }
        }
        if let Some(cursors) = sessions.next_floor(place) {
            let floor = home.floor(sessions.owner_at(place));
            let put = Put {
                subject: Subject::from_checked(&floor),
                value: &cursors,
                expected_last: None,
                time_to_live_s: Some(FLOOR_S),
            };
            let request = Pending::Session(SessionRequest::WriteFloor);
            partition.ask_with(request, now, |reply_to, out| put.encode(reply_to, out));
        }
    }

    /// A server answers what was asked about a session. Whether more is to come.
    pub(in crate::upstream::jetstream) fn handle_session_answer(
        &mut self,
        place: usize,
        request: &SessionRequest,
        message: &NatsMessage<'_>,
    ) -> bool {
        let now = self.now;
        let Self { sessions, session_homes, partitions, .. } = self;
        let (Some(sessions), Some(home), Some(partition)) =
            (sessions, session_homes.get(place), partitions.get_mut(place))
        else {
            return false;
        };
        let read = |subject: Subject<'_>| match (DirectGet::Last { subject })
            .read(message.headers, message.payload)
        {
            Ok(Answer::Message(stored)) => Some((stored.sequence, message.payload)),
            Ok(Answer::NotFound) => Some((Sequence::ZERO, &b""[..])),
            answer => {
                tracing::debug!(place, ?answer, "session: not read for now");
                None
            }
        };
        match request {
            SessionRequest::Read(client_id) => {
                sessions.note_answered(place);
                let mut buffer = Vec::new();
                let subject = home.clients.subject(client_id, &mut buffer);
                let read = subject.ok().and_then(read);
                sessions.handle_read(client_id, read, now);
            }
            SessionRequest::ReadFloor(client_id, subject) => {
                sessions.note_answered(place);
                let read = read(Subject::from_checked(subject));
                let floor = read.map(|(_, cursors)| Floor::decode(cursors));
                sessions.handle_floor(client_id, floor.as_ref(), now);
            }
            SessionRequest::Write(client_id, nonce) => {
                sessions.note_answered(place);
                sessions.handle_written(client_id, *nonce, written(message), now);
            }
            SessionRequest::WriteFloor => {
                let is_stored = matches!(written(message), Written::Stored(_));
                sessions.handle_floor_written(place, is_stored);
            }
            SessionRequest::WriteLease => {
                let taken = sessions
                    .with_lease(place, now, |lease| lease.handle_written(written(message), now));
                rename(place, taken, partition, sessions);
            }
            SessionRequest::ReadLease => {
                let subject = home.lease(sessions.owner_at(place));
                let read = read(Subject::from_checked(&subject));
                let taken = sessions.with_lease(place, now, |lease| lease.handle_read(read, now));
                rename(place, taken, partition, sessions);
            }
            SessionRequest::Leases => {
                match home.oldest_leases().read(message.headers, message.payload) {
                    Ok(Answer::Message(stored)) => {
                        let age = partition.age(stored.stored_at.timestamp(), now);
                        sessions.note_lease(place, stored.sequence, message.payload, age);
                        return true;
                    }
                    Ok(Answer::End { .. } | Answer::NotFound) => sessions.end_look(place),
                    _ => sessions.fail_adoption(place, now),
                }
            }
            SessionRequest::WriteDead => {
                if let Some(adoption) = sessions.adoption(place) {
                    adoption.handle_written(written(message), now);
                }
            }
            SessionRequest::ReadDeadFloor(subject) => {
                let floor = read(Subject::from_checked(subject)).map(|(_, floor)| floor);
                if let Some(adoption) = sessions.adoption(place) {
                    adoption.handle_floor(floor, now);
                }
            }
            SessionRequest::ScanDead(from) => {
                match home.records(*from).read(message.headers, message.payload) {
                    Ok(Answer::Message(stored)) => {
                        let mut buffer = Vec::new();
                        let found = (stored.sequence, message.payload);
                        let is_skipped = match home.clients.topic(stored.subject, &mut buffer) {
                            Ok(client_id) => sessions.adopt(place, client_id, found, now),
                            Err(_) => false,
                        };
                        if let Some(adoption) = sessions.adoption(place) {
                            adoption.note_scanned(stored.sequence, is_skipped);
                        }
                        return true;
                    }
                    Ok(Answer::End { pending_count, last_sequence, .. }) => {
                        if let Some(adoption) = sessions.adoption(place) {
                            adoption.note_scanned(last_sequence, false);
                            adoption.end_scan(pending_count > 0, now);
                        }
                    }
                    Ok(Answer::NotFound) => {
                        if let Some(adoption) = sessions.adoption(place) {
                            adoption.end_scan(false, now);
                        }
                    }
                    _ => sessions.fail_adoption(place, now),
                }
            }
        }
        false
    }

    /// A gateway says something about a session.
    pub(in crate::upstream::jetstream) fn handle_session_message(
        &mut self,
        place: usize,
        message: &NatsMessage<'_>,
    ) {
        let now = self.now;
        let Self { sessions, session_homes, .. } = self;
        let Some(sessions) = sessions else {
            return;
        };
        match message.sid {
            LET_GO_SID => {
                let home = session_homes.get(place);
                let inbox = home.and_then(|home| home.let_go.as_ref());
                let token = inbox.and_then(|inbox| inbox.token(message.subject));
                let status = message.headers.status().map(|status| status.code);
                debug_assert!(status.is_none_or(|code| code == NO_RESPONDERS), "{status:?}");
                if let Some(token) = token {
                    sessions.handle_let_go(token.0, status.is_some(), now);
                }
            }
            RELEASE_SID => {
                let asked = message.payload.split_first();
                let asked =
                    asked.and_then(|(ends, id)| Some((*ends != 0, std::str::from_utf8(id).ok()?)));
                if let (Some((ends, client_id)), Some(reply_to)) = (asked, message.reply_to) {
                    sessions.handle_wanted(place, client_id, ends, reply_to.into(), now);
                }
            }
            _ => {
                if let Some((owner, client_id, user)) = read_announcement(message.payload) {
                    sessions.handle_announced(&owner, client_id, user, now);
                }
            }
        }
    }
}

/// Writes and reads what leases need.
fn drive_leases(
    place: usize,
    home: &HomeSubjects,
    partition: &mut Partition,
    sessions: &mut Sessions,
    now: Timestamp,
) {
    let api = Subject::from_checked(home.direct_get.as_bytes());
    let ask = |partition: &mut Partition, request, put: &dyn Fn(Subject<'_>, &mut Vec<u8>)| {
        partition.ask_with(Pending::Session(request), now, put);
    };
    let write = |partition: &mut Partition, request, owner: &Owner, value: &[u8], expected| {
        let subject = home.lease(owner);
        let put = Put {
            subject: Subject::from_checked(&subject),
            value,
            expected_last: Some(expected),
            // One that has ended leaves no trace.
            time_to_live_s: value.is_empty().then_some(TOMBSTONE_S),
        };
        ask(partition, request, &|reply_to, out| put.encode(reply_to, out));
    };
    if let Some(action) = sessions.next_lease_action(place, now) {
        let owner = sessions.owner_at(place);
        match action {
            LeaseAction::Write { value, expected } => {
                write(partition, SessionRequest::WriteLease, owner, &value, expected);
            }
            LeaseAction::Read => {
                let subject = home.lease(owner);
                let subject = Subject::from_checked(&subject);
                ask(partition, SessionRequest::ReadLease, &|reply_to, out| {
                    DirectGet::Last { subject }.encode(api, reply_to, out);
                });
            }
        }
    }
    match sessions.next_adoption_action(place, now) {
        None => {}
        Some(AdoptionAction::Look) => ask(partition, SessionRequest::Leases, &|reply_to, out| {
            home.oldest_leases().encode(api, reply_to, out);
        }),
        Some(AdoptionAction::Write { owner, value, expected }) => {
            write(partition, SessionRequest::WriteDead, &owner, &value, expected);
        }
        Some(AdoptionAction::ReadFloor(owner)) => {
            let floor = home.floor(&owner);
            let subject = Subject::from_checked(&floor);
            let request = SessionRequest::ReadDeadFloor(floor.clone().into());
            ask(partition, request, &|reply_to, out| {
                DirectGet::Last { subject }.encode(api, reply_to, out);
            });
        }
        Some(AdoptionAction::Scan(from)) => {
            ask(partition, SessionRequest::ScanDead(from), &|reply_to, out| {
                home.records(from).encode(api, reply_to, out);
            });
        }
    }
}

/// The shard has another name, under which it is asked for sessions from now on.
fn rename(place: usize, taken: Option<Taken>, partition: &mut Partition, sessions: &Sessions) {
    if taken.is_some() && partition.ready {
        encode_unsubscribe(RELEASE_SID, None, &mut partition.out);
        let release = release_subject(sessions.owner_at(place));
        encode_subscribe(Subject::from_checked(&release), None, RELEASE_SID, &mut partition.out);
    }
}

/// Owner, whether users have sessions of their own, the user's name behind its length (u16 little
/// endian; all ones for none), client id.
fn announcement(owner: &Owner, client_id: &str, user: &SessionUser) -> Vec<u8> {
    let mut payload = Vec::new();
    owner.encode(&mut payload);
    payload.push(user.is_bound.into());
    let length = user.name.as_ref().and_then(|name| u16::try_from(name.len()).ok());
    payload.extend_from_slice(&length.unwrap_or(NO_NAME).to_le_bytes());
    payload.extend_from_slice(user.name.as_deref().unwrap_or_default().as_bytes());
    payload.extend_from_slice(client_id.as_bytes());
    payload
}

fn read_announcement(payload: &[u8]) -> Option<(Owner, &str, SessionUser)> {
    let mut input = Input(payload);
    let owner = Owner::decode(&mut input)?;
    let is_bound = input.byte()? != 0;
    let name = match input.u16()? {
        NO_NAME => None,
        length => Some(std::str::from_utf8(input.take(length.into())?).ok()?.into()),
    };
    let client_id = std::str::from_utf8(input.0).ok()?;
    Some((owner, client_id, SessionUser { name, is_bound }))
}

/// In place of the length of a user's name.
const NO_NAME: u16 = u16::MAX;

fn written(message: &NatsMessage<'_>) -> Written {
    match read_publish_answer(message.headers, message.payload) {
        Ok(PublishAnswer::Stored(ack)) => Written::Stored(ack.sequence),
        Ok(ref answer @ PublishAnswer::Refused(ref error))
            if error.err_code == ApiError::WRONG_LAST_SEQUENCE =>
        {
            mark_sequence(answer).map_or(Written::Unknown, Written::Refused)
        }
        answer => {
            tracing::debug!(?answer, "session: not written for now");
            Written::Unknown
        }
    }
}

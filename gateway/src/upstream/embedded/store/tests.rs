//! The fold on both stores, the thread, and recovery.

use super::fold::{SessionValue, TimerKind, fold, qos2_deltas};
use super::groups::{StoredGroup, stored_groups};
use super::memory_store::MemoryStore;
use super::recover::{Replacement, fold_logs, settle_sessions};
use super::retained::matching;
use super::state::KeyedState;
use super::stored_sessions::StoredSessions;
use super::thread::{
    RetainedQuery, SessionState, Storage, StorageThread, StoreReply, StoreRequest, ThreadConfig,
};
use super::*;
use crate::proto::mqtt::{PacketId, QoS};
use crate::proto::output::ShardIndex;
use crate::proto::partition::{Chunk, PartitionId, Sequence};
use crate::proto::record::{Message, Qos2Step, Record, SessionPut};
use crate::proto::session::record::{Qos2Delta, SessionRecord, SubscriptionRecord};
use crate::proto::time::Timestamp;
use crate::upstream::embedded::groups::record::GroupRecord;
use crate::upstream::embedded::log::faulty_files::FaultyFiles;
use crate::upstream::embedded::log::{Log, LogLimits};
use crate::upstream::embedded::quota::{Quota, QuotaLimits, Usage};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

const PARTITION: PartitionId = PartitionId(4);

/// The records of these tests hold one cursor, in its eight bytes.
fn cursors_of(record: &[u8], out: &mut Vec<(PartitionId, Sequence)>) -> Option<u16> {
    if let Ok(cursor) = record.try_into() {
        out.push((PARTITION, Sequence(u64::from_be_bytes(cursor))));
    }
    None
}

fn memory() -> KeyedState {
    KeyedState::open(Box::new(MemoryStore::default()), cursors_of, StoredSessions::default())
        .unwrap()
}

/// Runs `test` on a state in memory and on one in fjall.
fn on_both(name: &str, test: impl Fn(KeyedState)) {
    test(memory());
    let directory = std::env::temp_dir().join(format!("mqtt-store-{name}-{}", std::process::id()));
    let store = fjall_store::FjallStore::open(&directory, 1 << 20).unwrap();
    test(KeyedState::open(Box::new(store), cursors_of, StoredSessions::default()).unwrap());
    std::fs::remove_dir_all(&directory).unwrap();
}

fn message(topic: &'static str, payload: &'static [u8], received_at: u64) -> Message<'static> {
    Message {
        publisher: "p",
        qos: QoS::AtLeastOnce,
        retain: true,
        ledger: false,
        received_at: Timestamp(received_at),
        expiry_interval_s: None,
        packet_id: None,
        topic,
        properties: &[],
        payload,
    }
}

fn put(client_id: &'static str, expires_at: u64, record: &'static [u8]) -> Record<'static> {
    let expires_at = Timestamp(expires_at);
    Record::SessionPut(SessionPut { client_id, expires_at, will_at: Timestamp::NEVER, record })
}

fn packet_id(id: u16) -> PacketId {
    PacketId(NonZeroU16::new(id).unwrap())
}

fn sent(client_id: &'static str, id: u16) -> Record<'static> {
    Record::Qos2Outbound {
        client_id,
        packet_id: packet_id(id),
        step: Qos2Step::Sent,
        partition: PARTITION,
        sequence: Sequence(9),
        shared: false,
        retain: true,
        anchor: None,
    }
}

fn shared_sent(client_id: &'static str, id: u16, sequence: u64) -> Record<'static> {
    let (group, packet_id) = ("g/a", packet_id(id));
    let (partition, sequence) = (PARTITION, Sequence(sequence));
    Record::SharedSent { group, client_id, packet_id, partition, sequence, anchor: None }
}

fn everything(state: &KeyedState) -> Vec<(Space, Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for space in Space::ALL {
        state
            .scan(space, &[], &[], &mut |key, value| {
                all.push((space, key.to_vec(), value.to_vec()));
                true
            })
            .unwrap();
    }
    all
}

fn topics(state: &KeyedState, filter: &str) -> Vec<String> {
    let mut found = Vec::new();
    matching(state, filter, "", &mut |retained| {
        found.push(retained.topic);
        true
    })
    .unwrap();
    found
}

#[test]
fn a_session_record_replaces_its_steps_and_timers_and_no_one_elses() {
    on_both("steps", |mut state| {
        let inbound = Message {
            ledger: true,
            qos: QoS::ExactlyOnce,
            packet_id: Some(packet_id(7)),
            ..message("t", b"x", 1)
        };
        let records = [
            put("c", 50, b"one"),
            sent("c", 1),
            sent("cc", 1),
            Record::Message(Message { publisher: "c", retain: false, ..inbound }),
        ];
        for (at, record) in records.iter().enumerate() {
            fold(&mut state, PARTITION, Sequence(at as u64), record).unwrap();
        }
        let steps = qos2_deltas(&state, "c").unwrap();
        assert_eq!(steps.len(), 2);
        assert!(matches!(steps[0], Qos2Delta::Inbound(_)));
        assert!(
            matches!(steps[1], Qos2Delta::Outbound { packet_id: id, retain: true, .. } if id == packet_id(1))
        );
        state.commit().unwrap();
        fold(&mut state, PARTITION, Sequence(4), &put("c", 60, b"two")).unwrap();
        let kept = qos2_deltas(&state, "c").unwrap();
        assert_eq!(kept, [Qos2Delta::Inbound(packet_id(7))], "what the client sent stays open");
        assert_eq!(qos2_deltas(&state, "cc").unwrap().len(), 1);
        let timers = state.keys(Space::Timers, &[]).unwrap();
        assert_eq!(timers.len(), 1, "the old deadline is gone");
        fold(&mut state, PARTITION, Sequence(5), &Record::SessionDelete { client_id: "c" })
            .unwrap();
        state.commit().unwrap();
        assert_eq!(qos2_deltas(&state, "c").unwrap(), []);
        assert_eq!(state.keys(Space::Sessions, &[]).unwrap().len(), 0);
        assert_eq!(state.keys(Space::Timers, &[]).unwrap().len(), 0);
    });
}

#[test]
fn the_newest_retained_message_wins_in_any_order() {
    let messages = [message("a", b"old", 1), message("a", b"", 2), message("a/b", b"x", 3)];
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        on_both("retained", |mut state| {
            for at in order {
                let place = Sequence(at as u64);
                fold(&mut state, PARTITION, place, &Record::Message(messages[at])).unwrap();
            }
            assert_eq!(topics(&state, "#"), ["a/b"], "order {order:?}");
            state.commit().unwrap();
            assert_eq!(topics(&state, "a/#"), ["a/b"]);
            fold(&mut state, PARTITION, Sequence(9), &Record::Message(message("a", b"new", 4)))
                .unwrap();
            assert_eq!(topics(&state, "a/#"), ["a", "a/b"]);
            assert_eq!(topics(&state, "a"), ["a"]);
        });
    }
}

#[test]
fn folding_again_changes_nothing() {
    let group = GroupRecord { next: vec![(PARTITION, Sequence(10))], open: Vec::new() }.encode();
    let records = [
        put("c", 50, b"12345678"),
        sent("c", 1),
        Record::Message(message("a", b"x", 1)),
        Record::Message(message("a", b"", 2)),
        put("c", 70, b"abcdefgh"),
        sent("c", 2),
        Record::Floor { shard: 2, cursors: &[1; 10] },
        shared_sent("c", 3, 7),
        shared_sent("", 4, 12),
        Record::GroupPut { name: "g/a", record: &group },
        shared_sent("c", 5, 13),
        Record::GroupPut { name: "g/b", record: &group },
        Record::GroupDelete { name: "g/b" },
        put("d", 70, b"x"),
        Record::SessionDelete { client_id: "d" },
    ];
    for from in 0..records.len() {
        let (mut once, mut twice) = (memory(), memory());
        for (state, again) in [(&mut once, records.len()), (&mut twice, from)] {
            for at in (0..records.len()).chain(again..records.len()) {
                fold(state, PARTITION, Sequence(at as u64), &records[at]).unwrap();
                state.commit().unwrap();
            }
        }
        assert_eq!(everything(&once), everything(&twice), "again from {from}");
        assert_eq!(once.lowest_needed(PARTITION), twice.lowest_needed(PARTITION));
    }
}

/// A log kept in memory cannot be folded from files, so these logs are written to some.
fn log_with(files: &mut FaultyFiles, records: &[Record<'_>]) -> Log {
    use crate::upstream::embedded::log::files::perform;
    use crate::upstream::embedded::log::{Durability, recover};
    let open = |files: &mut FaultyFiles| {
        let (limits, now) = (LogLimits::default(), Timestamp(1));
        recover(files, PARTITION, Durability::Fsync, limits, now).unwrap().log
    };
    let mut log = open(files);
    records.iter().for_each(|record| {
        log.append(None, |out| record.encode(out));
    });
    let (mut requests, mut committed) = (Vec::new(), Vec::new());
    log.flush(Timestamp(2), &mut requests, &mut committed);
    while let Some(request) = requests.pop() {
        let (token, result) = perform(files, &request);
        log.handle_io(token, result, &mut requests, &mut committed);
    }
    open(files)
}

#[test]
fn recovery_folds_the_logs_and_settles_sessions() {
    let mut files = FaultyFiles::new(1);
    let mut records = vec![put("online", u64::MAX, b"1"), put("offline", 9, b"2")];
    records.push(sent("online", 3));
    let logs = [log_with(&mut files, &records)];
    let mut state = memory();
    assert_eq!(fold_logs(&mut state, &mut files, &logs).unwrap(), 3);
    assert_eq!(state.folded(PARTITION).unwrap(), logs[0].committed_end());
    assert_eq!(fold_logs(&mut state, &mut files, &logs).unwrap(), 0, "all is folded");
    let mut settle = |_: &str, session: SessionValue<'_>, _: &[Qos2Delta]| {
        (session.expires_at == Timestamp::NEVER).then(|| Replacement {
            expires_at: Timestamp(77),
            will_at: Timestamp::NEVER,
            record: session.record.to_vec(),
        })
    };
    assert_eq!(settle_sessions(&mut state, &mut settle).unwrap(), 1);
    assert_eq!(settle_sessions(&mut state, &mut settle).unwrap(), 0, "all are settled");
    assert_eq!(qos2_deltas(&state, "online").unwrap().len(), 1, "steps stay");
}

fn chunk_of(records: &[Record<'_>]) -> (Chunk, Vec<Sequence>) {
    let mut log = Log::in_memory(PARTITION, LogLimits::default(), Timestamp(1));
    let sequences =
        records.iter().map(|record| log.append(None, |out| record.encode(out))).collect();
    let mut committed = Vec::new();
    log.flush(Timestamp(1), &mut Vec::new(), &mut committed);
    (committed.remove(0), sequences)
}

#[test]
fn the_thread_answers_in_order_and_reports_what_is_persisted() {
    let (replies, answers) = flume::unbounded();
    let config = ThreadConfig {
        queue_requests_max: 16,
        persist_interval: Duration::from_millis(10),
        clock: Box::new(|| Timestamp(1_000)),
        shards: 4,
        quota: Arc::new(Quota::new(QuotaLimits::default(), 0, Usage::default())),
        in_memory: false,
        shard_of: Box::new(|_| ShardIndex(3)),
    };
    let files = Box::new(FaultyFiles::new(1));
    let state = memory();
    // As the shard does that appends the record.
    state.stored_sessions().add("c");
    let thread = StorageThread::spawn(state, Some(files), config, move |shard, reply| {
        replies.send((shard, reply)).unwrap();
    })
    .unwrap();
    let (shard, requests) = (ShardIndex(1), thread.requests());
    let (chunk, sequences) = chunk_of(&[
        put("c", 500, &[0; 8]),
        Record::Message(message("a/b", b"x", 1)),
        Record::Message(message("a/c", b"y", 1)),
    ]);
    let folded_to = chunk.end();
    let client_id = "c".to_owned();
    requests.send(StoreRequest::Apply { shard, chunk, sequences, folded_to }).unwrap();
    requests.send(StoreRequest::SessionGet { shard, ticket: 8, client_id }).unwrap();
    let mut after = vec![Sequence::ZERO; usize::from(PARTITION.0)];
    after.push(folded_to);
    for from in ["", "a/b\0", "a/c\0"] {
        let (filter, from, after) = ("a/+".to_owned(), from.to_owned(), after.clone());
        let (ticket, max_count, page_bytes) = (9, 9, 1);
        let query = RetainedQuery { shard, ticket, filter, from, after, max_count, page_bytes };
        requests.send(StoreRequest::Retained(query)).unwrap();
    }
    thread.stop();
    let answers: Vec<(ShardIndex, StoreReply)> = answers.drain().collect();
    assert!(matches!(
        &answers[0].1,
        StoreReply::Session { ticket: 8, state } if state.found.is_some()
    ));
    let pages = answers.iter().filter_map(|(_, reply)| match reply {
        StoreReply::Retained { messages, next, .. } => Some((messages.len(), next.as_deref())),
        _ => None,
    });
    let expected = [(1, Some("a/b\0")), (1, Some("a/c\0")), (0, None)];
    assert_eq!(pages.collect::<Vec<_>>(), expected);
    let needed = Sequence::ZERO;
    let folded = StoreReply::Folded { partition: PARTITION, folded: folded_to, needed };
    assert_eq!(answers.last(), Some(&(shard, folded)));
}

#[test]
fn due_sessions_are_announced_once_to_their_shard() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NOW: AtomicU64 = AtomicU64::new(1_000);
    let (replies, answers) = flume::unbounded();
    let config = ThreadConfig {
        queue_requests_max: 16,
        persist_interval: Duration::from_millis(1),
        clock: Box::new(|| Timestamp(NOW.fetch_add(10, Ordering::Relaxed))),
        shards: 4,
        quota: Arc::new(Quota::new(QuotaLimits::default(), 0, Usage::default())),
        in_memory: false,
        shard_of: Box::new(|_| ShardIndex(3)),
    };
    let mut state = memory();
    fold(&mut state, PARTITION, Sequence(1), &put("c", 500, b"")).unwrap();
    let files = Box::new(FaultyFiles::new(1));
    let thread = StorageThread::spawn(state, Some(files), config, move |shard, reply| {
        replies.send((shard, reply)).unwrap();
    })
    .unwrap();
    let due = answers.recv_timeout(Duration::from_secs(10)).unwrap();
    let (shard, ticket, client_id) = (ShardIndex(0), 1, "nobody".to_owned());
    thread.requests().send(StoreRequest::SessionGet { shard, ticket, client_id }).unwrap();
    let client_id = "c".to_owned();
    let at = Timestamp(500);
    assert_eq!(due, (ShardIndex(3), StoreReply::Due { client_id, which: TimerKind::Expiry, at }));
    thread.stop();
    let rest: Vec<(ShardIndex, StoreReply)> = answers.drain().collect();
    let state = SessionState::default();
    assert_eq!(rest, [(ShardIndex(0), StoreReply::Session { ticket: 1, state })]);
}

/// What a member has taken over is not given to another after a restart, until the group's own record
/// says as much.
#[test]
fn groups_are_found_by_the_sessions_that_are_members() {
    let open = (PARTITION, Sequence(5));
    let record = GroupRecord { next: vec![(PARTITION, Sequence(10))], open: vec![open] };
    let bytes = record.encode();
    let member = SessionRecord {
        subscriptions: vec![SubscriptionRecord {
            filter: "$share/g/a".into(),
            options: 2,
            identifier: 0,
            starts: Vec::new(),
        }],
        ..SessionRecord::default()
    };
    let mut session = Vec::new();
    member.encode(&mut session);
    on_both("groups", |mut state| {
        let put = |client_id| {
            let (expires_at, will_at) = (Timestamp::NEVER, Timestamp::NEVER);
            Record::SessionPut(SessionPut { client_id, expires_at, will_at, record: &session })
        };
        let records = [
            put("m"),
            put("n"),
            Record::GroupPut { name: "g/b", record: &bytes },
            shared_sent("m", 1, 5),
            shared_sent("", 2, 6),
            shared_sent("m", 3, 10),
            Record::GroupPut { name: "g/a", record: &bytes },
        ];
        for (at, record) in records.iter().enumerate() {
            fold(&mut state, PARTITION, Sequence(at as u64), record).unwrap();
        }
        let groups = stored_groups(&mut state).unwrap();
        let [StoredGroup { name, members: 2, record: found, taken }] = &groups[..] else {
            panic!("{groups:?}");
        };
        assert_eq!((&**name, found), ("g/a", &Some(record.clone())));
        // 6 is settled: it lies before the record's end and is not open.
        assert_eq!(*taken, [(PARTITION, Sequence(5)), (PARTITION, Sequence(10))]);
        assert_eq!(state.keys(Space::Groups, &[]).unwrap().len(), 3, "g/b has no members");
        // The session's record does not know of them: what keeps them in the log must be told.
        let mut shown = Vec::new();
        let mut settle = |client_id: &str, _: SessionValue<'_>, steps: &[Qos2Delta]| {
            shown.push((client_id.to_owned(), steps.len()));
            None
        };
        settle_sessions(&mut state, &mut settle).unwrap();
        assert_eq!(shown, [("m".to_owned(), 2), ("n".to_owned(), 0)]);
    });
}

/// The engine panics on longer keys.
#[test]
fn the_longest_names_do_no_harm() {
    let (longest, too_long) = ("x".repeat(fold::CLIENT_ID_BYTES_MAX), "x".repeat(65_535));
    on_both("names", |mut state| {
        for (at, client_id) in [&longest, &too_long].into_iter().enumerate() {
            let (expires_at, will_at) = (Timestamp(5), Timestamp(6));
            let put =
                Record::SessionPut(SessionPut { client_id, expires_at, will_at, record: b"" });
            let step = Record::Qos2Released { client_id, packet_id: packet_id(1) };
            let retained = Message { topic: &too_long, ..message("", b"x", 1) };
            for record in [put, step, Record::Message(retained)] {
                fold(&mut state, PARTITION, Sequence(at as u64), &record).unwrap();
            }
            state.persist().unwrap();
        }
        assert_eq!(state.keys(Space::Sessions, &[]).unwrap(), [longest.as_bytes()]);
        assert_eq!(topics(&state, &too_long).len(), 1);
    });
}

/// What is counted as it changes is what there is, and what the next start finds: from its note, or
/// by counting where an older store has none.
#[test]
fn retained_usage_is_that_of_what_is_stored() {
    let name = format!("mqtt-store-usage-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    let open = || {
        let store = fjall_store::FjallStore::open(&directory, 1 << 20).unwrap();
        KeyedState::open(Box::new(store), cursors_of, StoredSessions::default()).unwrap()
    };
    let mut state = open();
    let expiring = Message { expiry_interval_s: Some(1), ..message("e", b"x", 1) };
    let stored = |topic: &str, message: Message<'_>| (topic.len() + message.encoded_bytes()) as u64;
    let records = [
        message("a", b"first", 1),
        message("b", b"x", 1),
        message("a", b"second, and longer", 2),
        message("a", b"too late", 1),
        message("b", b"", 2),
        message("never", b"", 2),
        expiring,
    ];
    for (at, record) in records.into_iter().enumerate() {
        let sequence = Sequence(at as u64);
        fold(&mut state, PARTITION, sequence, &Record::Message(record)).unwrap();
    }
    let kept = stored("a", message("a", b"second, and longer", 2));
    let bytes = kept + stored("e", expiring);
    assert_eq!(state.retained_usage(), Usage { messages: 2, bytes });
    retained::purge(&mut state, "e", Timestamp(60_000)).unwrap();
    retained::purge(&mut state, "b", Timestamp(u64::MAX)).unwrap();
    let usage = Usage { messages: 1, bytes: kept };
    assert_eq!(state.retained_usage(), usage);
    state.persist().unwrap();
    drop(state);
    let mut state = open();
    assert_eq!(state.retained_usage(), usage, "noted");
    state.delete(Space::Meta, b"retained".to_vec());
    state.persist().unwrap();
    drop(state);
    assert_eq!(open().retained_usage(), usage, "counted");
    std::fs::remove_dir_all(&directory).unwrap();
}

/// A session is counted once however often it is recorded.
#[test]
fn stored_sessions_are_counted() {
    let mut state = memory();
    for (at, client_id) in ["a", "b", "a"].into_iter().enumerate() {
        let sequence = Sequence(at as u64);
        fold(&mut state, PARTITION, sequence, &put(client_id, 500, b"")).unwrap();
    }
    assert_eq!(state.session_count(), 2);
    for client_id in ["a", "never"] {
        let delete = Record::SessionDelete { client_id };
        fold(&mut state, PARTITION, Sequence(9), &delete).unwrap();
    }
    assert_eq!(state.session_count(), 1);
}

/// A shard counts a record when it appends it; whatever the fold makes of it, the count then is
/// whether a session is stored.
#[test]
fn the_filter_of_stored_sessions_follows_the_fold() {
    on_both("filter", |state| {
        let stored = state.stored_sessions();
        let config = ThreadConfig {
            queue_requests_max: 1,
            persist_interval: Duration::from_secs(1),
            clock: Box::new(|| Timestamp(1)),
            shards: 1,
            quota: Arc::new(Quota::new(QuotaLimits::default(), 0, Usage::default())),
            in_memory: false,
            shard_of: Box::new(|_| ShardIndex(0)),
        };
        let mut storage = Storage::new(state, None, config, |_, _| {});
        let delete = || Record::SessionDelete { client_id: "c" };
        for (records, is_stored) in [
            (vec![delete()], false),
            (vec![put("c", 500, b"")], true),
            (vec![put("c", 600, b""), put("c", 700, b"")], true),
            (vec![delete(), delete()], false),
            (vec![delete(), put("c", 500, b""), delete()], false),
        ] {
            for record in &records {
                if let Record::SessionPut(put) = record {
                    stored.add(put.client_id);
                    assert!(stored.may_have("c"), "on its way");
                }
            }
            let (chunk, sequences) = chunk_of(&records);
            let (shard, folded_to) = (ShardIndex(0), chunk.end());
            storage.handle(StoreRequest::Apply { shard, chunk, sequences, folded_to });
            assert_eq!(stored.may_have("c"), is_stored, "{records:?}");
        }
    });
}

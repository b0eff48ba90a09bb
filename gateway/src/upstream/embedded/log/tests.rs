//! A whole log against files that fail, from seeds.

use super::faulty_files::FaultyFiles;
use super::files::{Files, perform};
use super::recover::for_each_record;
use super::*;
use crate::proto::mqtt::QoS;
use crate::proto::partition::{Chunk, PartitionId, Sequence};
use crate::proto::record::{Message, Record};
use crate::proto::time::Timestamp;
use crate::upstream::embedded::disk_watch::{DiskState, DiskWatch, Hold};
use std::time::Duration;

const PARTITION: PartitionId = PartitionId(3);
const TOPICS: [&str; 5] = ["a", "a/b", "plant/7/temperature", "x", "quiet"];

/// Small enough that a few hundred records roll through several segments.
fn small_limits() -> LogLimits {
    LogLimits {
        segment_bytes: 8 * 1024,
        tail_bytes_max: 2 * 1024,
        piece_cache_bytes_max: 300 * 1024,
        unsynced_bytes_max: 16 * 1024,
        ..LogLimits::default()
    }
}

/// A log, its files, and what it has promised.
struct Rig {
    files: FaultyFiles,
    log: Log,
    durability: Durability,
    limits: LogLimits,
    now: Timestamp,
    requests: Vec<LogIo>,
    committed: Vec<(Sequence, Vec<u8>)>,
    last_appended: Sequence,
    next_record: u64,
    flaws: u64,
}

impl Rig {
    fn new(seed: u64, durability: Durability, limits: LogLimits) -> Self {
        let mut files = FaultyFiles::new(seed);
        let now = Timestamp(1_000);
        let log = recover(&mut files, PARTITION, durability, limits, now).unwrap().log;
        let last_appended = Sequence::ZERO;
        let (requests, committed) = (Vec::new(), Vec::new());
        let (next_record, flaws) = (0, 0);
        Self {
            files,
            log,
            durability,
            limits,
            now,
            requests,
            committed,
            last_appended,
            next_record,
            flaws,
        }
    }

    fn append(&mut self) {
        self.next_record += 1;
        let pick = usize::try_from(self.files.below(TOPICS.len() as u64 - 1)).unwrap();
        let payload = vec![b'x'; usize::try_from(self.files.below(400)).unwrap()];
        self.append_message(TOPICS[pick], &payload);
    }

    fn append_message(&mut self, topic: &str, payload: &[u8]) {
        let publisher = format!("p{}", self.next_record);
        let message = Message {
            publisher: &publisher,
            qos: QoS::AtLeastOnce,
            retain: false,
            ledger: false,
            received_at: self.now,
            expiry_interval_s: None,
            packet_id: None,
            topic,
            properties: &[],
            payload,
        };
        let sequence = self.log.append(Some(topic_hash(topic)), |out| message.encode(out));
        assert!(sequence > self.last_appended, "sequence {sequence:?} was used before");
        self.last_appended = sequence;
    }

    fn flush(&mut self) {
        let mut chunks = Vec::new();
        self.log.flush(self.now, &mut self.requests, &mut chunks);
        self.keep(&chunks);
    }

    /// Performs one of the requests under way, any of them.
    fn perform_one(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let pick = usize::try_from(self.files.below(self.requests.len() as u64)).unwrap();
        let request = self.requests.remove(pick);
        let (token, result) = perform(&mut self.files, &request);
        let mut chunks = Vec::new();
        self.log.handle_io(token, result, &mut self.requests, &mut chunks);
        self.keep(&chunks);
    }

    fn keep(&mut self, chunks: &[Chunk]) {
        for chunk in chunks {
            for (sequence, body) in chunk.bodies() {
                let last = self.committed.last().map_or(Sequence::ZERO, |(last, _)| *last);
                assert!(sequence > last, "committed out of order");
                self.committed.push((sequence, body.to_vec()));
            }
        }
    }

    /// Performs and waits until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            self.flush();
            if !self.requests.is_empty() {
                self.perform_one();
            } else if self.log.uncommitted_bytes() == 0 {
                return;
            } else {
                self.now = self.log.next_timeout().unwrap_or(self.now).max(self.now);
            }
        }
        panic!("the log does not settle: {:?}", self.log.health());
    }

    fn reopen(&mut self) -> RecoveryReport {
        self.requests.clear();
        let recovered =
            recover(&mut self.files, PARTITION, self.durability, self.limits, self.now).unwrap();
        self.log = recovered.log;
        self.flaws += recovered.report.flaws;
        recovered.report
    }

    fn read(&mut self, request: ReplayRequest) -> Vec<(Sequence, Vec<u8>)> {
        let mut replay = self.log.replay(request);
        let mut records = Vec::new();
        for _ in 0..1_000_000 {
            let mut reads = Vec::new();
            match self.log.poll_replay(&mut replay, &mut reads) {
                ReadStep::Wait => {}
                ReadStep::Ready(answer) => {
                    for chunk in &answer.chunks {
                        records.extend(chunk.bodies().map(|(s, body)| (s, body.to_vec())));
                    }
                    if answer.end {
                        return records;
                    }
                }
            }
            for read in reads {
                let (token, result) = perform(&mut self.files, &read);
                self.log.handle_io(token, result, &mut self.requests, &mut Vec::new());
            }
        }
        panic!("the replay does not end");
    }

    fn read_all(&mut self) -> Vec<(Sequence, Vec<u8>)> {
        self.read(ReplayRequest {
            from: Sequence::ZERO,
            to: None,
            topics: ReplayTopics::All,
            max_bytes: 3_000,
        })
    }

    /// How many committed records are not there any more.
    fn lost(&mut self) -> usize {
        let there = self.read_all();
        assert!(there.windows(2).all(|pair| pair[0].0 < pair[1].0), "read out of order");
        let mut scanned = Vec::new();
        for_each_record(&mut self.files, &self.log, Sequence::ZERO, |sequence, body| {
            scanned.push((sequence, body.to_vec()));
        })
        .unwrap();
        assert_eq!(scanned, there, "the fold and the replay see the same records");
        for (sequence, body) in &there {
            assert!(Record::decode(body).is_some(), "served a damaged record at {sequence:?}");
        }
        let is_there = |record: &(Sequence, Vec<u8>)| {
            there.binary_search_by_key(&record.0, |(sequence, _)| *sequence).is_ok_and(|at| {
                assert_eq!(there[at].1, record.1, "another body at {:?}", record.0);
                true
            })
        };
        self.committed.iter().filter(|record| !is_there(record)).count()
    }
}

/// Appends, flushes, crashes and reopens as the seed says; returns how much was lost.
fn simulate(seed: u64, durability: Durability, ignore_syncs: bool, faults: bool) -> usize {
    let mut rig = Rig::new(seed, durability, small_limits());
    rig.files.ignore_syncs = ignore_syncs;
    if faults {
        rig.files.short_writes_per_mille = 100;
        rig.files.errors_per_mille = 30;
    }
    let mut lost = 0;
    for _ in 0..600 {
        match rig.files.below(100) {
            0..40 => rig.append(),
            40..60 => rig.flush(),
            60..97 => rig.perform_one(),
            97 => rig.now = rig.now.after(Duration::from_millis(50)),
            98 => {
                // A disk that is full for a while.
                rig.files.capacity_bytes = if faults { 50_000 } else { u64::MAX };
            }
            _ => {
                rig.files.capacity_bytes = u64::MAX;
                rig.files.crash();
                let (errors, short) =
                    (rig.files.errors_per_mille, rig.files.short_writes_per_mille);
                (rig.files.errors_per_mille, rig.files.short_writes_per_mille) = (0, 0);
                rig.reopen();
                lost += rig.lost();
                rig.committed = rig.read_all();
                (rig.files.errors_per_mille, rig.files.short_writes_per_mille) = (errors, short);
            }
        }
    }
    lost
}

fn seeds() -> Vec<u64> {
    match std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (0..60).collect(),
    }
}

#[test]
fn nothing_committed_is_lost_in_a_crash() {
    for seed in seeds() {
        println!("SEED={seed}");
        assert_eq!(simulate(seed, Durability::Fsync, false, false), 0, "SEED={seed}");
    }
}

#[test]
fn nothing_committed_is_lost_when_the_disk_fails_too() {
    for seed in seeds() {
        println!("SEED={seed}");
        assert_eq!(simulate(seed, Durability::Fsync, false, true), 0, "SEED={seed}");
    }
}

/// Shows that the simulation would notice.
#[test]
fn loss_is_noticed_when_syncs_are_skipped() {
    let lost: usize =
        seeds().into_iter().map(|seed| simulate(seed, Durability::Fsync, true, false)).sum();
    assert!(lost > 0, "nothing was lost although nothing was synced");
}

/// What was acknowledged without a sync may go, but what is there is in order and whole.
#[test]
fn interval_serves_only_whole_records_after_a_crash() {
    for seed in seeds() {
        println!("SEED={seed}");
        simulate(seed, Durability::Interval(Duration::from_millis(100)), false, true);
    }
}

#[test]
fn interval_survives_what_is_synced() {
    let mut rig = Rig::new(1, Durability::Interval(Duration::from_millis(100)), small_limits());
    (0..50).for_each(|_| rig.append());
    rig.settle();
    assert_eq!(rig.committed.len(), 50);
    rig.now = rig.log.next_timeout().expect("a sync is due");
    rig.flush();
    while !rig.requests.is_empty() {
        rig.perform_one();
    }
    assert_eq!(rig.log.next_timeout(), None);
    rig.files.crash();
    rig.reopen();
    assert_eq!(rig.lost(), 0);
}

#[test]
fn a_full_disk_acknowledges_nothing_and_recovers_by_itself() {
    let limits = LogLimits { uncommitted_bytes_max: 100, ..small_limits() };
    let mut rig = Rig::new(7, Durability::Fsync, limits);
    let (mut watch, mut said) = (DiskWatch::default(), Vec::new());
    rig.append();
    rig.settle();
    assert_eq!(watch.look(&rig.log, rig.now), None);
    assert_eq!(watch.next_look(), Timestamp::NEVER, "it wakes nobody up");
    rig.files.capacity_bytes = 5_000;
    (0..20).for_each(|_| rig.append());
    for _ in 0..50 {
        rig.flush();
        rig.perform_one();
        said.extend(watch.look(&rig.log, rig.now));
        rig.now = rig.log.next_timeout().unwrap_or(rig.now);
    }
    assert_eq!((rig.log.health(), rig.committed.len()), (Health::Full, 1));
    let full = DiskState { health: Health::Full, holds: Some(Hold::DiskBehind) };
    assert_eq!(said, [full], "once, however often it was tried");
    rig.files.capacity_bytes = u64::MAX;
    rig.settle();
    rig.now = rig.now.max(watch.next_look());
    let good = DiskState { health: Health::Good, holds: None };
    assert_eq!(watch.look(&rig.log, rig.now), Some(good));
    assert_eq!(watch.next_look(), Timestamp::NEVER);
    assert_eq!((rig.log.health(), rig.committed.len()), (Health::Good, 21));
    rig.files.crash();
    rig.reopen();
    assert_eq!(rig.lost(), 0);
}

#[test]
fn a_failed_sync_moves_what_it_covered_to_a_new_segment() {
    let mut rig = Rig::new(9, Durability::Fsync, small_limits());
    rig.append();
    rig.settle();
    (0..3).for_each(|_| rig.append());
    rig.flush();
    rig.perform_one();
    let Some(LogIo::Sync { segment: spoiled, .. }) = rig.requests.first().cloned() else {
        panic!("expected a sync, got {:?}", rig.requests);
    };
    rig.files.errors_per_mille = 1_000;
    rig.perform_one();
    rig.files.errors_per_mille = 0;
    assert!(matches!(rig.log.health(), Health::Failing(_)));
    assert_eq!(rig.committed.len(), 1);
    rig.settle();
    assert_eq!((rig.log.health(), rig.committed.len()), (Health::Good, 4));
    rig.append();
    rig.flush();
    assert!(
        rig.requests
            .iter()
            .any(|request| matches!(request, LogIo::Write { segment, .. } if *segment != spoiled))
    );
    rig.settle();
    rig.files.crash();
    rig.reopen();
    assert_eq!(rig.lost(), 0);
}

#[test]
fn flipped_bits_are_found_skipped_and_reported() {
    for seed in 0..40 {
        let mut rig = Rig::new(seed, Durability::Fsync, small_limits());
        (0..120).for_each(|_| {
            rig.append();
            rig.settle();
        });
        let names: Vec<String> = rig.files.list().unwrap();
        let logs: Vec<&String> = names.iter().filter(|name| name.ends_with(".log")).collect();
        let name = logs[usize::try_from(rig.files.below(logs.len() as u64 - 2)).unwrap()].clone();
        let index = name.replace(".log", ".index");
        rig.files.remove(&index).unwrap();
        let bits = (rig.files.length(&name).unwrap() - 4_096) * 8;
        let bit = rig.files.below(bits) + 4_096 * 8;
        assert!(rig.files.flip_bit(&name, usize::try_from(bit).unwrap()));
        // Found while running ...
        let before = rig.committed.len();
        let live = rig.read_all().len();
        // ... and by recovery.
        let report = rig.reopen();
        assert_eq!(report.flaws, 1, "seed {seed}");
        assert_eq!(rig.lost(), 1, "seed {seed}");
        assert!(live + 1 >= before, "seed {seed}: more than one record skipped");
    }
}

#[test]
fn literal_requests_find_what_a_scan_finds() {
    for seed in 0..40 {
        let durability = if seed % 4 == 0 { Durability::Memory } else { Durability::Fsync };
        let mut rig = Rig::new(seed, durability, small_limits());
        if durability == Durability::Memory {
            rig.log = Log::in_memory(PARTITION, small_limits(), rig.now);
        } else {
            rig.files.errors_per_mille = if seed % 2 == 0 { 40 } else { 0 };
        }
        for _ in 0..300 {
            rig.append();
            if rig.files.below(3) == 0 {
                rig.flush();
                rig.perform_one();
            }
        }
        rig.files.errors_per_mille = 0;
        rig.settle();
        rig.append(); // Stays in the open group, so its chain begins with an uncommitted frame.
        if seed % 3 == 0 && durability != Durability::Memory {
            rig.reopen();
        }
        let all = rig.read_all();
        assert!(all.len() >= 300, "seed {seed}: {} records", all.len());
        for topics in [&TOPICS[..1], &TOPICS[1..3], &TOPICS[4..], &TOPICS[..]] {
            let hashes: Vec<u64> = topics.iter().map(|topic| topic_hash(topic)).collect();
            let from = all[usize::try_from(rig.files.below(200)).unwrap()].0;
            let to = all[250].0;
            let expected: Vec<(Sequence, Vec<u8>)> = all
                .iter()
                .filter(|(sequence, _)| *sequence >= from && *sequence < to)
                .filter(|(_, body)| frame::topic_hash_of(body).is_some_and(|h| hashes.contains(&h)))
                .cloned()
                .collect();
            let topics = ReplayTopics::Literal(hashes);
            let found = rig.read(ReplayRequest { from, to: Some(to), topics, max_bytes: 2_000 });
            let places = |records: &[(Sequence, Vec<u8>)]| -> Vec<Sequence> {
                records.iter().map(|(sequence, _)| *sequence).collect()
            };
            assert_eq!(places(&found), places(&expected), "seed {seed}");
            assert_eq!(found, expected, "seed {seed}");
        }
    }
}

#[test]
fn records_longer_than_a_piece_are_read_back() {
    let mut rig = Rig::new(2, Durability::Fsync, small_limits());
    for length in [10, 700_000, 3, 262_144, 262_143, 50, 600_000] {
        rig.append_message("big", &vec![7; length]);
        rig.append();
        rig.settle();
    }
    assert_eq!(rig.read_all(), rig.committed);
    rig.reopen();
    assert_eq!(rig.read_all(), rig.committed);
    let literal = ReplayTopics::Literal(vec![topic_hash("big")]);
    let request =
        ReplayRequest { from: Sequence::ZERO, to: None, topics: literal, max_bytes: 1_000 };
    assert_eq!(rig.read(request).len(), 7);
}

#[test]
fn single_records_are_fetched() {
    let mut rig = Rig::new(4, Durability::Fsync, small_limits());
    (0..200).for_each(|_| rig.append());
    rig.settle();
    let wanted: Vec<(Sequence, Vec<u8>)> = rig.committed.iter().step_by(17).cloned().collect();
    let mut sequences: Vec<Sequence> = wanted.iter().map(|(sequence, _)| *sequence).collect();
    sequences.push(Sequence::embedded(900, 0));
    let mut replay = rig.log.fetch(sequences, usize::MAX);
    loop {
        let mut reads = Vec::new();
        if let ReadStep::Ready(answer) = rig.log.poll_replay(&mut replay, &mut reads) {
            let found: Vec<(Sequence, Vec<u8>)> = answer
                .chunks
                .iter()
                .flat_map(Chunk::bodies)
                .map(|(s, b)| (s, b.to_vec()))
                .collect();
            assert_eq!(found, wanted);
            assert_eq!((answer.end, answer.skipped), (true, 1));
            return;
        }
        for read in reads {
            let (token, result) = perform(&mut rig.files, &read);
            rig.log.handle_io(token, result, &mut rig.requests, &mut Vec::new());
        }
    }
}

#[test]
fn a_segment_stays_while_something_is_on_its_way_to_it() {
    for durability in [Durability::Fsync, Durability::Interval(Duration::from_secs(1))] {
        let mut rig = Rig::new(5, durability, small_limits());
        // Half a segment, so that its successor is there.
        while rig.log.newest_bytes() < rig.limits.segment_bytes / 2 {
            rig.append();
            rig.settle();
        }
        let (folded, count) = (rig.log.synced, rig.committed.len());
        (0..200).for_each(|_| rig.append());
        rig.flush();
        // The next segment is begun while the write is on its way.
        rig.append();
        assert_eq!(rig.log.segments.len(), 2);
        let mut out = Vec::new();
        assert_eq!(rig.log.trim(Sequence(u64::MAX), folded, rig.now, &mut out), 0);
        rig.settle();
        assert_eq!(rig.committed.len(), count + 201, "{durability:?}");
    }
}

#[test]
fn segments_go_when_folded_and_not_needed_or_too_old() {
    let mut rig = Rig::new(5, Durability::Fsync, small_limits());
    (0..200).for_each(|_| {
        rig.append();
        rig.settle();
    });
    let end = rig.log.committed_end();
    let middle = rig.committed[100].0;
    let mut out = Vec::new();
    assert_eq!(rig.log.trim(end, Sequence::ZERO, rig.now, &mut out), 0, "nothing is folded");
    let dropped = rig.log.trim(middle, end, rig.now, &mut out);
    assert!(dropped > 0 && out.len() as u64 == dropped, "{dropped} segments");
    assert!(rig.log.first_sequence() <= middle && rig.log.first_sequence() > rig.committed[0].0);
    let old = rig.now.after(rig.limits.retention_age);
    assert!(rig.log.trim(Sequence::ZERO, end, old, &mut out) > 0, "age wins over need");
    rig.requests.append(&mut out);
    rig.settle();
    let names = rig.files.list().unwrap();
    assert!(names.len() <= 3, "files left: {names:?}");
    let mut replay = rig.log.replay(ReplayRequest {
        from: middle,
        to: None,
        topics: ReplayTopics::All,
        max_bytes: 1,
    });
    rig.limits = LogLimits::default();
    let mut reads = Vec::new();
    while let ReadStep::Wait = rig.log.poll_replay(&mut replay, &mut reads) {
        for read in std::mem::take(&mut reads) {
            let (token, result) = perform(&mut rig.files, &read);
            rig.log.handle_io(token, result, &mut rig.requests, &mut Vec::new());
        }
    }
    assert!(matches!(
        rig.log.poll_replay(&mut replay, &mut reads),
        ReadStep::Ready(ReplayAnswer { clamped: true, .. })
    ));
}

#[test]
fn a_torn_header_of_a_new_segment_is_no_damage() {
    let mut rig = Rig::new(6, Durability::Fsync, small_limits());
    (0..60).for_each(|_| {
        rig.append();
        rig.settle();
    });
    rig.files.crash();
    let report = rig.reopen();
    assert_eq!((report.unreadable_segments, report.flaws), (0, 0));
    let second = rig.reopen();
    assert_eq!(second.segment_count, report.segment_count);
    assert_eq!(rig.lost(), 0);
}

use super::*;

const EPOCH: u32 = 9;
const STREAM: StreamKey = StreamKey { subscriber: 0, publisher: 0 };

fn stamp(sequence: u64) -> Stamp {
    Stamp { publisher: 0, epoch: EPOCH, sequence, intended_ns: 0, sent_ns: 0 }
}

/// Five messages published, the first three of them acknowledged; `arrivals` delivered.
fn settle(arrivals: &[u64]) -> Settlement {
    let mut ledger = Ledger::new(EPOCH);
    for &sequence in arrivals {
        ledger.delivered(0, &stamp(sequence));
    }
    let mut published = Published { count: 5, ..Published::default() };
    for sequence in 0..3 {
        published.acknowledged.insert(sequence);
    }
    ledger.settle(&[published], [STREAM])
}

#[track_caller]
fn check(arrivals: &[u64], breaches: [Option<Breach>; 3]) -> Settlement {
    let settlement = settle(arrivals);
    let found = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].map(|q| settlement.breach(q));
    assert_eq!(found, breaches, "{settlement:?}");
    settlement
}

#[test]
fn every_message_once_and_in_order_breaks_nothing() {
    let settlement = check(&[0, 1, 2, 3, 4], [None; 3]);
    assert_eq!((settlement.owed, settlement.delivered), (5, 5));
    assert_eq!(settlement.faulty_streams, []);
}

#[test]
fn a_lost_message_is_found_and_named() {
    let settlement = check(&[0, 1, 2, 4], [None, Some(Breach::Lost), Some(Breach::Lost)]);
    assert_eq!((settlement.delivered, settlement.lost), (4, 1));
    assert_eq!(settlement.acknowledged_then_lost, 0, "3 was never acknowledged");
    assert_eq!(settlement.faulty_streams[0].first_lost, Some(3));
    assert_eq!(settlement.reordered, 0, "a gap is no disorder");
}

#[test]
fn the_last_message_lost_is_found() {
    assert_eq!(settle(&[0, 1, 2, 3]).lost, 1);
}

#[test]
fn a_stream_of_which_nothing_came_is_lost_as_a_whole() {
    assert_eq!(settle(&[]).lost, 5);
}

#[test]
fn acknowledged_then_lost_is_told_apart() {
    let settlement = settle(&[0, 2, 4]);
    assert_eq!((settlement.lost, settlement.acknowledged_then_lost), (2, 1));
}

#[test]
fn what_was_published_before_the_subscription_is_not_owed() {
    let mut ledger = Ledger::new(EPOCH);
    ledger.subscribed(STREAM, 3);
    assert_eq!(ledger.delivered(0, &stamp(2)), Delivery::Early);
    assert_eq!(ledger.delivered(0, &stamp(3)), Delivery::First);
    let published = Published { count: 5, ..Published::default() };
    let settlement = ledger.settle(&[published], [STREAM]);
    assert_eq!((settlement.owed, settlement.lost, settlement.foreign), (2, 1, 0));
}

#[test]
fn a_session_that_ended_is_owed_what_came_before_its_last_delivery() {
    let mut ledger = Ledger::new(EPOCH);
    for sequence in [0, 2] {
        ledger.delivered(0, &stamp(sequence));
    }
    let mut published = Published { count: 5, ..Published::default() };
    (0..5).for_each(|sequence| {
        published.acknowledged.insert(sequence);
    });
    ledger.session_ended(STREAM, &published);
    ledger.subscribed(STREAM, 5);
    let settlement = ledger.settle(&[published], [STREAM]);
    assert_eq!((settlement.owed, settlement.delivered, settlement.lost), (3, 2, 1));
    assert_eq!(settlement.acknowledged_then_lost, 1, "3 and 4 may have waited in the session");
}

#[test]
fn what_its_publisher_gave_up_is_owed_only_if_it_was_acknowledged() {
    let mut published = Published { count: 3, discarded: vec![0, 1], ..Published::default() };
    published.acknowledged.insert(1);
    let settlement = Ledger::new(EPOCH).settle(&[published], [STREAM]);
    assert_eq!((settlement.owed, settlement.lost), (2, 2), "1 was acknowledged, 2 not given up");
}

#[test]
fn without_an_order_nothing_is_out_of_order() {
    let mut ledger = Ledger::new(EPOCH).unordered();
    for sequence in [1, 0] {
        ledger.delivered(0, &stamp(sequence));
    }
    let published = Published { count: 2, ..Published::default() };
    let settlement = ledger.settle(&[published], [STREAM]);
    assert_eq!((settlement.delivered, settlement.reordered), (2, 0));
}

#[test]
fn a_duplicate_breaks_exactly_once_only() {
    let settlement = check(&[0, 1, 1, 2, 3, 4, 0], [None, None, Some(Breach::Duplicated)]);
    assert_eq!((settlement.duplicated, settlement.reordered), (2, 0));
    assert_eq!(settlement.delivered, 5);
}

#[test]
fn a_late_first_delivery_is_reordered() {
    let reordered = Some(Breach::Reordered);
    let settlement = check(&[0, 2, 1, 3, 4], [None, reordered, reordered]);
    assert_eq!((settlement.reordered, settlement.lost), (1, 0));
}

#[test]
fn a_corrupted_message_breaks_every_qos() {
    let mut ledger = Ledger::new(EPOCH);
    ledger.corrupted();
    let settlement = ledger.settle(&[], []);
    assert_eq!(settlement.corrupted, 1);
    assert_eq!(settlement.breach(QoS::AtMostOnce), Some(Breach::Corrupted));
}

#[test]
fn messages_of_another_run_are_foreign() {
    let mut ledger = Ledger::new(EPOCH);
    let other = Stamp { epoch: EPOCH + 1, ..stamp(0) };
    assert_eq!(ledger.delivered(0, &other), Delivery::Foreign);
    let settlement = ledger.settle(&[], []);
    assert_eq!(settlement.foreign, 1);
    assert_eq!(settlement.breach(QoS::AtMostOnce), Some(Breach::Foreign));
}

#[test]
fn a_delivery_to_a_subscriber_that_did_not_ask_is_foreign() {
    let mut ledger = Ledger::new(EPOCH);
    ledger.delivered(1, &stamp(0));
    assert_eq!(ledger.settle(&[Published::default()], [STREAM]).foreign, 1);
}

#[test]
fn a_message_nobody_published_is_foreign() {
    assert_eq!(settle(&[0, 1, 2, 3, 4, 5]).foreign, 1);
}

#[test]
fn settlements_of_several_threads_add_up() {
    let mut sum = settle(&[0, 1, 2, 3, 4]);
    sum.merge(settle(&[0, 0, 2, 1]));
    assert_eq!((sum.owed, sum.delivered, sum.lost), (10, 8, 2));
    assert_eq!((sum.duplicated, sum.reordered), (1, 1));
    assert_eq!(sum.faulty_streams.len(), 1);
}

use super::*;
use crate::proto::mqtt::QoS;
use crate::proto::record::SessionPut;

const NOW: Timestamp = Timestamp(1_000);
const TICKET: Ticket = Ticket { session: 1, epoch: 1 };

fn owner(gateway: &str) -> Owner {
    Owner { gateway: gateway.into(), shard: 0, boot: 1 }
}

fn asked() -> Entry {
    let mut entry = Entry::new(0);
    let session_use = SessionUse::GoesOn { expiry_s: 60 };
    entry.ask(TICKET, session_use, SessionUser::default(), NOW);
    entry
}

fn act(entry: &mut Entry, nonce: u64) -> Option<Action> {
    entry.action(&owner("me"), nonce, NOW)
}

/// A session that another gateway has stored and let go of.
fn stored() -> SessionValue {
    let state = State::new(60, &SessionUser::default(), NOW);
    SessionValue { owner: None, epoch: 1, nonce: 77, state, wills: Vec::new() }
}

#[test]
fn a_session_is_answered_when_it_is_claimed_and_let_go_of_when_nobody_wants_it() {
    let mut entry = asked();
    assert_eq!(act(&mut entry, 1), Some(Action::Read));
    let outcome = entry.handle_read(Sequence(7), Some(stored()), &owner("me"), NOW);
    assert_eq!(outcome, Outcome::default(), "not before it is claimed");
    let Some(Action::Write { nonce: 2, expected: Sequence(7), bytes, time_to_live_s: None }) =
        act(&mut entry, 2)
    else {
        panic!("the claim is due");
    };
    assert_eq!(SessionValue::decode(&bytes).unwrap().owner, Some(owner("me")));
    let outcome = entry.handle_written(2, Written::Stored(Sequence(8)), NOW);
    assert!(matches!(outcome.answer, Some((TICKET, Ok(Some(_))))), "{outcome:?}");
    entry.settle_answer();
    let Some(Action::Write { nonce: 3, expected: Sequence(8), bytes, time_to_live_s: Some(_) }) =
        act(&mut entry, 3)
    else {
        panic!("nobody wanted it");
    };
    let value = SessionValue::decode(&bytes).unwrap();
    assert_eq!((value.owner, value.state), (None, stored().state));
    entry.handle_written(3, Written::Stored(Sequence(9)), NOW);
    assert!(entry.is_over());
}

/// The claim of a new session was in doubt, the client gave up, and meanwhile another gateway has
/// made the session: nothing of that may be touched.
#[test]
fn a_claim_that_nobody_waits_for_any_more_ends_where_another_was_faster() {
    let mut entry = asked();
    assert_eq!(act(&mut entry, 1), Some(Action::Read));
    entry.handle_read(Sequence::ZERO, None, &owner("me"), NOW);
    assert!(matches!(act(&mut entry, 2), Some(Action::Write { .. })));
    entry.doubt(NOW);
    // The client tries again, in vain.
    let session_use = SessionUse::GoesOn { expiry_s: 60 };
    entry.ask(TICKET, session_use, SessionUser::default(), NOW);
    let outcome = entry.handle_timeout(true, NOW.after(QUESTION_TIMEOUT));
    assert_eq!(outcome.answer, Some((TICKET, Err(()))));
    assert_eq!(act(&mut entry, 3), Some(Action::Read));
    let value = SessionValue { owner: Some(owner("other")), ..stored() };
    entry.handle_read(Sequence(9), Some(value), &owner("me"), NOW);
    assert!(entry.is_over());
}

#[test]
fn a_doubted_write_is_known_by_its_nonce() {
    let mut entry = asked();
    act(&mut entry, 1);
    entry.handle_read(Sequence::ZERO, None, &owner("me"), NOW);
    assert!(matches!(act(&mut entry, 2), Some(Action::Write { nonce: 2, .. })));
    entry.handle_written(2, Written::Unknown, NOW);
    assert_eq!(act(&mut entry, 3), None, "not at once");
    let later = NOW.after(RETRY);
    assert_eq!(entry.action(&owner("me"), 4, later), Some(Action::Read));
    let value = SessionValue { owner: Some(owner("me")), nonce: 2, ..stored() };
    let outcome = entry.handle_read(Sequence(5), Some(value), &owner("me"), later);
    assert!(matches!(outcome.answer, Some((TICKET, Ok(None)))), "{outcome:?}");
}

#[test]
fn an_owner_is_asked_before_its_record_is_claimed() {
    let mut entry = asked();
    act(&mut entry, 1);
    let value = SessionValue { owner: Some(owner("other")), ..stored() };
    entry.handle_read(Sequence(7), Some(value.clone()), &owner("me"), NOW);
    let ask = Action::AskOwner { owner: owner("other"), ends: false };
    assert_eq!(act(&mut entry, 2), Some(ask));
    entry.note_asked(31, NOW);
    assert_eq!(act(&mut entry, 3), None);
    entry.handle_let_go(30);
    assert_eq!(act(&mut entry, 4), None, "the answer to another question");
    entry.handle_let_go(31);
    assert_eq!(act(&mut entry, 5), Some(Action::Read));
    // It did not let go.
    entry.handle_read(Sequence(7), Some(value), &owner("me"), NOW);
    assert!(matches!(act(&mut entry, 6), Some(Action::Write { expected: Sequence(7), .. })));
}

/// Claimed by this shard, offline, with a will to come, and so still in memory.
fn kept_for_its_will() -> Entry {
    let mut entry = asked();
    act(&mut entry, 1);
    entry.handle_read(Sequence(7), Some(stored()), &owner("me"), NOW);
    act(&mut entry, 2);
    entry.handle_written(2, Written::Stored(Sequence(8)), NOW);
    let put = SessionPut {
        client_id: "c",
        expires_at: NOW.after_seconds(60),
        will_at: NOW.after_seconds(30),
        record: &[],
    };
    entry.append(&Record::SessionPut(put), 1);
    entry.settle_answer();
    assert!(matches!(act(&mut entry, 3), Some(Action::Write { nonce: 3, .. })));
    entry.handle_written(3, Written::Stored(Sequence(9)), NOW);
    assert!(entry.is_idle() && entry.is_claimed);
    entry
}

/// Let go of before, its record would say for as long as nobody takes it that the will is to be published.
#[test]
fn a_session_is_let_go_of_when_the_will_on_its_way_is_stored() {
    let mut entry = kept_for_its_will();
    let id = MessageId { origin: 1, number: 2 };
    let will = StoredWill {
        qos: QoS::ExactlyOnce,
        retain: false,
        expiry_interval_s: None,
        delay_s: 0,
        id,
        topic: "t".into(),
        properties: Box::default(),
        payload: Box::default(),
    };
    entry.note_will(&will);
    entry.waiters.push(Box::default());
    entry.give_up(NOW);
    let written = |entry: &mut Entry, nonce: u64| match act(entry, nonce) {
        Some(Action::Write { bytes, .. }) => {
            entry.handle_written(nonce, Written::Stored(Sequence(nonce + 10)), NOW);
            SessionValue::decode(&bytes).unwrap()
        }
        action => panic!("{action:?}"),
    };
    let value = written(&mut entry, 4);
    assert_eq!((value.owner, value.wills.len()), (Some(owner("me")), 1));
    assert!(act(&mut entry, 5).is_none() && !entry.is_over());
    entry.forget_will(id);
    let value = written(&mut entry, 6);
    assert_eq!((value.owner, value.wills.len()), (None, 0));
    assert!(entry.is_over());
}

/// Another gateway may have claimed it and not been heard.
#[test]
fn a_session_that_is_here_is_answered_when_it_is_claimed_anew() {
    let session_use = SessionUse::GoesOn { expiry_s: 60 };
    let mut entry = kept_for_its_will();
    let outcome = entry.ask(TICKET, session_use, SessionUser::default(), NOW);
    assert_eq!(outcome, Outcome::default());
    let Some(Action::Write { expected: Sequence(9), .. }) = act(&mut entry, 4) else {
        panic!("the claim is due");
    };
    // Not the one of which the last CONNECT had to hear.
    let again = Ticket { session: 1, epoch: 2 };
    entry.ask(again, session_use, SessionUser::default(), NOW);
    let outcome = entry.handle_written(4, Written::Stored(Sequence(10)), NOW);
    assert_eq!(outcome.answer, None);
    let Some(Action::Write { expected: Sequence(10), .. }) = act(&mut entry, 5) else {
        panic!("the claim is due");
    };
    assert_eq!(entry.handle_written(5, Written::Refused(Sequence(12)), NOW).answer, None);
    assert_eq!(act(&mut entry, 6), Some(Action::Read));
}

#[test]
fn a_session_that_stays_is_lost_where_another_has_claimed_it() {
    let mut entry = kept_for_its_will();
    let stays = SessionUse::Stays;
    entry.ask(TICKET, stays, SessionUser::default(), NOW);
    assert!(matches!(act(&mut entry, 4), Some(Action::Write { expected: Sequence(9), .. })));
    let outcome = entry.handle_written(4, Written::Stored(Sequence(10)), NOW);
    assert_eq!(outcome.answer, Some((TICKET, Ok(None))));
    entry.settle_answer();
    entry.ask(TICKET, stays, SessionUser::default(), NOW);
    assert!(matches!(act(&mut entry, 5), Some(Action::Write { expected: Sequence(10), .. })));
    let outcome = entry.handle_written(5, Written::Refused(Sequence(12)), NOW);
    assert!(outcome.is_lost && outcome.answer.is_none() && entry.is_over(), "{outcome:?}");
}

#[test]
fn a_session_of_another_user_is_shown_and_not_touched() {
    let mut entry = Entry::new(0);
    let anna = SessionUser { name: Some("anna".into()), is_bound: true };
    let berta = SessionUser { name: Some("berta".into()), is_bound: true };
    entry.ask(TICKET, SessionUse::StartsOver { expiry_s: 0 }, berta, NOW);
    act(&mut entry, 1);
    let state = State::new(60, &anna, NOW);
    let value = SessionValue { owner: Some(owner("other")), state, ..stored() };
    let outcome = entry.handle_read(Sequence(7), Some(value), &owner("me"), NOW);
    assert!(matches!(outcome.answer, Some((TICKET, Ok(Some(_))))), "{outcome:?}");
    entry.settle_answer();
    assert!(entry.is_over());
}

/// Claimed by this shard, with state, under nonce 3 at place 9.
fn recorded() -> Entry {
    let entry = kept_for_its_will();
    assert_eq!((entry.nonce, entry.sequence), (3, Sequence(9)));
    entry
}

fn earlier(entry: &Entry) -> SessionValue {
    SessionValue { owner: Some(owner("me")), epoch: entry.epoch, nonce: 2, ..stored() }
}

#[test]
fn a_record_that_the_server_has_lost_is_written_again() {
    // What is there: nothing, the mark of one that ended, the claim, what was there before.
    for case in 0..4 {
        let mut entry = recorded();
        let (sequence, value) = match case {
            0 => (Sequence::ZERO, None),
            1 => (Sequence(4), None),
            2 => (Sequence(8), Some(earlier(&entry))),
            _ => (Sequence(7), Some(stored())),
        };
        entry.doubt(Timestamp::START);
        entry.begin_life(false);
        assert_eq!(entry.lowest(), Lowest::Unknown);
        assert_eq!(act(&mut entry, 4), Some(Action::Read));
        assert_eq!(act(&mut entry, 5), None);
        assert_eq!(entry.handle_read(sequence, value, &owner("me"), NOW), Outcome::default());
        let Some(Action::Write { nonce: 6, expected, bytes, .. }) = act(&mut entry, 6) else {
            panic!("it is to be written");
        };
        let written = SessionValue::decode(&bytes).unwrap();
        assert_eq!((expected, written.epoch), (sequence, entry.epoch));
        assert_eq!((written.state, written.owner), (entry.state.clone(), Some(owner("me"))));
        entry.handle_written(6, Written::Stored(Sequence(5)), NOW);
        assert_eq!(entry.lowest(), Lowest::At(Sequence(5)));
        assert!(entry.is_idle() && entry.is_claimed);
    }
}

#[test]
fn a_record_that_is_there_is_not_written_again() {
    let mut entry = recorded();
    entry.doubt(Timestamp::START);
    entry.begin_life(false);
    // What was appended meanwhile waits for that.
    let record =
        Record::Qos2Released { client_id: "c", packet_id: PacketId(std::num::NonZeroU16::MIN) };
    entry.append(&record, 7);
    assert_eq!(act(&mut entry, 4), Some(Action::Read));
    let value = SessionValue { nonce: 3, ..earlier(&entry) };
    entry.handle_read(Sequence(9), Some(value), &owner("me"), NOW);
    assert!(matches!(act(&mut entry, 5), Some(Action::Write { expected: Sequence(9), .. })));
    // Refused where the places are known, it is another's.
    assert!(entry.handle_written(5, Written::Refused(Sequence(12)), NOW).is_lost);
}

/// A server with replicas that is behind: what it knows is earlier, and its leader knows better.
#[test]
fn a_record_is_not_lost_where_a_server_lags() {
    let mut entry = recorded();
    entry.doubt(Timestamp::START);
    entry.begin_life(false);
    act(&mut entry, 4);
    let value = earlier(&entry);
    entry.handle_read(Sequence(8), Some(value.clone()), &owner("me"), NOW);
    assert!(matches!(act(&mut entry, 5), Some(Action::Write { expected: Sequence(8), .. })));
    let outcome = entry.handle_written(5, Written::Refused(Sequence(9)), NOW);
    assert_eq!(outcome, Outcome::default());
    assert_eq!(act(&mut entry, 6), Some(Action::Read));
    entry.handle_read(Sequence(8), Some(value.clone()), &owner("me"), NOW);
    let later = NOW.after(RETRY);
    assert_eq!(entry.action(&owner("me"), 7, later), Some(Action::Read));
    let value = SessionValue { nonce: 3, ..value };
    entry.handle_read(Sequence(9), Some(value), &owner("me"), later);
    let action = entry.action(&owner("me"), 8, later);
    assert!(matches!(action, Some(Action::Write { nonce: 5, expected: Sequence(9), .. })));
}

/// By its epoch, as the places are used again: a claim of another is later, wherever it is.
#[test]
fn a_record_that_was_lost_may_be_anothers_by_now() {
    for is_on_its_way in [false, true] {
        let mut entry = recorded();
        if is_on_its_way {
            let record = Record::Qos2Released {
                client_id: "c",
                packet_id: PacketId(std::num::NonZeroU16::MIN),
            };
            entry.append(&record, 7);
            assert!(matches!(act(&mut entry, 4), Some(Action::Write { .. })));
        }
        entry.doubt(Timestamp::START);
        entry.begin_life(false);
        assert_eq!(act(&mut entry, 5), Some(Action::Read));
        let other = Some(owner("other"));
        let value = SessionValue { owner: other, epoch: entry.epoch + 1, ..stored() };
        let outcome = entry.handle_read(Sequence(6), Some(value), &owner("me"), NOW);
        assert!(outcome.is_lost && entry.is_over());
    }
}

/// Another has ended the session: the mark of that is behind it, or is no more.
#[test]
fn a_record_that_another_has_deleted_is_not_written_again() {
    for (place, may_have_ended) in [(12, false), (0, true)] {
        let mut entry = recorded();
        entry.doubt(Timestamp::START);
        entry.begin_life(may_have_ended);
        act(&mut entry, 4);
        let outcome = entry.handle_read(Sequence(place), None, &owner("me"), NOW);
        assert!(outcome.is_lost && entry.is_over());
        let mut entry = Entry::new(0);
        let (sequence, bytes) = (Sequence(8), stored().encode());
        entry.let_go_again(LetGo { sequence, epoch: 1, nonce: 77, bytes, time_to_live_s: None });
        entry.may_have_ended = may_have_ended;
        act(&mut entry, 4);
        entry.handle_read(Sequence(place), None, &owner("me"), NOW);
        assert!(entry.is_over());
    }
}

#[test]
fn what_was_let_go_of_is_written_again_unless_another_has_it() {
    let let_go = || {
        let value = SessionValue { epoch: 5, nonce: 9, ..stored() };
        let (bytes, time_to_live_s) = (value.encode(), Some(30));
        LetGo { sequence: Sequence(8), epoch: 5, nonce: 9, bytes, time_to_live_s }
    };
    let begin = || {
        let mut entry = Entry::new(0);
        entry.let_go_again(let_go());
        assert_eq!(act(&mut entry, 1), Some(Action::Read));
        entry
    };
    let mut entry = begin();
    entry.handle_read(Sequence(2), Some(SessionValue { epoch: 4, ..stored() }), &owner("me"), NOW);
    let Some(Action::Write { nonce: 9, bytes, expected: Sequence(2), time_to_live_s: Some(30) }) =
        act(&mut entry, 2)
    else {
        panic!("it is to be written");
    };
    assert_eq!(bytes, let_go().bytes);
    entry.handle_written(9, Written::Stored(Sequence(3)), NOW);
    assert!(entry.is_over());
    let (_, kept) = entry.into_rest();
    assert_eq!(kept, Some(LetGo { sequence: Sequence(3), ..let_go() }));
    // It is there.
    let mut entry = begin();
    let value = SessionValue { epoch: 5, nonce: 9, ..stored() };
    entry.handle_read(Sequence(8), Some(value), &owner("me"), NOW);
    assert!(entry.is_over());
    // Another has it.
    let mut entry = begin();
    let value = SessionValue { epoch: 6, ..stored() };
    entry.handle_read(Sequence(3), Some(value), &owner("me"), NOW);
    assert!(entry.is_over());
    assert_eq!(entry.into_rest().1, None);
    // Its client comes back meanwhile.
    let mut entry = begin();
    entry.ask(TICKET, SessionUse::GoesOn { expiry_s: 60 }, SessionUser::default(), NOW);
    entry.handle_read(Sequence(2), Some(SessionValue { epoch: 4, ..stored() }), &owner("me"), NOW);
    assert!(matches!(act(&mut entry, 4), Some(Action::Write { nonce: 9, .. })));
    assert_eq!(entry.handle_written(9, Written::Stored(Sequence(3)), NOW).answer, None);
    assert!(matches!(act(&mut entry, 5), Some(Action::Write { expected: Sequence(3), .. })));
    let outcome = entry.handle_written(5, Written::Stored(Sequence(4)), NOW);
    assert!(matches!(outcome.answer, Some((TICKET, Ok(Some(_))))), "{outcome:?}");
}

/// A server that lagged had said that nothing is there.
#[test]
fn what_a_claim_is_made_of_is_read_again_where_it_may_be_lost() {
    let mut entry = asked();
    act(&mut entry, 1);
    entry.handle_read(Sequence::ZERO, None, &owner("me"), NOW);
    assert!(matches!(act(&mut entry, 2), Some(Action::Write { .. })));
    entry.doubt(Timestamp::START);
    entry.begin_life(false);
    assert_eq!(act(&mut entry, 3), Some(Action::Read));
    entry.handle_read(Sequence(7), Some(stored()), &owner("me"), NOW);
    assert!(matches!(act(&mut entry, 4), Some(Action::Write { expected: Sequence(7), .. })));
    let outcome = entry.handle_written(4, Written::Stored(Sequence(8)), NOW);
    assert!(matches!(outcome.answer, Some((TICKET, Ok(Some(_))))), "{outcome:?}");
}

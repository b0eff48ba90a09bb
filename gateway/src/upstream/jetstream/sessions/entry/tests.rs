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

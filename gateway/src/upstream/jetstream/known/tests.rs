use super::*;

const NOW: Timestamp = Timestamp(100_000);

/// One that has read these subjects, for questions up to 10.
fn having(topics: &[&str]) -> Known {
    let mut known = Known::default();
    known.wait(10);
    known.look(10, NOW);
    for (place, topic) in (1..).zip(topics) {
        known.take(topic.as_bytes(), Sequence(place), false, 0);
    }
    assert_eq!(known.looked(false, NOW), Looked::Over(vec![10]));
    known
}

#[track_caller]
fn check(known: &Known, subject: &str, from: u64, expected: Word) {
    assert_eq!(known.word(10, subject.as_bytes(), Sequence(from), NOW), expected, "{subject}");
}

#[test]
fn a_question_is_answered_by_a_look_that_was_sent_after_it_came() {
    let mut known = Known::default();
    assert_eq!(known.word(1, b"a", Sequence(1), NOW), Word::Wait);
    known.wait(1);
    assert!(known.is_due(NOW), "the first at once");
    assert_eq!(known.look(1, NOW).0, Sequence(1));
    assert!(!known.is_due(NOW), "one at a time");
    known.wait(2);
    assert_eq!(known.looked(false, NOW), Looked::Over(vec![1, 2]));
    assert_eq!(known.word(1, b"a", Sequence(1), NOW), Word::Nothing);
    assert_eq!(known.word(2, b"a", Sequence(1), NOW), Word::Wait);
    known.wait(2);
    assert_eq!(known.next_timeout(), NOW.after(INTERVAL));
    (3..).take(WAITING_MANY - 1).for_each(|id| known.wait(id));
    assert!(known.is_due(NOW), "many do not wait");
}

#[test]
fn what_is_there_is_known_by_subject_and_place() {
    let mut known = having(&["r.a.1", "r.a.2", "r.b"]);
    for (subject, word) in [
        ("r.a.1", Word::Something),
        ("r.a.3", Word::Nothing),
        ("r.a", Word::Nothing),
        ("r.*.2", Word::Something),
        ("r.*.3", Word::Nothing),
        ("r.a.>", Word::Something),
        ("r.b.>", Word::Nothing),
        ("r.>", Word::Something),
        ("r.*", Word::Something),
        ("s.>", Word::Nothing),
    ] {
        check(&known, subject, 1, word);
    }
    check(&known, "r.a.1", 2, Word::Nothing);
    check(&known, "r.*.2", 2, Word::Something);
    check(&known, "r.a.>", 3, Word::Nothing);
    known.take(b"r.a.1", Sequence(4), true, 0);
    known.take(b"r.a.2", Sequence(5), false, 0);
    check(&known, "r.a.1", 1, Word::Nothing);
    check(&known, "r.a.>", 5, Word::Something);
    assert_eq!(known.topic_bytes, "r.a.2r.b".len());
}

#[test]
fn where_many_topics_are_alike_there_may_be_something() {
    let topics: Vec<String> =
        (0..COMPARED_MAX + 1).map(|place| format!("r.{place:03}.a")).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    check(&having(&topics[1..]), "r.*.b", 1, Word::Nothing);
    check(&having(&topics), "r.*.b", 1, Word::Something);
}

/// Reading takes no more than answering one by one would have.
#[test]
fn what_costs_more_than_asking_is_not_read() {
    let mut known = Known::default();
    known.wait(1);
    assert_eq!(known.look(1, NOW).1, 64);
    (1..=64).for_each(|place| known.take(&[1, place], Sequence(place.into()), false, 0));
    known.note_backlog(100);
    assert_eq!(known.looked(true, NOW), Looked::Over(vec![1]));
    assert_eq!(known.word(1, b"a", Sequence(1), NOW), Word::Something, "it asks by itself");
    (0..99).for_each(|_| known.earn());
    assert_eq!(known.word(2, b"a", Sequence(1), NOW), Word::Something);
    known.earn();
    assert_eq!(known.word(2, b"a", Sequence(1), NOW), Word::Wait);
    known.wait(2);
    assert_eq!(known.look(2, NOW), (Sequence(65), 100));
    known.take(b"z", Sequence(65), false, 50 * 1_024);
    known.note_backlog(50);
    assert_eq!(known.looked(true, NOW), Looked::Over(vec![2]), "large ones cost more");
    (0..1).for_each(|_| known.earn());
    known.wait(3);
    known.look(3, NOW);
    known.take(b"y", Sequence(66), false, 0);
    known.note_backlog(49);
    assert_eq!(known.looked(true, NOW), Looked::More);
    assert_eq!(known.look(3, NOW).0, Sequence(67));
}

#[test]
fn more_topics_than_the_limit_are_not_known_for_a_while() {
    for (backlog, is_known) in [(TOPICS_MAX - 1, true), (TOPICS_MAX, false)] {
        let mut known = Known { credit: CREDIT_MAX, ..Known::default() };
        known.wait(1);
        known.look(1, NOW);
        known.take(b"a", Sequence(1), false, 0);
        known.note_backlog(backlog);
        known.looked(true, NOW);
        assert_eq!(known.topics.len() == 1, is_known);
        let word = known.word(2, b"b", Sequence(1), NOW);
        assert_eq!(word, if is_known { Word::Wait } else { Word::Something });
        let later = NOW.after(TOO_MUCH_WAIT);
        assert_eq!(known.word(2, b"b", Sequence(1), later), Word::Wait);
    }
    let mut known = having(&["a"]);
    known.topic_bytes = TOPIC_BYTES_MAX + 1;
    known.wait(11);
    known.look(11, NOW);
    known.looked(false, NOW);
    assert_eq!(known.word(11, b"b", Sequence(1), NOW), Word::Something);
}

#[test]
fn what_was_read_is_read_anew_after_a_while_and_after_a_fault() {
    let mut known = having(&["a"]);
    let later = Timestamp(NOW.0 + AGE_MAX_MS);
    known.wait(11);
    assert_eq!(known.look(11, later).0, Sequence(1));
    assert_eq!(known.fail(later.after(INTERVAL)), [11]);
    assert_eq!(known.word(12, b"a", Sequence(1), later), Word::Something, "not at once");
    let mut known = having(&["a"]);
    known.forget();
    assert_eq!(known.next(), Sequence(1));
    check(&known, "a", 1, Word::Wait);
}

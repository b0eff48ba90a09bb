//! The window, step by step and against a model.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const START: Timestamp = Timestamp(1_000);

fn window(capacity: usize) -> Window<&'static str> {
    Window::new(capacity, Duration::from_millis(100), Token(7))
}

fn due(window: &mut Window<&'static str>, now: u64) -> Vec<(u64, u32, &'static str)> {
    let mut found = Vec::new();
    let now = Timestamp(now);
    window.take_due(now, |token, attempts, publish| found.push((token.0, attempts, *publish)));
    found
}

#[test]
fn acknowledged_in_any_order_and_released_in_the_order_sent() {
    let mut window = window(3);
    for (publish, token) in [("a", 7), ("b", 8), ("c", 9)] {
        assert_eq!(window.next_token(), Token(token));
        assert_eq!(window.push(publish, START), Ok(Token(token)));
    }
    assert_eq!(window.push("d", START), Err("d"), "full");
    assert_eq!(window.acknowledge(Token(9), Outcome::Stored(30)), Some(&mut "c"));
    assert_eq!(window.acknowledge(Token(8), Outcome::Refused(10_077)), Some(&mut "b"));
    assert_eq!(window.release(), None, "the first still waits");
    assert!(window.is_full(), "what has ended keeps its place until the first has");
    assert_eq!(window.acknowledge(Token(7), Outcome::Stored(31)), Some(&mut "a"));
    for (token, publish, outcome) in [
        (7, "a", Outcome::Stored(31)),
        (8, "b", Outcome::Refused(10_077)),
        (9, "c", Outcome::Stored(30)),
    ] {
        assert_eq!(window.release(), Some(Released { token: Token(token), publish, outcome }));
    }
    assert_eq!(window.release(), None);
    assert_eq!(window.push("d", START), Ok(Token(10)));
}

#[test]
fn a_second_acknowledgement_is_nothing() {
    let mut window = window(3);
    assert_eq!(window.push("a", START), Ok(Token(7)));
    assert!(window.acknowledge(Token(7), Outcome::Stored(1)).is_some());
    assert_eq!(window.acknowledge(Token(7), Outcome::Stored(2)), None);
    assert_eq!(window.release().unwrap().outcome, Outcome::Stored(1));
    for token in [0, 6, 7, 8, u64::MAX] {
        assert_eq!(window.acknowledge(Token(token), Outcome::Stored(3)), None, "{token}");
    }
    assert_eq!(window.waiting_count(), 0);
}

#[test]
fn what_is_not_acknowledged_in_time_is_sent_again_until_it_is() {
    let mut window = window(3);
    assert_eq!(window.next_timeout(), None);
    assert_eq!(window.push("a", START), Ok(Token(7)));
    assert_eq!(window.push("b", Timestamp(1_050)), Ok(Token(8)));
    assert_eq!(window.next_timeout(), Some(Timestamp(1_100)));
    assert_eq!(due(&mut window, 1_099), []);
    assert_eq!(due(&mut window, 1_100), [(7, 1, "a")]);
    assert_eq!(window.next_timeout(), Some(Timestamp(1_150)));
    assert_eq!(due(&mut window, 1_200), [(7, 2, "a"), (8, 1, "b")]);
    assert_eq!(window.next_timeout(), Some(Timestamp(1_300)));
    assert!(window.acknowledge(Token(7), Outcome::Stored(1)).is_some());
    assert_eq!(due(&mut window, 1_300), [(8, 2, "b")]);
    assert!(window.acknowledge(Token(8), Outcome::Stored(2)).is_some());
    assert_eq!(window.next_timeout(), None);
    assert_eq!(due(&mut window, 9_999), []);
}

#[test]
fn after_a_lost_connection_all_that_waits_is_sent_again_in_order() {
    let mut window = window(3);
    for publish in ["a", "b", "c"] {
        window.push(publish, START).unwrap();
    }
    assert!(window.acknowledge(Token(8), Outcome::Stored(1)).is_some());
    window.retry_all_at(Timestamp(1_010));
    assert_eq!(due(&mut window, 1_009), []);
    assert_eq!(due(&mut window, 1_010), [(7, 1, "a"), (9, 1, "c")]);
    assert_eq!(due(&mut window, 1_109), []);
}

#[test]
fn what_the_server_cannot_store_now_is_tried_later() {
    let mut window = window(3);
    window.push("a", START).unwrap();
    window.push("b", START).unwrap();
    window.retry_at(Token(7), Timestamp(5_000));
    window.retry_at(Token(99), Timestamp(1));
    assert_eq!(due(&mut window, 1_100), [(8, 1, "b")]);
    assert!(window.acknowledge(Token(8), Outcome::Stored(1)).is_some());
    assert_eq!(due(&mut window, 4_999), []);
    assert_eq!(due(&mut window, 5_000), [(7, 1, "a")]);
}

/// One thing that happens to a window.
#[derive(Clone, Debug)]
enum Event {
    Push,
    Acknowledge(u64),
    RetryAll,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => Just(Event::Push),
        5 => (0..40_u64).prop_map(Event::Acknowledge),
        1 => Just(Event::RetryAll),
        2 => (0..150_u64).prop_map(Event::Wait),
    ]
}

proptest! {
    /// Whatever happens, every publish is released once and in order, nothing is sent again that
    /// was acknowledged, and what waits longer than the time-out is.
    #[test]
    fn behaves_as_a_plain_list(events in prop::collection::vec(event(), 0..200)) {
        let mut window = Window::new(8, Duration::from_millis(100), Token(0));
        let mut now = 0;
        // Of each publish that waits, when it was last sent.
        let mut waiting: BTreeMap<u64, u64> = BTreeMap::new();
        let mut released = 0;
        let mut pushed = 0;
        for event in events {
            match event {
                Event::Push => {
                    let is_full = pushed - released == 8;
                    prop_assert_eq!(window.is_full(), is_full);
                    match window.push(pushed, Timestamp(now)) {
                        Ok(token) => {
                            prop_assert_eq!(token, Token(pushed));
                            waiting.insert(pushed, now);
                            pushed += 1;
                        }
                        Err(publish) => prop_assert!(is_full && publish == pushed),
                    }
                }
                Event::Acknowledge(token) => {
                    let ended = window.acknowledge(Token(token), Outcome::Stored(token)).is_some();
                    prop_assert_eq!(ended, waiting.remove(&token).is_some());
                }
                Event::RetryAll => {
                    window.retry_all_at(Timestamp(now));
                    waiting.values_mut().for_each(|sent_at| *sent_at = now.saturating_sub(100));
                }
                Event::Wait(millis) => now += millis,
            }
            let due = window.next_timeout().is_some_and(|due| due <= Timestamp(now));
            let mut again = Vec::new();
            window.take_due(Timestamp(now), |token, _, publish| again.push((token.0, *publish)));
            prop_assert!(due || again.is_empty(), "nothing is due before next_timeout");
            for (token, publish) in again {
                prop_assert_eq!(token, publish);
                prop_assert!(waiting.insert(token, now).is_some(), "only what waits is sent again");
            }
            for (token, sent_at) in &waiting {
                prop_assert!(now - sent_at < 100 || now < 100, "{} is overdue", token);
            }
            while let Some(done) = window.release() {
                prop_assert_eq!((done.token, done.publish), (Token(released), released));
                prop_assert!(!waiting.contains_key(&released));
                released += 1;
            }
            prop_assert_eq!(window.waiting_count(), waiting.len());
        }
    }
}

//! Storms, bans and rates: who is let in when, and how fast one may be.

use crate::packets::{framed, sized};
use crate::sim::{SimClient, SimNode, SimSettings};
use gateway::config::parse_network;
use gateway::proto::access::{Authentication, AuthenticationRequest, Identity, Proof, Refusal};
use gateway::proto::limits::Limits;
use gateway::proto::time::Timestamp;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// CONNECT of 5.0 or 3.1.1, clean and without keep alive.
fn connect(level: u8, client_id: &str) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', level, 2, 0, 0];
    body.extend_from_slice(if level == 5 { &[0] } else { &[] });
    body.extend(sized(client_id));
    framed(0x10, &body)
}

fn node(limits: Limits) -> SimNode {
    SimNode::with(SimSettings { limits, ..SimSettings::default() })
}

/// What CONNACK says, if it has come.
fn code(node: &mut SimNode, client: SimClient) -> Option<u8> {
    let bytes = node.take(client);
    assert!(bytes.is_empty() || bytes[0] == 0x20, "{bytes:?}");
    bytes.get(3).copied()
}

fn knock(node: &mut SimNode, level: u8, client_id: &str) -> (SimClient, Option<u8>) {
    let client = node.connect();
    node.send(client, &connect(level, client_id));
    let code = code(node, client);
    (client, code)
}

#[test]
fn connects_beyond_the_rate_wait_for_their_turn() {
    let mut node = node(Limits { connect_rate_max: 10, ..Limits::default() });
    let clients: Vec<SimClient> =
        (0..30).map(|number| knock(&mut node, 4, &format!("c{number}")).0).collect();
    let let_in = |node: &mut SimNode| {
        clients.iter().filter(|client| code(node, **client) == Some(0)).count()
    };
    // The first ten were answered when they knocked.
    assert_eq!(let_in(&mut node), 0);
    assert_eq!(node.shard(0).state().session_count(), 10);
    node.advance(Duration::from_millis(1_050));
    let after_a_second = let_in(&mut node);
    assert!((9..=11).contains(&after_a_second), "{after_a_second}");
    node.advance(Duration::from_millis(1_050));
    assert_eq!(node.shard(0).state().session_count(), 30);
    assert_eq!(node.shard(0).state().counters().connects_delayed, 20);
}

#[test]
fn who_waits_too_long_or_behind_too_many_is_refused() {
    let limits = Limits {
        connect_rate_max: 1,
        connects_waiting_max: 3,
        connect_wait_max_ms: 1_500,
        ..Limits::default()
    };
    for (level, busy) in [(4, 3), (5, 0x89)] {
        let mut node = node(limits.clone());
        assert_eq!(knock(&mut node, level, "first").1, Some(0));
        let waiting: Vec<SimClient> =
            (0..3).map(|number| knock(&mut node, level, &format!("c{number}")).0).collect();
        let (late, refused) = knock(&mut node, level, "late");
        assert!(refused == Some(busy) && node.is_closed(late));
        node.advance(Duration::from_secs(2));
        let codes: Vec<Option<u8>> =
            waiting.iter().map(|client| code(&mut node, *client)).collect();
        assert_eq!(codes, [Some(0), Some(busy), Some(busy)]);
        // Nobody waits any more, and one a second comes in.
        node.advance(Duration::from_secs(2));
        assert_eq!(knock(&mut node, level, "next").1, Some(0));
    }
}

#[test]
fn while_the_loop_is_late_only_those_who_are_connected_are_served() {
    let mut node = node(Limits { overload_lag_ms: 10, ..Limits::default() });
    let (inside, accepted) = knock(&mut node, 5, "inside");
    assert_eq!(accepted, Some(0));
    let take_turns = |node: &mut SimNode, micros: u64| {
        for _ in 0..64 {
            node.note_lag(micros);
        }
    };
    take_turns(&mut node, 9_000);
    assert_eq!(knock(&mut node, 5, "in time").1, Some(0));
    take_turns(&mut node, 20_000);
    let (waiting, answer) = knock(&mut node, 5, "waiting");
    assert_eq!(answer, None);
    node.advance(Duration::from_secs(1));
    assert_eq!(node.exchange(inside, &[0xC0, 0]), [0xD0, 0]);
    assert_eq!(code(&mut node, waiting), None);
    // A little better is not enough.
    take_turns(&mut node, 5_000);
    node.advance(Duration::from_millis(100));
    assert_eq!(code(&mut node, waiting), None);
    take_turns(&mut node, 1_000);
    node.advance(Duration::from_millis(100));
    assert_eq!(code(&mut node, waiting), Some(0));
    assert_eq!(knock(&mut node, 5, "later").1, Some(0));
}

#[test]
fn an_address_has_a_rate_of_its_own() {
    let mut node = node(Limits { address_connect_rate_max: 2, ..Limits::default() });
    let from = |node: &mut SimNode, level: u8, address: &str| {
        let client = node.connect_from(address.parse::<IpAddr>().unwrap());
        node.send(client, &connect(level, &format!("{client:?}")));
        code(node, client)
    };
    for _ in 0..2 {
        assert_eq!(from(&mut node, 5, "192.0.2.1"), Some(0));
        assert_eq!(from(&mut node, 5, "2001:db8::1"), Some(0));
    }
    assert_eq!(from(&mut node, 5, "192.0.2.1"), Some(0x9F));
    assert_eq!(from(&mut node, 4, "::ffff:192.0.2.1"), Some(3));
    assert_eq!(from(&mut node, 5, "2001:db8::2"), Some(0x9F), "the same network");
    assert_eq!(from(&mut node, 5, "2001:db8:0:1::1"), Some(0));
    assert_eq!(from(&mut node, 5, "192.0.2.2"), Some(0));
    node.advance(Duration::from_millis(500));
    assert_eq!(from(&mut node, 5, "192.0.2.1"), Some(0));
    assert_eq!(node.shard(0).state().counters().connects_turned_away, 3);
}

#[test]
fn whoever_is_banned_is_not_let_in() {
    let range = |text: &str| parse_network(text).unwrap();
    let limits = Limits {
        banned_client_ids: vec!["bad".to_owned()],
        banned_addresses: vec![range("192.0.2.0/24")],
        ..Limits::default()
    };
    let mut node = node(limits);
    assert_eq!(knock(&mut node, 5, "bad").1, Some(0x8A));
    assert_eq!(knock(&mut node, 4, "bad").1, Some(5));
    assert_eq!(knock(&mut node, 4, "badly").1, Some(0));
    for (address, expected) in [("192.0.2.77", 0x8A), ("192.0.3.77", 0)] {
        let client = node.connect_from(address.parse().unwrap());
        node.send(client, &connect(5, address));
        assert_eq!(code(&mut node, client), Some(expected), "{address}");
    }
}

#[test]
fn a_client_that_connects_too_often_is_not_let_in_for_a_while() {
    let limits = Limits {
        flapping_connects_max: 3,
        flapping_window_s: 10,
        flapping_ban_s: 30,
        ..Limits::default()
    };
    let mut node = node(limits);
    for expected in [0, 0, 0, 0x8A, 0x8A] {
        assert_eq!(knock(&mut node, 5, "moth").1, Some(expected));
    }
    assert_eq!(knock(&mut node, 4, "moth").1, Some(5));
    assert_eq!(knock(&mut node, 5, "owl").1, Some(0));
    node.advance(Duration::from_secs(29));
    assert_eq!(knock(&mut node, 5, "moth").1, Some(0x8A));
    node.advance(Duration::from_secs(2));
    for _ in 0..3 {
        assert_eq!(knock(&mut node, 5, "moth").1, Some(0));
        node.advance(Duration::from_secs(4));
    }
    assert_eq!(knock(&mut node, 5, "moth").1, Some(0), "another window");
}

/// A password that is the user name is right.
fn who(request: &AuthenticationRequest) -> Authentication {
    let user_name = request.user_name.clone().ok_or(Refusal::NoCredentials)?;
    if request.password.as_deref() != Some(user_name.as_bytes()) {
        return Err(Refusal::BadCredentials);
    }
    Ok(Arc::new(Identity {
        user_name: Some(user_name),
        mountpoint: None,
        acl: None,
        proof: Proof::None,
        expires_at: Timestamp::NEVER,
    }))
}

/// The password is the mountpoint, as that of a token may be.
fn who_of_tenant(request: &AuthenticationRequest) -> Authentication {
    let mountpoint = request.password.as_deref().map(|text| String::from_utf8_lossy(text));
    Ok(Arc::new(Identity {
        user_name: request.user_name.clone(),
        mountpoint: mountpoint.map(|text| text.into_owned().into()),
        acl: None,
        proof: Proof::None,
        expires_at: Timestamp::NEVER,
    }))
}

/// The answer to a CONNECT of 5.0 from an address.
fn login(
    node: &mut SimNode,
    address: &str,
    client_id: &str,
    (user, password): (&str, &str),
) -> Option<u8> {
    let client = node.connect_from(address.parse().unwrap());
    let head = [0, 4, b'M', b'Q', b'T', b'T', 5, 0xC2, 0, 0, 0];
    let texts = [client_id, user, password].map(sized).concat();
    node.send(client, &framed(0x10, &[&head[..], &texts].concat()));
    let code = code(node, client);
    if !node.is_closed(client) {
        node.drop_connection(client);
    }
    code
}

const ANNA: (&str, &str) = ("anna", "anna");
const OTTO: (&str, &str) = ("otto", "otto");
const WRONG: (&str, &str) = ("anna", "wrong");

#[test]
fn a_client_of_the_same_name_in_another_tenant_keeps_nobody_out() {
    let limits = Limits { authenticate: true, flapping_connects_max: 3, ..Limits::default() };
    let authenticate = Some(who_of_tenant as _);
    let mut node = SimNode::with(SimSettings { limits, authenticate, ..SimSettings::default() });
    for tenant in ["acme", "zen"] {
        for expected in [0, 0, 0, 0x8A] {
            let code = login(&mut node, "192.0.2.1", "moth", ("app", tenant));
            assert_eq!(code, Some(expected), "{tenant}");
        }
    }
}

#[test]
fn a_stranger_who_names_a_client_id_keeps_nobody_out() {
    let limits = Limits { authenticate: true, flapping_connects_max: 3, ..Limits::default() };
    let settings = SimSettings { limits, authenticate: Some(who), ..SimSettings::default() };
    let mut node = SimNode::with(settings);
    let here = "192.0.2.1";
    for _ in 0..20 {
        assert_eq!(login(&mut node, here, "moth", WRONG), Some(0x86));
    }
    // A user that is known has a count of its own.
    for expected in [0, 0, 0, 0x8A, 0x8A] {
        assert_eq!(login(&mut node, here, "moth", OTTO), Some(expected));
    }
    assert_eq!(login(&mut node, here, "owl", OTTO), Some(0));
    for expected in [0, 0, 0, 0x8A] {
        assert_eq!(login(&mut node, here, "moth", ANNA), Some(expected));
    }
    assert_eq!(node.shard(0).state().counters().connects_turned_away, 3);
}

#[test]
fn an_address_with_wrong_credentials_too_often_is_not_let_in_for_a_while() {
    let limits = Limits {
        authenticate: true,
        address_failures_max: 3,
        flapping_window_s: 10,
        flapping_ban_s: 30,
        ..Limits::default()
    };
    let settings = SimSettings { limits, authenticate: Some(who), ..SimSettings::default() };
    let mut node = SimNode::with(settings);
    let (here, there) = ("2001:db8::1", "2001:db8:0:1::1");
    for round in 0..3 {
        assert_eq!(login(&mut node, here, "c", WRONG), Some(0x86), "{round}");
        assert_eq!(login(&mut node, here, "c", ANNA), Some(0), "{round}");
    }
    node.advance(Duration::from_secs(11));
    for _ in 0..4 {
        assert_eq!(login(&mut node, here, "c", WRONG), Some(0x86), "another window");
    }
    assert_eq!(login(&mut node, here, "c", ANNA), Some(0x8A));
    assert_eq!(login(&mut node, "2001:db8::2", "c", ANNA), Some(0x8A), "the same network");
    assert_eq!(login(&mut node, there, "c", ANNA), Some(0));
    node.advance(Duration::from_secs(29));
    assert_eq!(login(&mut node, here, "c", ANNA), Some(0x8A));
    node.advance(Duration::from_secs(2));
    assert_eq!(login(&mut node, here, "c", ANNA), Some(0));
    let counters = node.shard(0).state().counters();
    assert_eq!((counters.connects_denied, counters.connects_turned_away), (7, 3));
}

/// PUBLISH of QoS 1.
fn publish(level: u8, id: u8, payload: &[u8]) -> Vec<u8> {
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    framed(0x32, &[&sized("t")[..], &[0, id], properties, payload].concat())
}

#[test]
fn who_publishes_too_fast_is_not_read_for_a_while() {
    for level in [4, 5] {
        let limits = Limits { publish_rate_max: 5, publish_rate_grace_s: 0, ..Limits::default() };
        let mut node = node(limits);
        let (client, _) = knock(&mut node, level, "fast");
        let sent: Vec<u8> = (1..=20).flat_map(|id| publish(level, id, b"m")).collect();
        let mut acknowledged = node.exchange(client, &sent).len() / 4;
        assert_eq!(acknowledged, 5);
        for _ in 0..3 {
            node.advance(Duration::from_millis(1_000));
            let more = node.take(client).len() / 4;
            assert!((4..=6).contains(&more), "{more}");
            acknowledged += more;
        }
        node.advance(Duration::from_secs(1));
        acknowledged += node.take(client).len() / 4;
        assert_eq!(acknowledged, 20, "late, and none lost");
        assert!(!node.is_closed(client) && node.shard(0).state().counters().publish_paced > 10);
    }
}

#[test]
fn a_rate_of_bytes_lets_large_messages_pass_and_waits_then() {
    let limits =
        Limits { publish_bytes_rate_max: 1_000, publish_rate_grace_s: 0, ..Limits::default() };
    let mut node = node(limits);
    let (client, _) = knock(&mut node, 5, "large");
    let sent = [publish(5, 1, &[7; 5_000]), publish(5, 2, b"m")].concat();
    assert_eq!(node.exchange(client, &sent), [0x40, 2, 0, 1]);
    node.advance(Duration::from_secs(3));
    assert!(node.take(client).is_empty());
    node.advance(Duration::from_millis(1_200));
    assert_eq!(node.take(client), [0x40, 2, 0, 2]);
}

#[test]
fn who_never_gets_slower_is_let_go() {
    for (limits, reason) in [
        (Limits { publish_rate_max: 5, ..Limits::default() }, 0x96),
        (Limits { publish_bytes_rate_max: 50, ..Limits::default() }, 0x97),
    ] {
        let mut node = node(Limits { publish_rate_grace_s: 3, ..limits });
        let (client, _) = knock(&mut node, 5, "fast");
        let sent: Vec<u8> = (1..=200).flat_map(|id| publish(5, id, b"m")).collect();
        node.send(client, &sent);
        node.advance(Duration::from_secs(2));
        assert!(!node.is_closed(client));
        node.take(client);
        node.advance(Duration::from_secs(2));
        let last = node.take(client);
        assert_eq!(last[last.len() - 3..], [0xE0, 1, reason]);
        assert!(node.is_closed(client));
        // Another in its place begins anew.
        let (next, _) = knock(&mut node, 5, "next");
        assert_eq!(node.exchange(next, &publish(5, 1, b"m")), [0x40, 2, 0, 1]);
    }
}

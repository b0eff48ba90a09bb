//! Enhanced authentication by SCRAM-SHA-256. Source: MQTT 5.0 §3.15, §4.12; RFC 5802, RFC 7677.

use super::exchange::{check, check_ended, check_ends, check_received};
use crate::packets::{framed, sized};
use crate::scram::{METHOD, ScramClient, auth, auth_data, counted, data_in, properties};
use crate::sim::{Challenging, SimClient, SimNode, SimSettings};
use gateway::proto::access::{
    Challenge, ClientFirst, Identity, KEY_BYTES, Proof, Recheck, Refusal, Verifier,
};
use gateway::proto::limits::Limits;
use gateway::proto::shard_state::home_shard;
use gateway::proto::time::Timestamp;
use gateway::upstream::embedded::log::Durability;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

const SALT: &[u8] = b"some salt";
const SERVER_NONCE: &str = "of-the-server";

/// Everybody whose name does not begin with `no` is there and has the password `pw`; `gone` is banned.
fn challenge(client_first: &[u8]) -> Result<Challenge, Refusal> {
    static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
        let iterations = NonZeroU32::new(4_096).unwrap();
        let mut salted = [0; KEY_BYTES];
        let algorithm = ring::pbkdf2::PBKDF2_HMAC_SHA256;
        ring::pbkdf2::derive(algorithm, iterations, SALT, b"pw", &mut salted);
        Verifier::new(SALT, iterations, &salted)
    });
    let first = ClientFirst::parse(client_first).map_err(|_| Refusal::BadProof)?;
    let account = match &*first.user_name {
        "off" => return Err(Refusal::BadMethod),
        "gone" => Some(Err(Refusal::Banned)),
        name if name.starts_with("no") => None,
        name => Some(Ok(Arc::new(Identity {
            user_name: Some(name.into()),
            mountpoint: None,
            acl: None,
            proof: Proof::Password(0),
            expires_at: Timestamp::NEVER,
        }))),
    };
    Ok(Challenge::new(&first, &VERIFIER, account, SERVER_NONCE))
}

fn limits() -> Limits {
    Limits { authenticate: true, ..Limits::default() }
}

fn node_with(limits: Limits) -> SimNode {
    let challenge = Some(challenge as Challenging);
    SimNode::with(SimSettings { limits, challenge, ..SimSettings::default() })
}

/// On one shard and, handed over, on three; in memory and on disk.
fn everywhere(play: impl Fn(SimNode)) {
    for shards in [1, 3] {
        for durability in [Durability::Memory, Durability::Fsync] {
            let challenge = Some(challenge as Challenging);
            let limits = limits();
            let settings = SimSettings { limits, shards, durability, challenge, ..<_>::default() };
            play(SimNode::with(settings));
        }
    }
}

/// CONNECT with SCRAM-SHA-256 and other properties, for a session that is kept.
fn connect_with(data: &str, client_id: &str, others: &[u8]) -> Vec<u8> {
    let properties = [&properties(METHOD, data.as_bytes()), others].concat();
    let head = [0, 4, b'M', b'Q', b'T', b'T', 5, 0, 0, 0];
    framed(0x10, &[&head[..], &counted(&properties), &sized(client_id)].concat())
}

fn connect(data: &str) -> Vec<u8> {
    // With three shards it is handed over to the second.
    assert_eq!(home_shard("c2", 3).0, 1);
    connect_with(data, "c2", &[0x11, 0xFF, 0xFF, 0xFF, 0xFF])
}

/// CONNACK of success with the method.
fn accepted(session_present: bool, data: &str) -> Vec<u8> {
    let numbers = b"\x21\x04\0\x27\0\x10\0\0\x22\0\x20";
    let properties = [&numbers[..], &properties(METHOD, data.as_bytes())].concat();
    framed(0x20, &[&[u8::from(session_present), 0][..], &counted(&properties)].concat())
}

/// A client that has said its first message, and what it says next.
#[track_caller]
fn challenged(node: &mut SimNode, user: (&str, &str)) -> (SimClient, String, String) {
    let scram = ScramClient::new(user.0, user.1, "nonce");
    let client = node.connect();
    node.send(client, &connect(&scram.first()));
    let (proof, answer) = scram.last(&auth_data(&node.take(client)));
    (client, proof, answer)
}

/// A client that is connected.
#[track_caller]
fn enter(node: &mut SimNode, user_name: &str) -> SimClient {
    let (client, proof, answer) = challenged(node, (user_name, "pw"));
    check(node, client, &auth(0x18, METHOD, proof.as_bytes()), &[&accepted(false, &answer)]);
    client
}

/// MQTT 5.0 [MQTT-4.12.0-2], [MQTT-4.12.0-5], [MQTT-4.12.0-3].
#[test]
fn a_client_that_proves_its_password_is_let_in() {
    everywhere(|mut node| {
        let scram = ScramClient::new("anna", "pw", "nonce");
        let client = node.connect();
        let server_first = "r=nonceof-the-server,s=c29tZSBzYWx0,i=4096";
        let expected = auth(0x18, METHOD, server_first.as_bytes());
        check(&mut node, client, &connect(&scram.first()), &[&expected]);
        let (proof, answer) = scram.last(server_first.as_bytes());
        let packet = auth(0x18, METHOD, proof.as_bytes());
        let (last, others) = packet.split_last().unwrap();
        for byte in others {
            check(&mut node, client, &[*byte], &[]);
        }
        check(&mut node, client, &[*last], &[&accepted(false, &answer)]);
        check(&mut node, client, b"\xC0\0", &[b"\xD0\0"]);
        // The session is that user's.
        node.send(client, b"\xE0\0");
        let (client, proof, answer) = challenged(&mut node, ("anna", "pw"));
        let packet = auth(0x18, METHOD, proof.as_bytes());
        check(&mut node, client, &packet, &[&accepted(true, &answer)]);
        let (other, proof, _) = challenged(&mut node, ("otto", "pw"));
        check_ends(&mut node, other, &auth(0x18, METHOD, proof.as_bytes()), &[b"\x20\x03\0\x87\0"]);
        check(&mut node, client, b"\xC0\0", &[b"\xD0\0"]);
    });
}

/// MQTT 5.0 [MQTT-4.12.0-4], [MQTT-4.12.0-1].
#[test]
fn who_proves_nothing_is_refused_and_hears_no_more_than_that() {
    everywhere(|mut node| {
        for (user, code) in [
            (("anna", "pW"), 0x87),
            (("anna", ""), 0x87),
            (("nobody", "pw"), 0x87),
            // Only who has proven to be it hears of a ban.
            (("gone", "pW"), 0x87),
            (("gone", "pw"), 0x8A),
        ] {
            let (client, proof, _) = challenged(&mut node, user);
            let refusal = [0x20, 3, 0, code, 0];
            check_ends(&mut node, client, &auth(0x18, METHOD, proof.as_bytes()), &[&refusal]);
        }
        // The first message is none, or its method is not on offer any more.
        for (first, code) in [
            ("", 0x87),
            ("n,,n=anna", 0x87),
            ("p=tls-unique,,n=anna,r=nonce", 0x87),
            ("n,a=otto,n=anna,r=nonce", 0x87),
            ("n,,n=off,r=nonce", 0x8C),
        ] {
            let client = node.connect();
            check_ends(&mut node, client, &connect(first), &[&[0x20, 3, 0, code, 0]]);
        }
        let denied: u64 = (0..node.settings.shards.into())
            .map(|shard| node.shard(shard).state().counters().connects_denied)
            .sum();
        assert_eq!(denied, 10);
    });
}

/// MQTT 5.0 [MQTT-3.1.2-30], [MQTT-4.12.0-3].
#[test]
fn before_the_proof_there_is_nothing_else_to_say() {
    let mut node = node_with(limits());
    for packet in [
        b"\xC0\0".to_vec(),
        b"\x30\x05\0\x01a\0x".to_vec(),
        b"\x82\x07\0\x01\0\0\x01a\0".to_vec(),
        connect("n,,n=anna,r=again"),
        auth(0x19, METHOD, b"n,,n=anna,r=again"),
        auth(0x18, "SCRAM-SHA-1", b"c=biws"),
    ] {
        let (client, ..) = challenged(&mut node, ("anna", "pw"));
        check_ends(&mut node, client, &packet, &[b"\x20\x03\0\x82\0"]);
    }
    let (client, ..) = challenged(&mut node, ("anna", "pw"));
    check_ends(&mut node, client, b"\xE0\0", &[]);
    let (client, ..) = challenged(&mut node, ("anna", "pw"));
    check_ends(&mut node, client, b"\xF0\0", &[]);
    // More than a CONNECT may have is not waited for.
    let (client, ..) = challenged(&mut node, ("anna", "pw"));
    check_ends(&mut node, client, b"\xF0\xFF\xFF\x7F", &[]);
    // Nothing but the one exchange: a second proof comes too late for anything.
    let (client, proof, _) = challenged(&mut node, ("anna", "pW"));
    let twice = auth(0x18, METHOD, proof.as_bytes()).repeat(2);
    check_ends(&mut node, client, &twice, &[b"\x20\x03\0\x87\0"]);
    assert_eq!(node.shard(0).state().session_count(), 0);
}

#[test]
fn a_proof_has_its_time_and_does_not_keep_others_out() {
    let connect_timeout_s = 10;
    let mut node =
        node_with(Limits { authentications_waiting_max: 3, connect_timeout_s, ..limits() });
    let slow: Vec<_> = (0..3).map(|_| challenged(&mut node, ("anna", "pw")).0).collect();
    node.advance(Duration::from_secs(5));
    // No room: who was asked first makes some.
    let (fast, proof, answer) = challenged(&mut node, ("anna", "pw"));
    check_ended(&mut node, slow[0], &[b"\x20\x03\0\x89\0"]);
    check(&mut node, fast, &auth(0x18, METHOD, proof.as_bytes()), &[&accepted(false, &answer)]);
    check_received(&mut node, slow[1], &[]);
    node.advance(Duration::from_secs(6));
    check_ended(&mut node, slow[1], &[b"\x20\x03\0\x87\0"]);
    check_ended(&mut node, slow[2], &[b"\x20\x03\0\x87\0"]);
    check(&mut node, fast, b"\xC0\0", &[b"\xD0\0"]);
    // It is forgotten who has come and gone.
    for _ in 0..100 {
        let (client, ..) = challenged(&mut node, ("anna", "pw"));
        node.drop_connection(client);
    }
    let waiting: Vec<_> = (0..3).map(|_| challenged(&mut node, ("otto", "pw")).0).collect();
    for client in waiting {
        check_received(&mut node, client, &[]);
    }
}

/// MQTT 5.0 [MQTT-3.1.2-24].
#[test]
fn no_packet_of_the_exchange_is_larger_than_the_client_takes() {
    let mut node = node_with(limits());
    let scram = ScramClient::new("anna", "pw", "nonce");
    let mut lengths = Vec::new();
    let client = node.connect();
    node.send(client, &connect(&scram.first()));
    let packet = node.take(client);
    lengths.push(packet.len());
    let (proof, _) = scram.last(&auth_data(&packet));
    node.send(client, &auth(0x18, METHOD, proof.as_bytes()));
    lengths.push(node.take(client).len());
    let largest = u32::try_from(*lengths.iter().max().unwrap()).unwrap();
    for (bytes_max, is_enough) in [(largest, true), (lengths[0] as u32 - 1, false), (20, false)] {
        let maximum = [&[0x27][..], &bytes_max.to_be_bytes()].concat();
        let client = node.connect();
        node.send(client, &connect_with(&scram.first(), "other", &maximum));
        let answer = node.take(client);
        if !is_enough {
            assert_eq!(answer, b"\x20\x03\0\x95\0");
            continue;
        }
        let (proof, _) = scram.last(&auth_data(&answer));
        node.send(client, &auth(0x18, METHOD, proof.as_bytes()));
        assert!(node.take(client).len() <= largest as usize && !node.is_closed(client));
    }
}

/// What is known changes between question and proof.
#[derive(Debug)]
struct Nobody;

impl Recheck for Nobody {
    fn recheck(&self, _: &Identity) -> Option<Arc<Identity>> {
        None
    }
}

#[test]
fn a_proof_of_what_was_known_before_is_none() {
    let mut node = node_with(limits());
    let (client, proof, _) = challenged(&mut node, ("anna", "pw"));
    node.change_access(&(Arc::new(Nobody) as _));
    check_ends(&mut node, client, &auth(0x18, METHOD, proof.as_bytes()), &[b"\x20\x03\0\x87\0"]);
}

/// A connected client that was asked to prove anew who it is, and what it says next.
#[track_caller]
fn challenged_anew(node: &mut SimNode, client: SimClient, user: (&str, &str)) -> (String, String) {
    let scram = ScramClient::new(user.0, user.1, "another");
    node.send(client, &auth(0x19, METHOD, scram.first().as_bytes()));
    let packet = node.take(client);
    assert_eq!(packet[2], 0x18);
    scram.last(&auth_data(&packet))
}

/// MQTT 5.0 [MQTT-4.12.0-5], [MQTT-4.12.1-1].
#[test]
fn a_client_proves_itself_anew_and_is_served_meanwhile() {
    everywhere(|mut node| {
        let client = enter(&mut node, "anna");
        check(&mut node, client, b"\x82\x07\0\x01\0\0\x01a\0", &[b"\x90\x04\0\x01\0\0"]);
        for _ in 0..3 {
            let (proof, answer) = challenged_anew(&mut node, client, ("anna", "pw"));
            check(&mut node, client, b"\x30\x05\0\x01a\0x", &[b"\x30\x05\0\x01a\0x"]);
            let success = auth(0, METHOD, answer.as_bytes());
            check(&mut node, client, &auth(0x18, METHOD, proof.as_bytes()), &[&success]);
        }
        let done: u64 = (0..node.settings.shards.into())
            .map(|shard| node.shard(shard).state().counters().reauthentications)
            .sum();
        assert_eq!(done, 3);
    });
}

/// MQTT 5.0 [MQTT-4.12.1-2].
#[test]
fn who_fails_to_prove_itself_anew_is_disconnected() {
    everywhere(|mut node| {
        // Wrong password, nobody, somebody else with the right one, and banned since.
        for user in [("anna", "pW"), ("nobody", "pw"), ("otto", "pw"), ("gone", "pw")] {
            let scram = challenged(&mut node, ("anna", "pw"));
            let (client, proof, _) = scram;
            node.send(client, &auth(0x18, METHOD, proof.as_bytes()));
            assert_eq!(data_in(&node.take(client)).len(), 46);
            let (proof, _) = challenged_anew(&mut node, client, user);
            let packet = auth(0x18, METHOD, proof.as_bytes());
            check_ends(&mut node, client, &packet, &[b"\xE0\x01\x87"]);
        }
        let denied: u64 = (0..node.settings.shards.into())
            .map(|shard| node.shard(shard).state().counters().reauthentications_denied)
            .sum();
        assert_eq!(denied, 4);
    });
}

/// MQTT 5.0 [MQTT-4.12.1-1].
#[test]
fn auth_out_of_turn_is_a_protocol_error() {
    for packets in [
        // A proof nobody has asked for, another method, and a second beginning.
        auth(0x18, METHOD, b"c=biws,r=nonce,p=AAAA"),
        auth(0x19, "SCRAM-SHA-512", b"n,,n=anna,r=another"),
        auth(0x19, METHOD, b"n,,n=anna,r=another").repeat(2),
        [auth(0x19, METHOD, b"n,,n=anna,r=another"), auth(0x18, METHOD, b"early")].concat(),
    ] {
        let mut node = node_with(limits());
        let client = enter(&mut node, "anna");
        check_ends(&mut node, client, &packets, &[b"\xE0\x01\x82"]);
    }
    // Who has sent a password has named no method.
    let mut node = SimNode::with(SimSettings {
        limits: limits(),
        authenticate: Some(|_| {
            let (acl, expires_at) = (None, Timestamp::NEVER);
            let user_name = Some("anna".into());
            let (mountpoint, proof) = (None, Proof::Password(0));
            Ok(Arc::new(Identity { user_name, mountpoint, acl, proof, expires_at }))
        }),
        challenge: Some(challenge),
        ..SimSettings::default()
    });
    let client = node.connect();
    node.send(client, b"\x10\x1A\0\x04MQTT\x05\xC2\0\0\0\0\x01c\0\x04anna\0\x04pass");
    assert_eq!(node.take(client)[3], 0);
    let packet = auth(0x19, METHOD, b"n,,n=anna,r=another");
    check_ends(&mut node, client, &packet, &[b"\xE0\x01\x82"]);
}

#[test]
fn to_prove_itself_anew_a_client_has_its_time() {
    let mut node = node_with(Limits { connect_timeout_s: 10, ..limits() });
    let client = enter(&mut node, "anna");
    challenged_anew(&mut node, client, ("anna", "pw"));
    node.advance(Duration::from_secs(9));
    check(&mut node, client, b"\xC0\0", &[b"\xD0\0"]);
    node.advance(Duration::from_secs(2));
    check_ended(&mut node, client, &[b"\xE0\x01\x87"]);
    // Who has done it is not watched any more.
    let client = enter_again(&mut node);
    let (proof, answer) = challenged_anew(&mut node, client, ("anna", "pw"));
    let success = auth(0, METHOD, answer.as_bytes());
    check(&mut node, client, &auth(0x18, METHOD, proof.as_bytes()), &[&success]);
    node.advance(Duration::from_secs(60));
    check(&mut node, client, b"\xC0\0", &[b"\xD0\0"]);
}

#[track_caller]
fn enter_again(node: &mut SimNode) -> SimClient {
    let (client, proof, answer) = challenged(node, ("anna", "pw"));
    check(node, client, &auth(0x18, METHOD, proof.as_bytes()), &[&accepted(true, &answer)]);
    client
}

#[test]
fn too_many_at_once_prove_themselves_anew_later() {
    let mut node = node_with(Limits { authentications_waiting_max: 1, ..limits() });
    let client = enter(&mut node, "anna");
    let (stranger, ..) = challenged(&mut node, ("anna", "pw"));
    let packet = auth(0x19, METHOD, b"n,,n=anna,r=another");
    check_ends(&mut node, client, &packet, &[b"\xE0\x01\x89"]);
    check_received(&mut node, stranger, &[]);
}

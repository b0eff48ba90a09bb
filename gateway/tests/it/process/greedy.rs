//! Clients that take more than their share of connections, memory or time: it is bounded, the
//! others are served meanwhile, and all of it comes back.

use super::gateway::{Gateway, PATIENCE};
use super::hostile::{now, survives};
use super::raw_client::{RawClient, V3_1_1, V5, connect, publish, push_text, subscribe};
use crate::packets::framed;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use std::io::{ErrorKind, Read as _};
use std::net::Shutdown;
use std::time::Duration;

/// Connects if the gateway takes one more connection.
fn try_connected(gateway: &Gateway, client_id: &str) -> Option<RawClient> {
    let mut client = RawClient::open(gateway.address());
    // It may be reset before that.
    let _ = client.try_send(&connect(V3_1_1, client_id, &[]));
    let answer = client.try_packet().expect("an answer or the end");
    answer.is_some().then_some(client)
}

/// Where they land and where they live does not matter: the limit is the node's.
#[test]
fn one_connection_more_than_the_node_carries_is_closed() {
    const CONNECTIONS_MAX: usize = 12;
    survives(&["--limit", "connections_max=12"], |gateway| {
        let name = |number| format!("crowd-{number}");
        let others = 0..CONNECTIONS_MAX - 1;
        let mut clients: Vec<RawClient> =
            others.map(|n| RawClient::connected(gateway.address(), V5, &name(n))).collect();
        for number in 0..20 {
            assert!(try_connected(gateway, &name(100 + number)).is_none(), "one too many");
        }
        let mut gone = clients.pop().unwrap();
        gone.send(&[0xe0, 0]);
        assert_eq!(gone.packets_to_the_end(), []);
        drop(gone);
        // Its place is free a moment after it was told the end.
        let started = now();
        while try_connected(gateway, "next").is_none() {
            assert!(now() - started < PATIENCE, "a place was left");
        }
    });
}

#[test]
fn a_connection_closed_on_one_side_is_closed() {
    survives(&[], |gateway| {
        let mut clients: Vec<RawClient> = (0..200)
            .map(|n| RawClient::connected(gateway.address(), V3_1_1, &format!("half-{n}")))
            .collect();
        for client in &clients {
            client.stream().shutdown(Shutdown::Write).unwrap();
        }
        for client in &mut clients {
            assert_eq!(client.packets_to_the_end(), []);
        }
    });
}

#[test]
fn one_byte_at_a_time_does_not_lengthen_the_keep_alive() {
    survives(&[], |gateway| {
        let mut client = RawClient::open(gateway.address());
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', V3_1_1, 2, 0, 1];
        push_text(&mut body, "slow");
        client.send(&framed(0x10, &body));
        assert_eq!(client.packet().0, 0x20, "CONNACK");
        let endless = publish(V3_1_1, "slow", None, &[], &[b'x'; 1_000]);
        // Waiting for an answer is what sets the pace: a byte every 100 ms.
        client.stream().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let closed = endless.chunks(1).position(|byte| {
            client.try_send(byte).is_err()
                || match client.stream().read(&mut [0]) {
                    Ok(count) => count == 0,
                    Err(error) => error.kind() != ErrorKind::WouldBlock,
                }
        });
        assert!(closed.is_some(), "it is closed before the PUBLISH is complete");
    });
}

#[test]
fn subscribers_that_read_nothing_hold_nobody_up() {
    const PAYLOAD_BYTES: usize = 32 * 1_024;
    let flags = ["--limit", "maximum_packet_size_bytes=65536"];
    let flags = [&flags[..], &["--limit", "client_write_bytes_max=65536"]].concat();
    survives(&flags, |gateway| {
        let _deaf: Vec<RawClient> = (0..8)
            .map(|number| {
                let client_id = format!("deaf-{number}");
                let mut client = RawClient::connected(gateway.address(), V5, &client_id);
                set_socket_recv_buffer_size(client.stream(), 4_096).unwrap();
                client.send(&subscribe(V5, &["loud/#"], number % 3));
                assert_eq!(client.packet().0, 0x90, "SUBACK");
                client
            })
            .collect();
        let mut publisher = RawClient::connected(gateway.address(), V5, "loud");
        // More than the kernel's send buffer takes, which is 4 MiB by default.
        for number in 1..=400_u16 {
            let packet_id = (number % 2 == 0).then_some(number);
            publisher.send(&publish(V5, "loud/a", packet_id, &[], &[0; PAYLOAD_BYTES]));
            if packet_id.is_some() {
                assert_eq!(publisher.packet().0, 0x40, "PUBACK");
            }
        }
    });
}

/// What an allocator keeps is no leak: less is in use at any time than may stay behind, and far
/// more is used in all.
#[test]
fn packets_that_never_end_give_their_memory_back() {
    const PART_BYTES: usize = 200_000;
    const ROUNDS: usize = 8;
    survives(&[], |gateway| {
        let part = publish(V5, "part", Some(1), &[], &[0; PART_BYTES + 100_000]);
        for _ in 0..ROUNDS {
            let clients: Vec<RawClient> = (0..64)
                .map(|number| {
                    let client_id = format!("part-{number}");
                    let mut client = RawClient::connected(gateway.address(), V5, &client_id);
                    client.send(&part[..PART_BYTES]);
                    client
                })
                .collect();
            clients.into_iter().for_each(RawClient::reset);
        }
    });
}

#[test]
fn subscriptions_that_come_and_go_leave_nothing() {
    survives(&[], |gateway| {
        let mut clients: Vec<RawClient> = (0..8)
            .map(|n| RawClient::connected(gateway.address(), V3_1_1, &format!("churn-{n}")))
            .collect();
        for round in 0..20 {
            let names: Vec<String> = (0..100).map(|n| format!("churn/{round}/{n}/+/x")).collect();
            let filters: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut unsubscribe = vec![0, 2];
            names.iter().for_each(|name| push_text(&mut unsubscribe, name));
            for client in &mut clients {
                client.send(&subscribe(V3_1_1, &filters, 1));
                client.send(&framed(0xa2, &unsubscribe));
            }
            for client in &mut clients {
                assert_eq!(client.packet().0, 0x90, "SUBACK");
                assert_eq!(client.packet().0, 0xb0, "UNSUBACK");
            }
        }
    });
}

/// Each takes the session over from the one before while that is being served.
#[test]
fn a_flood_of_connects_for_one_kept_session_leaves_the_last() {
    survives(&[], |gateway| {
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', V3_1_1, 0, 0, 0];
        push_text(&mut body, "kept");
        let mut last: Option<RawClient> = None;
        for _ in 0..300 {
            let mut next = RawClient::open(gateway.address());
            next.send(&framed(0x10, &body));
            let (kind, answer) = next.packet();
            assert_eq!((kind, answer[1]), (0x20, 0), "CONNACK");
            if let Some(mut replaced) = last.replace(next) {
                assert_eq!(answer[0], 1, "session present");
                assert_eq!(replaced.packets_to_the_end(), []);
            }
        }
        let mut last = last.unwrap();
        last.send(&[0xc0, 0]);
        assert_eq!(last.packet().0, 0xd0, "PINGRESP");
    });
}

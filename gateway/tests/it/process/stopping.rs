//! SIGTERM: clients are told, sessions are kept, and nobody can hold the process.

use super::SHARD_COUNTS;
use super::gateway::Gateway;
use super::raw_client::{RawClient, V3_1_1, V5, publish, subscribe};
use std::io::ErrorKind;
use std::time::Duration;

#[test]
fn clients_are_told_that_the_server_shuts_down() {
    for shards in SHARD_COUNTS {
        let gateway = Gateway::start(&["--shards", shards]);
        let mut clients: Vec<RawClient> = (0..4)
            .map(|number| RawClient::connected(gateway.address(), V5, &format!("new-{number}")))
            .collect();
        let mut old = RawClient::connected(gateway.address(), V3_1_1, "old");
        gateway.terminate();
        for client in &mut clients {
            let packets = client.packets_to_the_end();
            let [(0xe0, body)] = &packets[..] else { panic!("one DISCONNECT, not {packets:x?}") };
            assert_eq!(body[0], 0x8b, "Server shutting down");
        }
        assert_eq!(old.packets_to_the_end(), [], "3.1.1 has no DISCONNECT from the server");
        gateway.finish();
    }
}

#[test]
fn a_client_that_does_not_read_cannot_hold_the_process() {
    let gateway = Gateway::start(&["--shards", "2", "--limit", "shutdown_timeout_s=1"]);
    let mut stuck = RawClient::connected(gateway.address(), V5, "stuck");
    stuck.send(&subscribe(V5, &["flood"], 0));
    assert_eq!(stuck.packet().0, 0x90, "SUBACK");
    let mut publisher = RawClient::connected(gateway.address(), V5, "publisher");
    let payload = vec![0x5a; 65_536];
    // More than both kernels' buffers and the gateway's outbox hold; the gateway reads it all,
    // as QoS 0 beyond the outbox is dropped.
    for _ in 0..512 {
        publisher.send(&publish(V5, "flood", None, &[], &payload));
    }
    publisher.send(&[0xc0, 0]);
    assert_eq!(publisher.packet(), (0xd0, Vec::new()), "PINGRESP: all before it was handled");
    gateway.stop();
}

#[test]
fn a_publisher_that_does_not_stop_cannot_hold_the_process() {
    let gateway = Gateway::start(&["--shards", "1", "--limit", "shutdown_timeout_s=1"]);
    let mut publisher = RawClient::connected(gateway.address(), V5, "publisher");
    publisher.stream().set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let message = publish(V5, "flood", Some(1), &[], &[0x5a; 1_024]);
    let flood = std::thread::spawn(move || {
        loop {
            if let Err(error) = publisher.try_send(&message) {
                return error.kind();
            }
        }
    });
    gateway.stop();
    let end = flood.join().unwrap();
    let ends = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::WouldBlock];
    assert!(ends.contains(&end), "{end}");
}

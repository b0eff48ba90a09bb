//! Stands between loadgen and a broker, speaks enough MQTT 3.1.1 to lie convincingly.
//!
//! A message it takes away it acknowledges itself, so that the broker is sure it was delivered.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// Every so many messages are hit.
const EVERY: u64 = 20;
/// Packet identifiers that the proxy invents have this bit; brokers begin at 1.
const INVENTED: u8 = 0x40;

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBREC: u8 = 5;
const PUBCOMP: u8 = 7;

/// What the proxy does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Takes deliveries away.
    LoseDeliveries,
    /// Acknowledges publishes that the broker never gets.
    AcknowledgeAndForget,
    /// Delivers again, under another identifier.
    Double,
    /// Delivers one message behind the next.
    Reorder,
    /// Changes the last byte of deliveries.
    Corrupt,
    /// Says that there is no session.
    ForgetSessions,
    /// Takes wills away.
    LoseWills,
    /// Takes retained messages away.
    LoseRetained,
}

/// A proxy, for as long as the process lives.
pub(crate) struct Proxy {
    address: SocketAddr,
    faults: Arc<AtomicU64>,
}

/// One direction of a connection.
struct Direction {
    fault: Fault,
    from_broker: bool,
    from: TcpStream,
    to: TcpStream,
    /// The way back.
    back: TcpStream,
    seen: Arc<AtomicU64>,
    faults: Arc<AtomicU64>,
    held: Option<Vec<u8>>,
}

impl Proxy {
    /// A proxy in front of `broker`.
    pub(crate) fn start(broker: SocketAddr, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, faults) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&faults);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(broker).unwrap());
                for from_broker in [true, false] {
                    let (from, to) =
                        if from_broker { (&server, &client) } else { (&client, &server) };
                    let direction = Direction {
                        fault,
                        from_broker,
                        from: from.try_clone().unwrap(),
                        to: to.try_clone().unwrap(),
                        back: from.try_clone().unwrap(),
                        seen: Arc::clone(&seen),
                        faults: Arc::clone(&faults),
                        held: None,
                    };
                    thread::spawn(move || direction.run());
                }
            }
        });
        Self { address, faults: counted }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often it did something wrong.
    pub(crate) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }
}

impl Direction {
    /// Passes packets on until one end closes or resets, and then does the same to the other.
    fn run(mut self) {
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = self.from.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..count]);
            while let Some(packet) = take_packet(&mut bytes) {
                self.pass(packet);
            }
        }
        let _ = self.to.shutdown(std::net::Shutdown::Both);
    }

    fn pass(&mut self, packet: Vec<u8>) {
        let kind = packet[0] >> 4;
        if !self.from_broker {
            self.pass_from_client(kind, &packet);
        } else if kind == PUBLISH {
            self.pass_delivery(packet);
        } else if kind == CONNACK && self.fault == Fault::ForgetSessions && packet[2] == 1 {
            self.faults.fetch_add(1, Ordering::Relaxed);
            self.send(&[packet[0], packet[1], 0, packet[3]]);
        } else {
            self.send(&packet);
        }
    }

    fn pass_from_client(&mut self, kind: u8, packet: &[u8]) {
        let invented = matches!(kind, PUBREC | PUBCOMP) && packet[2] & INVENTED != 0;
        if invented {
            if kind == PUBREC {
                self.answer(&[0x62, 2, packet[2], packet[3]]);
            }
        } else if kind == PUBLISH && self.fault == Fault::AcknowledgeAndForget && self.is_hit() {
            let [high, low] = packet_id(packet).unwrap();
            self.answer(&[0x40, 2, high, low]);
        } else {
            self.send(packet);
        }
    }

    fn pass_delivery(&mut self, mut packet: Vec<u8>) {
        let lost = match self.fault {
            Fault::LoseDeliveries => self.is_hit(),
            Fault::LoseWills => topic(&packet).contains("/will/"),
            Fault::LoseRetained => packet[0] & 1 == 1,
            _ => false,
        };
        if lost {
            self.faults
                .fetch_add(u64::from(self.fault != Fault::LoseDeliveries), Ordering::Relaxed);
            if let Some([high, low]) = packet_id(&packet) {
                self.answer(&[0x40, 2, high, low]);
            }
            return;
        }
        match self.fault {
            Fault::Corrupt if self.is_hit() => {
                *packet.last_mut().unwrap() ^= 0x10;
                self.send(&packet);
            }
            Fault::Double if self.is_hit() => {
                self.send(&packet);
                let place = packet.len() - body(&packet).len() + 2 + topic(&packet).len();
                packet[place] |= INVENTED;
                self.send(&packet);
            }
            Fault::Reorder if self.held.is_none() && self.is_hit() => self.held = Some(packet),
            _ => {
                self.send(&packet);
                if let Some(held) = self.held.take() {
                    self.send(&held);
                }
            }
        }
    }

    /// Whether this message is one of those that are hit.
    fn is_hit(&self) -> bool {
        let hit = self.seen.fetch_add(1, Ordering::Relaxed) % EVERY == EVERY - 1;
        self.faults.fetch_add(u64::from(hit), Ordering::Relaxed);
        hit
    }

    fn send(&mut self, packet: &[u8]) {
        // An end that is gone is noticed where it is read.
        let _ = self.to.write_all(packet);
    }

    fn answer(&mut self, packet: &[u8]) {
        let _ = self.back.write_all(packet);
    }
}

/// Takes a whole packet from the front of `bytes`.
fn take_packet(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (header, length) = remaining_length(bytes)?;
    let whole = header + length;
    (bytes.len() >= whole).then(|| bytes.drain(..whole).collect())
}

/// Bytes of the fixed header, and the Remaining Length in it.
fn remaining_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (place, byte) in bytes.iter().enumerate().skip(1) {
        length |= usize::from(byte & 0x7F) << (7 * (place - 1));
        if byte & 0x80 == 0 {
            return Some((place + 1, length));
        }
    }
    None
}

fn body(packet: &[u8]) -> &[u8] {
    &packet[remaining_length(packet).unwrap().0..]
}

fn topic(publish: &[u8]) -> &str {
    let body = body(publish);
    let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
    std::str::from_utf8(&body[2..2 + length]).unwrap()
}

/// The packet identifier of a PUBLISH above QoS 0.
fn packet_id(publish: &[u8]) -> Option<[u8; 2]> {
    let behind = &body(publish)[2 + topic(publish).len()..];
    (publish[0] & 0x06 != 0).then(|| [behind[0], behind[1]])
}

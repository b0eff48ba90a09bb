//! The devices of `idle` and `storm`, and what is counted of them.

use std::{fmt::Display, io};

use super::FAULTS_KEPT;
use crate::{
    client::{Client, Event},
    engine::{Driver, Flow},
    result::Tally,
    stats::Times,
    transport::{Layers, Secured},
};

/// The devices.
pub(super) struct Crowd {
    pub(super) devices: Vec<Client>,
    /// What is between each and its socket; none on plain TCP.
    pub(super) layers: Vec<Layers>,
    pub(super) handshakes: Handshakes,
    pub(super) ready: u32,
    pub(super) open: u32,
    pub(super) closing: bool,
    pub(super) lost: u64,
    pub(super) faults: Vec<String>,
    /// When each connection was started.
    pub(super) started_ns: Vec<u64>,
    /// When the round began.
    pub(super) round_ns: u64,
    /// From the start of a connection to when it was ready, of all rounds.
    pub(super) connect: Times,
    /// From the start of the round, of this one.
    pub(super) recovery: Times,
    pub(super) tally: Tally,
}

/// How long the parts of connecting took, of all rounds.
#[derive(Default)]
pub(super) struct Handshakes {
    pub(super) tls_full: Times,
    pub(super) tls_resumed: Times,
    pub(super) upgrade: Times,
    pub(super) connack: Times,
}

impl Handshakes {
    /// TLS handshakes so far: full ones, and those that resumed a session.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.tls_full.count(), self.tls_resumed.count())
    }
}

impl Crowd {
    pub(super) fn begin(&mut self, round_ns: u64) {
        (self.ready, self.lost, self.closing) = (0, 0, false);
        (self.round_ns, self.recovery) = (round_ns, Times::new());
    }

    pub(super) fn started(&mut self, index: u32, now_ns: u64) {
        self.open += 1;
        self.tally.point.connecting += 1;
        if let Some(started_ns) = self.started_ns.get_mut(index as usize) {
            *started_ns = now_ns;
        }
    }

    fn is_ready(&mut self, index: u32, now_ns: u64) {
        let started_ns = self.started_ns.get(index as usize).copied().unwrap_or(now_ns);
        self.ready += 1;
        self.connect.record_ns(now_ns.saturating_sub(started_ns));
        self.recovery.record_ns(now_ns.saturating_sub(self.round_ns));
        let point = &mut self.tally.point;
        point.connects += 1;
        point.connected += 1;
        point.connecting = point.connecting.saturating_sub(1);
    }

    fn fault(&mut self, index: u32, fault: &dyn Display) {
        if self.faults.len() < FAULTS_KEPT {
            self.faults.push(format!("connection {index}: {fault}"));
        }
    }

    /// MQTT came for a device; its answers are added to `packets`.
    fn received_packets(
        &mut self,
        index: u32,
        now_ns: u64,
        bytes: &[u8],
        packets: &mut Vec<u8>,
    ) -> Flow {
        let Some(device) = self.devices.get_mut(index as usize) else { return Flow::Close };
        let mut ready = false;
        let mut on_event = |event: Event<'_>| ready |= matches!(event, Event::Ready { .. });
        let connect_ns = device.unanswered_connect_ns();
        let handled = device.handle_received(now_ns, bytes, packets, &mut on_event);
        if let Some(connect_ns) = connect_ns
            && handled.is_ok()
            && device.unanswered_connect_ns().is_none()
        {
            self.handshakes.connack.record_ns(now_ns.saturating_sub(connect_ns));
        }
        if ready {
            self.is_ready(index, now_ns);
        }
        match handled {
            Ok(()) => Flow::Continue,
            Err(fault) => {
                self.fault(index, &format_args!("{fault:?}"));
                Flow::Close
            }
        }
    }

    /// The same through the layers of the device.
    fn received_layered(
        &mut self,
        index: u32,
        now_ns: u64,
        bytes: &[u8],
        outbox: &mut Vec<u8>,
    ) -> Flow {
        let Some(layers) = self.layers.get_mut(index as usize) else { return Flow::Close };
        let (mut plain, mut packets) = (Vec::new(), Vec::new());
        let outcome = layers.receive(now_ns, bytes, &mut plain, outbox);
        let mut flow = Flow::Continue;
        match outcome {
            Ok(progress) => {
                let times = &mut self.handshakes;
                if let Some(Secured { resumed, after_ns }) = progress.secured {
                    let kind = if resumed { &mut times.tls_resumed } else { &mut times.tls_full };
                    kind.record_ns(after_ns);
                }
                if let Some(after_ns) = progress.upgraded_after_ns {
                    times.upgrade.record_ns(after_ns);
                }
                if let Some(device) = self.devices.get_mut(index as usize)
                    && progress.opened
                {
                    device.handle_connected(now_ns, &mut packets);
                }
            }
            Err(fault) => {
                self.fault(index, &fault);
                flow = Flow::Close;
            }
        }
        if !plain.is_empty()
            && self.received_packets(index, now_ns, &plain, &mut packets) == Flow::Close
        {
            flow = Flow::Close;
        }
        wrap(self.layers.get_mut(index as usize), &mut packets, outbox);
        flow
    }
}

/// Adds packets to the outbox of a device, through its layers if it has such; empties `packets`.
pub(super) fn wrap<'l>(
    layers: Option<&'l mut Layers>,
    packets: &mut Vec<u8>,
    outbox: &mut Vec<u8>,
) -> Option<&'l mut Layers> {
    let Some(layers) = layers else {
        outbox.append(packets);
        return None;
    };
    layers.send(packets, outbox);
    Some(layers)
}

impl Driver for Crowd {
    fn connected(&mut self, index: u32, now_ns: u64, outbox: &mut Vec<u8>) {
        if let Some(layers) = self.layers.get_mut(index as usize) {
            if let Err(fault) = layers.begin(now_ns, outbox) {
                // Its connection is closed when the connect timeout is over: none was begun.
                self.fault(index, &fault);
            }
        } else if let Some(device) = self.devices.get_mut(index as usize) {
            device.handle_connected(now_ns, outbox);
        }
    }

    fn received(&mut self, index: u32, now_ns: u64, bytes: &[u8], outbox: &mut Vec<u8>) -> Flow {
        self.tally.point.received_bytes += bytes.len() as u64;
        if self.layers.is_empty() {
            self.received_packets(index, now_ns, bytes, outbox)
        } else {
            self.received_layered(index, now_ns, bytes, outbox)
        }
    }

    fn closed(&mut self, index: u32, now_ns: u64, errno: i32) {
        let mut was_ready = false;
        if let Some(device) = self.devices.get_mut(index as usize) {
            was_ready = device.is_ready();
            device.handle_closed(now_ns);
        }
        if let Some(layers) = self.layers.get_mut(index as usize) {
            layers.closed();
        }
        self.open = self.open.saturating_sub(1);
        let point = &mut self.tally.point;
        let gauge = if was_ready { &mut point.connected } else { &mut point.connecting };
        *gauge = gauge.saturating_sub(1);
        if !self.closing {
            self.lost += 1;
            point.connections_lost += 1;
            match errno {
                0 => self.fault(index, &"the broker closed it"),
                errno => self.fault(index, &io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

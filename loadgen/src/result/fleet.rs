//! What `loadgen run` adds to a result: what happened to the connections of a fleet, and what each
//! phase saw.

use serde::{Deserialize, Serialize};

use crate::stats::Times;

/// A fleet in a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct FleetRecord {
    /// The times in seconds of the profile were divided by this.
    pub(crate) compress: f64,
    /// Counts of the whole run.
    pub(crate) counts: FleetCounts,
    /// By phase; the last is the settling, in which impairments end and what is owed has to arrive.
    pub(crate) phases: Vec<PhaseRecord>,
}

/// What happened to connections, sessions and messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct FleetCounts {
    /// CONNECTs answered with a session that was there.
    pub(crate) sessions_resumed: u64,
    /// Connections ended with DISCONNECT.
    pub(crate) ended_gracefully: u64,
    /// Connections ended by the device or its network without a word, or by a reset.
    pub(crate) ended_ungracefully: u64,
    /// Connections the broker ended.
    pub(crate) ended_by_broker: u64,
    /// Connections that ended while nobody could say what the broker knew.
    pub(crate) ended_unknown: u64,
    /// Connections that were refused or ended before CONNECT, by TCP or behind it.
    pub(crate) refused: u64,
    /// Connections given up because TLS or WebSocket failed: a certificate, an alert, a status.
    #[serde(default)]
    pub(crate) layer_faults: u64,
    /// TLS or WebSocket handshakes, CONNECT or SUBSCRIBE not answered in time.
    pub(crate) unanswered: u64,
    /// Connections that devices gave up: no PINGRESP, a refusal, bytes that make no sense.
    pub(crate) faults: u64,
    /// Messages given up because a device's store was full; never sent, owed to nobody.
    pub(crate) given_up: u64,
    /// Messages given up because the session they were under way in was gone; owed only if they
    /// were acknowledged.
    pub(crate) discarded: u64,
    /// Deliveries of what had been published before the subscription.
    pub(crate) early: u64,
    /// Retained messages got by new subscriptions.
    pub(crate) retained: u64,
    /// Wills that had to come.
    pub(crate) wills_owed: u64,
    /// Wills that came again.
    pub(crate) wills_duplicated: u64,
    /// Devices not ready at the end, or, when something owed is missing, with bytes on the air.
    pub(crate) away_at_the_end: u64,
    /// Messages not sent or not acknowledged at the end.
    pub(crate) unfinished: u64,
}

/// A phase. Latency and lag are of the messages that were due in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct PhaseRecord {
    /// Its name.
    pub(crate) name: String,
    /// When it began, seconds from the start of the run.
    pub(crate) start_s: f64,
    /// What happened while it lasted.
    pub(crate) counts: PhaseCounts,
    /// From when a message was due to its delivery, outages of the devices included.
    pub(crate) latency: Times,
    /// From when it was first sent.
    pub(crate) latency_uncorrected: Times,
    /// From when a message was due to its delivery, of the probes: clients on a wire that listen to
    /// themselves. It is what the broker alone takes.
    pub(crate) probe: Times,
    /// From the send of a PUBLISH to PUBACK, or to PUBREC at QoS 2.
    pub(crate) acknowledgement: Times,
    /// From the start of a connection to CONNACK, or to SUBACK where it subscribes.
    pub(crate) connect: Times,
    /// From when a TCP connection stood to the end of its TLS handshake, of those with certificates.
    #[serde(default)]
    pub(crate) tls_full: Times,
    /// The same of those that resumed a session.
    #[serde(default)]
    pub(crate) tls_resumed: Times,
    /// From when the request for a WebSocket was written to when it stood.
    #[serde(default)]
    pub(crate) upgrade: Times,
    /// From when CONNECT was written to CONNACK.
    #[serde(default)]
    pub(crate) connack: Times,
    /// From when a message was due to when the generator got round to it.
    pub(crate) lag: Times,
    /// From the end of the phase's fault to when each device it hit was ready again.
    pub(crate) recovery: Times,
}

/// Counts of a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct PhaseCounts {
    /// Messages that were due.
    pub(crate) due: u64,
    /// PUBLISH sent, repetitions left out.
    pub(crate) published: u64,
    /// PUBACK, or PUBREC at QoS 2.
    pub(crate) acknowledged: u64,
    /// First deliveries.
    pub(crate) delivered: u64,
    /// Connections that became ready.
    pub(crate) connects: u64,
    /// Devices the fault of the phase hit.
    pub(crate) hit: u64,
    /// Of these, how many came back.
    pub(crate) recovered: u64,
}

impl FleetRecord {
    /// Adds what another worker saw in the same phases.
    pub(super) fn absorb(&mut self, part: Self) {
        self.counts.absorb(&part.counts);
        for (whole, part) in self.phases.iter_mut().zip(&part.phases) {
            whole.absorb(part);
        }
    }
}

impl PhaseRecord {
    fn absorb(&mut self, part: &Self) {
        self.counts.absorb(&part.counts);
        let pairs: [(&mut Times, &Times); 11] = [
            (&mut self.latency, &part.latency),
            (&mut self.latency_uncorrected, &part.latency_uncorrected),
            (&mut self.probe, &part.probe),
            (&mut self.acknowledgement, &part.acknowledgement),
            (&mut self.connect, &part.connect),
            (&mut self.tls_full, &part.tls_full),
            (&mut self.tls_resumed, &part.tls_resumed),
            (&mut self.upgrade, &part.upgrade),
            (&mut self.connack, &part.connack),
            (&mut self.lag, &part.lag),
            (&mut self.recovery, &part.recovery),
        ];
        for (whole, part) in pairs {
            whole.merge(part);
        }
    }
}

impl PhaseCounts {
    fn absorb(&mut self, part: &Self) {
        self.due += part.due;
        self.published += part.published;
        self.acknowledged += part.acknowledged;
        self.delivered += part.delivered;
        self.connects += part.connects;
        self.hit += part.hit;
        self.recovered += part.recovered;
    }
}

impl FleetCounts {
    fn absorb(&mut self, part: &Self) {
        self.sessions_resumed += part.sessions_resumed;
        self.ended_gracefully += part.ended_gracefully;
        self.ended_ungracefully += part.ended_ungracefully;
        self.ended_by_broker += part.ended_by_broker;
        self.ended_unknown += part.ended_unknown;
        self.refused += part.refused;
        self.layer_faults += part.layer_faults;
        self.unanswered += part.unanswered;
        self.faults += part.faults;
        self.given_up += part.given_up;
        self.discarded += part.discarded;
        self.early += part.early;
        self.retained += part.retained;
        self.wills_owed += part.wills_owed;
        self.wills_duplicated += part.wills_duplicated;
        self.away_at_the_end += part.away_at_the_end;
        self.unfinished += part.unfinished;
    }
}

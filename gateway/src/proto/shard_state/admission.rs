//! Whose CONNECT is looked at now, later, or not at all, so that those who are connected do not feel a
//! storm of others.
//!
//! ```text
//! CONNECT ─┬─ banned, or too often ────────────────▶ CONNACK, closed
//!          ├─ rate left, and the loop is not late ─▶ goes on
//!          └─ else ─▶ waits, not read ─┬─ its turn ▶ goes on
//!                                      └─ too long, or too many wait ▶ CONNACK Server busy
//! ```
//! The loop is late when a turn of it takes so long that `overload_lag_ms` would pass before a message
//! that just came is looked at; it is no longer late at a quarter of that.

use super::{ConnectionStage, Context, ProtocolError, ShardState};
use crate::proto::access::Refusal;
use crate::proto::bucket::Bucket;
use crate::proto::limits::Limits;
use crate::proto::mqtt::Connect;
use crate::proto::output::{Action, ConnectionId};
use crate::proto::time::Timestamp;
use ahash::AHashMap;
use std::collections::VecDeque;
use std::net::IpAddr;

/// CONNECTs let go on at once when it is their turn, before the next look at the time.
const ADMITTED_AT_ONCE: u32 = 64;
/// While the loop is late, how long until it is looked at again.
const LATE_LOOK_MS: u64 = 20;
/// Addresses and clients whose CONNECTs are counted at most; then those counted longest ago go.
const COUNTED_MAX: usize = 65_536;

/// Who waits, and what was counted.
#[derive(Debug, Default)]
pub(super) struct Admission {
    bucket: Option<Bucket>,
    waiting: VecDeque<ConnectionId>,
    /// When the first of them may go on.
    due: Option<Timestamp>,
    addresses: Counted<IpAddr, Bucket>,
    clients: Counted<Box<str>, Flapping>,
    lag_us: u64,
    is_late: bool,
}

/// How often a client has connected.
#[derive(Clone, Copy, Debug, Default)]
struct Flapping {
    since: Timestamp,
    count: u16,
    banned_until: Timestamp,
}

/// Of each key a value, until too many others came after it.
#[derive(Debug)]
struct Counted<K, V> {
    young: AHashMap<K, V>,
    old: AHashMap<K, V>,
}

impl<K, V> Default for Counted<K, V> {
    fn default() -> Self {
        Self { young: AHashMap::new(), old: AHashMap::new() }
    }
}

impl<K: std::hash::Hash + Eq, V> Counted<K, V> {
    fn forget_unless(&mut self, is_kept: impl Fn(&V) -> bool) {
        self.young.retain(|_, value| is_kept(value));
        self.old.retain(|_, value| is_kept(value));
    }

    fn entry(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        if self.young.len() >= COUNTED_MAX / 2 && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        let old = &mut self.old;
        let known = old.remove(&key);
        self.young.entry(key).or_insert_with(|| known.unwrap_or_else(new))
    }
}

/// What becomes of a CONNECT.
pub(super) enum Admitted {
    GoesOn,
    Waits,
    Refused(ProtocolError),
}

impl ShardState {
    /// The last turn of the loop took so long.
    pub fn note_lag(&mut self, micros: u64) {
        let enter_us = u64::from(self.limits.overload_lag_ms) * 1_000;
        let admission = &mut self.admission;
        admission.lag_us = admission.lag_us - admission.lag_us / 8 + micros / 8;
        if enter_us == 0 {
            return;
        }
        let was_late = admission.is_late;
        admission.is_late = match was_late {
            true => admission.lag_us > enter_us / 4,
            false => admission.lag_us > enter_us,
        };
        if admission.is_late != was_late {
            let (late, lag_us) = (admission.is_late, admission.lag_us);
            self.counters.overloads += u64::from(late);
            tracing::debug!(late, lag_us, "event loop");
        }
    }

    /// What becomes of a CONNECT that was read. One that waits is read again when it is its turn.
    pub(super) fn admit_connect(
        &mut self,
        id: ConnectionId,
        connect: &Connect<'_>,
        context: &mut Context<'_>,
    ) -> Admitted {
        let Some(connection) = self.connection_mut(id) else {
            return Admitted::GoesOn;
        };
        connection.version = connect.version;
        if connection.admitted {
            return Admitted::GoesOn;
        }
        let admitted = self.decide(id, connect, context.now);
        if matches!(admitted, Admitted::Waits) {
            self.admission.waiting.push_back(id);
            if let Some(connection) = self.connection_mut(id) {
                connection.held = true;
            }
            self.counters.connects_delayed += 1;
            let longest = u64::from(self.limits.connect_wait_max_ms);
            self.keep_alives.set(id.index, Timestamp(context.now.0.saturating_add(longest)));
            context.actions.push(Action::Hold(id));
            self.schedule_admission(context.now);
        }
        admitted
    }

    fn decide(&mut self, id: ConnectionId, connect: &Connect<'_>, now: Timestamp) -> Admitted {
        let Self { limits, admission, strangers, .. } = self;
        let address = strangers.address(id.index);
        let is_banned = address.is_some_and(|address| limits.is_banned(address))
            || limits.banned_client_ids.iter().any(|banned| banned == connect.client_id);
        if is_banned {
            return Admitted::Refused(ProtocolError::Banned);
        }
        let rate = limits.address_connect_rate_max;
        if rate > 0
            && let Some(address) = address
        {
            let bucket = admission.addresses.entry(network_of(address), || Bucket::full(rate, now));
            if !bucket.try_take(rate, now) {
                return Admitted::Refused(ProtocolError::ConnectionRateExceeded);
            }
        }
        if admission.is_flapping(connect.client_id, limits, now) {
            return Admitted::Refused(ProtocolError::Banned);
        }
        let rate = limits.connect_rate_max;
        let has_turn = admission.waiting.is_empty()
            && !admission.is_late
            && (rate == 0 || admission.bucket(rate, now).try_take(rate, now));
        if has_turn {
            return Admitted::GoesOn;
        }
        if admission.waiting.len() >= limits.connects_waiting_max as usize {
            return Admitted::Refused(ProtocolError::NotAuthenticated(Refusal::Busy));
        }
        Admitted::Waits
    }

    fn schedule_admission(&mut self, now: Timestamp) {
        let rate = self.limits.connect_rate_max;
        let admission = &mut self.admission;
        if admission.waiting.is_empty() {
            admission.due = None;
        } else if admission.due.is_none_or(|due| due <= now) {
            let turn_ms = 1_000_u32.checked_div(rate).map_or(1, |ms| u64::from(ms).max(1));
            let wait_ms = if admission.is_late { LATE_LOOK_MS } else { turn_ms };
            admission.due = Some(Timestamp(now.0 + wait_ms));
        }
    }

    pub(super) fn admission_due(&self) -> Timestamp {
        self.admission.due.unwrap_or(Timestamp::NEVER)
    }

    /// Lets those go on whose turn it is.
    pub(super) fn admit_waiting(&mut self, context: &mut Context<'_>) {
        if self.admission.due.is_none_or(|due| due > context.now) {
            return;
        }
        let rate = self.limits.connect_rate_max;
        let mut count = 0;
        while let Some(&id) = self.admission.waiting.front() {
            let is_waiting = self.connection(id).is_some_and(|connection| {
                connection.stage == ConnectionStage::ExpectConnect && connection.held
            });
            if is_waiting {
                let admission = &mut self.admission;
                let now = context.now;
                if admission.is_late || count >= ADMITTED_AT_ONCE {
                    break;
                }
                if rate > 0 && !admission.bucket(rate, now).try_take(rate, now) {
                    break;
                }
                count += 1;
                let deadline = now.after_seconds(self.limits.connect_timeout_s);
                self.keep_alives.set(id.index, deadline);
                if let Some(connection) = self.connection_mut(id) {
                    connection.held = false;
                    connection.admitted = true;
                }
                context.actions.push(Action::Resume(id));
            }
            self.admission.waiting.pop_front();
        }
        self.admission.due = None;
        self.schedule_admission(context.now);
    }
}

impl Admission {
    /// What is counted by a rate that has changed is counted anew.
    pub(super) fn limits_changed(&mut self, limits: &Limits) {
        self.bucket = None;
        self.addresses = Counted::default();
        self.clients.forget_unless(|client| client.banned_until != Timestamp::default());
        if limits.flapping_connects_max == 0 {
            self.clients = Counted::default();
        }
        self.is_late &= limits.overload_lag_ms > 0;
    }

    fn bucket(&mut self, rate: u32, now: Timestamp) -> &mut Bucket {
        self.bucket.get_or_insert_with(|| Bucket::full(rate, now))
    }

    /// Counts a CONNECT of a client; whether it connects so often that it is not let in for a while.
    fn is_flapping(&mut self, client_id: &str, limits: &Limits, now: Timestamp) -> bool {
        if limits.flapping_connects_max == 0 || client_id.is_empty() {
            return false;
        }
        let flapping = self.clients.entry(client_id.into(), Flapping::default);
        if flapping.banned_until > now {
            return true;
        }
        let window_end = flapping.since.after_seconds(limits.flapping_window_s.into());
        if now >= window_end {
            (flapping.since, flapping.count) = (now, 0);
        }
        flapping.count = flapping.count.saturating_add(1);
        if flapping.count <= limits.flapping_connects_max {
            return false;
        }
        flapping.banned_until = now.after_seconds(limits.flapping_ban_s);
        tracing::debug!(?client_id, "banned: it connects too often");
        true
    }
}

/// What counts as one address: of IPv6 the first 64 bits, as a host has all of the others.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
    }
}

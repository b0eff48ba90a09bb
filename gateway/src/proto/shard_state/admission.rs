//! Whose CONNECT is looked at now, later, or not at all, so that those who are connected do not feel a
//! storm of others.
//!
//! ```text
//! address ─┬─ plain TCP ──────────────────────────▶ with CONNECT
//!          └─ banned, or too often ──────────────▶ closed, before a handshake of TLS or WebSocket
//! CONNECT ─┬─ banned, or too often ───────────────▶ CONNACK, closed
//!          ├─ rate left, and the loop is not late ─▶ goes on
//!          └─ else ─▶ waits, not read ─┬─ its turn ▶ goes on
//!                                      └─ too long, or too many wait ▶ CONNACK Server busy
//! ```
//! By its client id, and that of its user, a client is counted when it is known who it is: a stranger
//! who names the client id of another must not keep that one out.
//!
//! The loop is late when a turn of it takes so long that `overload_lag_ms` would pass before a message
//! that just came is looked at; it is no longer late at a quarter of that.

use super::{ConnectionStage, Context, ProtocolError, ShardState};
use crate::proto::access::{Identity, Refusal};
use crate::proto::bucket::Bucket;
use crate::proto::handler::TransportKind;
use crate::proto::limits::Limits;
use crate::proto::mqtt::Connect;
use crate::proto::output::{Action, ConnectionId};
use crate::proto::tenant::session_name;
use crate::proto::time::Timestamp;
use ahash::AHashMap;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

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
    /// Wrong credentials, by where they came from.
    failures: Counted<IpAddr, Flapping>,
    /// By user, where users are known, and client id.
    clients: Counted<(Option<Box<str>>, Box<str>), Flapping>,
    lag_us: u64,
    is_late: bool,
}

/// How often a client has connected, or an address had wrong credentials.
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

    fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
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
        let transport = connection.transport;
        let admitted = self.decide(id, connect, transport, context.now);
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

    /// Whether a connection from there may have its transport set up, which costs a handshake. To be
    /// asked of each that is no plain TCP, whose CONNECT can be answered for less.
    pub fn admits_address(&mut self, peer: SocketAddr, now: Timestamp) -> bool {
        let Self { limits, admission, .. } = self;
        let address = peer.ip();
        let refused = admission
            .is_kept_out(address, limits, now)
            .or_else(|| admission.exceeds_rate(address, limits, now));
        let Some(why) = refused else {
            return true;
        };
        self.counters.connects_turned_away += 1;
        self.note_address_turned_away(peer, why, now);
        false
    }

    fn decide(
        &mut self,
        id: ConnectionId,
        connect: &Connect<'_>,
        transport: TransportKind,
        now: Timestamp,
    ) -> Admitted {
        let Self { limits, admission, strangers, .. } = self;
        if limits.banned_client_ids.iter().any(|banned| banned == connect.client_id) {
            return Admitted::Refused(ProtocolError::Banned);
        }
        if let Some(address) = strangers.address(id.index) {
            let mut refused = admission.is_kept_out(address, limits, now);
            // The others were counted before their handshake.
            if refused.is_none() && transport == TransportKind::Tcp {
                refused = admission.exceeds_rate(address, limits, now);
            }
            if let Some(why) = refused {
                return Admitted::Refused(why);
            }
        }
        if !limits.authenticate && admission.is_flapping(None, connect.client_id, limits, now) {
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

    /// Whether a client of which it is known who it is connects so often that it is not let in for a
    /// while. Counts its CONNECT.
    pub(super) fn is_flapping(
        &mut self,
        client_id: &str,
        identity: &Identity,
        now: Timestamp,
    ) -> bool {
        // Who shows a token or a certificate may have the user name of a client of another tenant.
        let name = session_name(identity.mountpoint.as_deref(), client_id);
        self.admission.is_flapping(identity.user_name.as_deref(), &name, &self.limits, now)
    }

    /// Credentials from there were wrong.
    pub(super) fn count_failure(&mut self, address: IpAddr, now: Timestamp) {
        let Self { limits, admission, .. } = self;
        if limits.address_failures_max == 0 {
            return;
        }
        let failures = admission.failures.entry(network_of(address), Flapping::default);
        if failures.count(limits.address_failures_max, limits, now) {
            tracing::debug!(%address, "banned: wrong credentials too often");
        }
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
        self.failures.forget_unless(|address| address.banned_until != Timestamp::default());
        if limits.address_failures_max == 0 {
            self.failures = Counted::default();
        }
        if limits.flapping_connects_max == 0 {
            self.clients = Counted::default();
        }
        self.is_late &= limits.overload_lag_ms > 0;
    }

    fn bucket(&mut self, rate: u32, now: Timestamp) -> &mut Bucket {
        self.bucket.get_or_insert_with(|| Bucket::full(rate, now))
    }

    /// Why nobody from there is let in, if that is so.
    fn is_kept_out(
        &self,
        address: IpAddr,
        limits: &Limits,
        now: Timestamp,
    ) -> Option<ProtocolError> {
        let failures = self.failures.get(&network_of(address));
        let is_banned = limits.is_banned(address)
            || failures.is_some_and(|failures| failures.banned_until > now);
        is_banned.then_some(ProtocolError::Banned)
    }

    /// Counts a CONNECT from there, or what will lead to one; why it is one too many, if it is.
    fn exceeds_rate(
        &mut self,
        address: IpAddr,
        limits: &Limits,
        now: Timestamp,
    ) -> Option<ProtocolError> {
        let rate = limits.address_connect_rate_max;
        if rate == 0 {
            return None;
        }
        let bucket = self.addresses.entry(network_of(address), || Bucket::full(rate, now));
        (!bucket.try_take(rate, now)).then_some(ProtocolError::ConnectionRateExceeded)
    }

    /// Counts a CONNECT of a client; whether it connects so often that it is not let in for a while.
    fn is_flapping(
        &mut self,
        user_name: Option<&str>,
        client_id: &str,
        limits: &Limits,
        now: Timestamp,
    ) -> bool {
        if limits.flapping_connects_max == 0 || client_id.is_empty() {
            return false;
        }
        let key = (user_name.map(Box::from), client_id.into());
        let flapping = self.clients.entry(key, Flapping::default);
        let was_banned = flapping.banned_until > now;
        if was_banned {
            return true;
        }
        let is_banned = flapping.count(limits.flapping_connects_max, limits, now);
        if is_banned {
            tracing::debug!(?client_id, ?user_name, "banned: it connects too often");
        }
        is_banned
    }
}

impl Flapping {
    /// Counts one more; whether that is one too many, which begins a ban.
    fn count(&mut self, max: u16, limits: &Limits, now: Timestamp) -> bool {
        if now >= self.since.after_seconds(limits.flapping_window_s.into()) {
            (self.since, self.count) = (now, 0);
        }
        self.count = self.count.saturating_add(1);
        let is_too_many = self.count > max;
        if is_too_many {
            self.banned_until = now.after_seconds(limits.flapping_ban_s);
        }
        is_too_many
    }
}

/// What counts as one address: of IPv6 the first 64 bits, as a host has all of the others.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
    }
}

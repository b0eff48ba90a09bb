//! How a peer that is gone without a word is noticed, and one that lost a packet is not taken for it.
//!
//! With TCP_USER_TIMEOUT the kernel does not count keepalive probes: it ends a connection with the first
//! that is not answered, once the peer has been silent for that timeout (tcp(7); `tcp_keepalive_timer` of
//! Linux 6.18). Where a connection may be silent for longer than the timeout, it goes without while nothing
//! is on its way, and is then ended by the count of probes:
//!
//! ```text
//! watched ── nothing went either way for 1.5 timeouts ─▶ without TCP_USER_TIMEOUT: five probes, then ended
//!    ▲                                                              │
//!    └───────────────────── something is sent ◀─────────────────────┘
//! ```

use super::connections::{Connection, Connections, State};
use crate::proto::time::Timestamp;
use rustix::net::sockopt;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// What the kernel is told of connections, so that it gives up those whose peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerWatch {
    user_timeout: Duration,
    /// Silence before the first probe; zero for none.
    idle: Duration,
    /// Between probes.
    interval: Duration,
    /// See the module; zero where it is not needed.
    round: Duration,
}

impl PeerWatch {
    /// What was sent and is not acknowledged for `user_timeout` ends a connection, and so do
    /// [`KEEPALIVE_PROBES`] unanswered probes after a silence of `keepalive`. Zero leaves each as the
    /// kernel has it.
    ///
    /// Where `keepalive` is the shorter one, the probes are sent before `user_timeout` ends it. Where it is
    /// less than [`IDLE_TIMEOUTS`] of it longer, the first probe waits for that.
    #[must_use]
    pub(super) fn new(user_timeout: Duration, keepalive: Duration) -> Self {
        let between = |time: Duration, probes: u32| {
            let seconds = (time / probes).as_secs();
            Duration::from_secs(seconds).clamp(INTERVAL_MIN, INTERVAL_MAX)
        };
        if keepalive.is_zero() {
            let none = Duration::ZERO;
            return Self { user_timeout, idle: none, interval: none, round: none };
        }
        if keepalive < user_timeout {
            let interval = between(user_timeout - keepalive, KEEPALIVE_PROBES);
            return Self { user_timeout, idle: keepalive, interval, round: Duration::ZERO };
        }
        let interval = between(keepalive, INTERVALS_A_KEEPALIVE);
        let idle = keepalive.max(user_timeout * IDLE_TIMEOUTS.0 / IDLE_TIMEOUTS.1).min(IDLE_MAX);
        Self { user_timeout, idle, interval, round: user_timeout / ROUNDS_A_TIMEOUT }
    }

    /// Sets it on a socket; those that a listening one accepts inherit it.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(super) fn set(self, socket: impl AsFd) -> io::Result<()> {
        if !self.user_timeout.is_zero() {
            set_user_timeout(&socket, self.user_timeout)?;
        }
        if !self.idle.is_zero() {
            sockopt::set_socket_keepalive(&socket, true)?;
            sockopt::set_tcp_keepidle(&socket, self.idle)?;
            sockopt::set_tcp_keepintvl(&socket, self.interval)?;
            sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
        }
        Ok(())
    }
}

fn set_user_timeout(socket: impl AsFd, user_timeout: Duration) -> io::Result<()> {
    let milliseconds = u32::try_from(user_timeout.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(socket, milliseconds)?)
}

/// Which connections are silent; see the module.
#[derive(Debug)]
pub(super) struct Silence {
    watch: PeerWatch,
    /// Where the next step begins.
    place: u32,
    due: Timestamp,
}

impl Silence {
    pub(super) fn new(watch: PeerWatch, now: Timestamp) -> Self {
        Self { watch, place: 0, due: now.after(watch.round) }
    }

    /// When [`Silence::step`] is due.
    pub(super) fn next_deadline(&self, connections: &Connections) -> Timestamp {
        let is_needed = !self.watch.round.is_zero() && connections.count() > 0;
        if is_needed { self.due } else { Timestamp::NEVER }
    }

    /// Looks at the next connections; all have been looked at after a round.
    pub(super) fn step(&mut self, connections: &mut Connections, now: Timestamp) {
        if self.next_deadline(connections) > now {
            return;
        }
        let places = connections.places();
        let end = self.place.saturating_add(STEP_PLACES).min(places);
        for index in self.place.min(end)..end {
            if let Some(id) = connections.at(index)
                && let Some(connection) = connections.get_mut(id)
            {
                look_at(connection);
            }
        }
        self.place = if end < places { end } else { 0 };
        self.due = now.after(self.watch.round / places.div_ceil(STEP_PLACES).max(1));
    }

    /// Something is sent to the peer.
    #[inline]
    pub(super) fn sending(&self, connection: &mut Connection) {
        connection.silent_rounds = 0;
        if connection.is_unwatched {
            connection.is_unwatched = false;
            // What fails here is closed, or about to be.
            let _ = set_user_timeout(connection.socket(), self.watch.user_timeout);
        }
    }

    /// A connection that another process has left, whatever it had set.
    pub(super) fn taken_over(&self, connection: &Connection) {
        let _ = self.watch.set(connection.socket());
    }
}

fn look_at(connection: &mut Connection) {
    // One that is not adopted may yet go to another shard, which would not know.
    if !connection.state.any(State::ADOPTED) || connection.state.any(State::SENDING) {
        connection.silent_rounds = 0;
        return;
    }
    connection.silent_rounds = connection.silent_rounds.saturating_add(1);
    if connection.silent_rounds >= SILENT_ROUNDS
        && !connection.is_unwatched
        && set_user_timeout(connection.socket(), Duration::ZERO).is_ok()
    {
        connection.is_unwatched = true;
    }
}

/// Unanswered probes that end a connection.
const KEEPALIVE_PROBES: u32 = 5;
/// Five of them take a fifth of the silence before the first.
const INTERVALS_A_KEEPALIVE: u32 = 24;
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const INTERVAL_MAX: Duration = Duration::from_secs(75);
/// The kernel's largest.
const IDLE_MAX: Duration = Duration::from_secs(32_767);
const ROUNDS_A_TIMEOUT: u32 = 8;
/// One more than a timeout and a half, as the first may come at once.
const SILENT_ROUNDS: u8 = 13;
/// Before the first probe, as a fraction: when the last of the silent is without a timeout.
const IDLE_TIMEOUTS: (u32, u32) = (7, 4);
/// Places looked at in one go. Each is a system call once in a silence, 1.8 us measured: two milliseconds
/// where all have been silent since the same time.
const STEP_PLACES: u32 = 1_024;

const _: () = assert!(SILENT_ROUNDS as u32 > ROUNDS_A_TIMEOUT * 3 / 2);
const _: () = assert!(SILENT_ROUNDS as u32 * IDLE_TIMEOUTS.1 < ROUNDS_A_TIMEOUT * IDLE_TIMEOUTS.0);

#[cfg(test)]
mod tests {
    use super::super::listener::{listen, local_address};
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    fn watch(user_timeout_s: u64, keepalive_s: u64) -> PeerWatch {
        PeerWatch::new(Duration::from_secs(user_timeout_s), Duration::from_secs(keepalive_s))
    }

    /// A connection as it was accepted.
    fn accepted(watch: PeerWatch) -> (OwnedFd, TcpStream) {
        let listening = listen("[::1]:0".parse().unwrap(), 16).unwrap();
        watch.set(&listening).unwrap();
        let client = TcpStream::connect(local_address(&listening).unwrap()).unwrap();
        let (accepted, _) = TcpListener::from(listening).accept().unwrap();
        (accepted.into(), client)
    }

    #[test]
    fn connections_inherit_how_their_peers_are_watched() {
        let (accepted, _client) = accepted(watch(7, 120));
        assert_eq!(sockopt::tcp_user_timeout(&accepted).unwrap(), 7_000);
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&accepted).unwrap(), Duration::from_secs(120));
        assert_eq!(sockopt::tcp_keepintvl(&accepted).unwrap(), Duration::from_secs(5));
        assert_eq!(sockopt::tcp_keepcnt(&accepted).unwrap(), KEEPALIVE_PROBES);
    }

    #[test]
    fn five_probes_fit_before_the_end() {
        for (user_timeout_s, keepalive_s, idle_s, interval_s, rounds) in [
            (300, 1_800, 1_800, 75, true),
            // The first probe waits until no connection that is silent has the timeout.
            (300, 400, 525, 16, true),
            (300, 300, 525, 12, true),
            // They are sent within the timeout.
            (300, 200, 200, 20, false),
            (3_600, 60, 60, 75, false),
            (10, 9, 9, 1, false),
            // One of them is off.
            (0, 1_800, 1_800, 75, false),
            (300, 0, 0, 0, false),
            // The largest.
            (86_400, 32_767, 32_767, 75, false),
            (32_767, 32_767, 32_767, 75, true),
        ] {
            let watch = watch(user_timeout_s, keepalive_s);
            let seconds = (watch.idle.as_secs(), watch.interval.as_secs());
            assert_eq!(seconds, (idle_s, interval_s), "{user_timeout_s} {keepalive_s}");
            assert_eq!(!watch.round.is_zero(), rounds, "{user_timeout_s} {keepalive_s}");
            drop(accepted(watch));
        }
    }

    #[test]
    fn a_silent_connection_has_no_timeout_until_something_is_sent() {
        let watch = watch(8, 100);
        let mut silence = Silence::new(watch, Timestamp::START);
        let mut connections = Connections::default();
        assert_eq!(silence.next_deadline(&connections), Timestamp::NEVER);
        let (socket, _client) = accepted(watch);
        let id = connections.insert(socket);
        connections.get_mut(id).unwrap().state.set(State::ADOPTED);
        let timeout = |connections: &mut Connections| {
            sockopt::tcp_user_timeout(connections.get_mut(id).unwrap().socket()).unwrap()
        };
        let mut round = |connections: &mut Connections| {
            let now = silence.next_deadline(connections);
            silence.step(connections, now);
        };
        for _ in 1..SILENT_ROUNDS {
            round(&mut connections);
        }
        assert_eq!(timeout(&mut connections), 8_000);
        // A send that does not end is no silence.
        connections.get_mut(id).unwrap().state.set(State::SENDING);
        round(&mut connections);
        connections.get_mut(id).unwrap().state.unset(State::SENDING);
        for _ in 1..SILENT_ROUNDS {
            round(&mut connections);
        }
        assert_eq!(timeout(&mut connections), 8_000);
        round(&mut connections);
        assert_eq!(timeout(&mut connections), 0);
        silence.sending(connections.get_mut(id).unwrap());
        assert_eq!(timeout(&mut connections), 8_000);
    }

    #[test]
    fn a_step_is_bounded_and_a_round_sees_all() {
        let mut silence = Silence::new(watch(8, 100), Timestamp::START);
        let mut connections = Connections::default();
        let count = STEP_PLACES + 1;
        for _ in 0..count {
            let socket = std::fs::File::open("/dev/null").unwrap();
            let id = connections.insert(socket.into());
            connections.get_mut(id).unwrap().state.set(State::ADOPTED);
        }
        let seen = |connections: &mut Connections| -> u32 {
            let ids = connections.ids().into_iter();
            ids.map(|id| u32::from(connections.get_mut(id).unwrap().silent_rounds)).sum()
        };
        silence.step(&mut connections, Timestamp(1_000));
        assert_eq!(seen(&mut connections), STEP_PLACES);
        silence.step(&mut connections, Timestamp(1_499));
        assert_eq!(seen(&mut connections), STEP_PLACES, "half a round later");
        silence.step(&mut connections, Timestamp(1_500));
        assert_eq!(seen(&mut connections), count);
        silence.step(&mut connections, Timestamp(2_000));
        assert_eq!(seen(&mut connections), count + STEP_PLACES, "from the beginning");
    }
}

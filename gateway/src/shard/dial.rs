//! Connections that a shard makes itself: links to the servers behind it.

use super::connections::State;
use super::engine::Shard;
use crate::proto::handler::{Dial, Handler};
use crate::proto::output::ConnectionId;
use crate::proto::time::Timestamp;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

/// Sockets being connected. A shard has a few links, so places are searched one by one.
#[derive(Debug, Default)]
pub(super) struct Dialing {
    places: Vec<Option<Attempt>>,
}

#[derive(Debug)]
struct Attempt {
    token: u64,
    socket: OwnedFd,
    deadline: Timestamp,
    /// Nobody waits for it any more; its place is free when its watch has ended.
    over: bool,
}

impl Dialing {
    fn insert(&mut self, attempt: Attempt) -> u32 {
        let place = self.places.iter().position(Option::is_none).unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        *self.places.get_mut(place).expect("free or just made") = Some(attempt);
        u32::try_from(place).expect("a shard has few links")
    }

    fn take(&mut self, place: u32) -> Option<Attempt> {
        self.places.get_mut(place as usize)?.take()
    }

    /// When the next attempt is given up.
    pub(super) fn next_deadline(&self) -> Timestamp {
        let waiting = self.places.iter().flatten().filter(|attempt| !attempt.over);
        waiting.map(|attempt| attempt.deadline).min().unwrap_or(Timestamp::NEVER)
    }
}

impl<H: Handler> Shard<H> {
    /// Begins to connect.
    pub(super) fn dial(&mut self, dial: Dial) {
        let Dial { token, address, deadline } = dial;
        match connect(address) {
            Ok(socket) => {
                let attempt = Attempt { token, socket, deadline, over: false };
                let place = self.dialing.insert(attempt);
                if let Some(Some(attempt)) = self.dialing.places.get(place as usize) {
                    self.ring.watch_connecting(attempt.socket.as_fd(), place);
                }
            }
            Err(error) => self.tell_dialed(token, Err(error)),
        }
    }

    /// The socket in this place has connected, or failed, or is not watched any more.
    pub(super) fn handle_connected(&mut self, place: u32) {
        let Some(Attempt { token, socket, over, .. }) = self.dialing.take(place) else { return };
        if over {
            return;
        }
        let outcome = sockopt::socket_error(&socket).map_err(io::Error::from);
        let outcome = outcome.and_then(|outcome| outcome.map_err(io::Error::from));
        // From here on the ring waits for the socket, which it does not do for a non-blocking one.
        match outcome.and_then(|()| Ok(rustix::io::ioctl_fionbio(&socket, false)?)) {
            Ok(()) => {
                self.counters.dialed += 1;
                let id = self.connections.insert(socket);
                self.io.outbox.clear(id.index);
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.state.set(State::ADOPTED.or(State::LINK));
                }
                self.tell_dialed(token, Ok(id));
                self.settle(id);
            }
            Err(error) => self.tell_dialed(token, Err(error)),
        }
    }

    /// Gives up what takes too long. Returns whether anything did.
    pub(super) fn give_up_dialing(&mut self) -> bool {
        let now = self.io.now;
        let mut given_up = Vec::new();
        for (place, attempt) in (0..).zip(&mut self.dialing.places) {
            if let Some(attempt) = attempt
                && !attempt.over
                && attempt.deadline <= now
            {
                attempt.over = true;
                self.ring.cancel_connecting(place);
                given_up.push(attempt.token);
            }
        }
        for token in &given_up {
            self.tell_dialed(*token, Err(io::ErrorKind::TimedOut.into()));
        }
        !given_up.is_empty()
    }

    fn tell_dialed(&mut self, token: u64, result: io::Result<ConnectionId>) {
        self.handler.dialed(token, result, &mut self.io);
        self.perform_actions();
    }
}

/// A socket that connects to `address` by itself.
fn connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

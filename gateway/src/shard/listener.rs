//! Listening sockets, one a shard and address.

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Opens a socket that listens on `address` with others like it (`SO_REUSEPORT`): the kernel
/// spreads new connections over them. Connections inherit `TCP_NODELAY`.
///
/// `backlog` is how many finished handshakes may wait; the kernel cuts it to `net.core.somaxconn`.
///
/// # Errors
///
/// The operating system's; `AddrInUse` when a process that does not share has the address.
pub fn listen(address: SocketAddr, backlog: i32) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC;
    let socket = net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    net::bind(&socket, &address)?;
    net::listen(&socket, backlog)?;
    Ok(socket)
}

/// Lets the kernel give up peers that are gone without a word, on every connection that `socket`
/// accepts: it inherits this.
///
/// What was sent and is not acknowledged for `user_timeout` ends a connection, and so does a peer that
/// was silent for `keepalive` and then does not answer: the first question, where `user_timeout` is over
/// by then, as the kernel counts that from the peer's last word (tcp(7), TCP_USER_TIMEOUT). Zero leaves
/// each as the kernel has it.
///
/// # Errors
///
/// The operating system's.
pub fn watch_peers(
    socket: &OwnedFd,
    user_timeout: Duration,
    keepalive: Duration,
) -> io::Result<()> {
    if !user_timeout.is_zero() {
        let milliseconds = u32::try_from(user_timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(socket, milliseconds)?;
    }
    if !keepalive.is_zero() {
        sockopt::set_socket_keepalive(socket, true)?;
        sockopt::set_tcp_keepidle(socket, keepalive)?;
        sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
    }
    Ok(())
}

/// How often a peer that does not answer is asked, and how many times.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(75);
const KEEPALIVE_PROBES: u32 = 5;

/// Fails when another process listens on `address`, even one that shares it as we do: two gateways
/// on one port would each get a part of the connections.
///
/// # Errors
///
/// The operating system's; `AddrInUse` when somebody listens there.
pub fn check_free(address: SocketAddr) -> io::Result<()> {
    // Without SO_REUSEPORT this is refused beside any socket that listens; std sets SO_REUSEADDR,
    // so connections of an earlier run that linger are no hindrance.
    std::net::TcpListener::bind(address).map(drop)
}

/// The address `socket` is bound to: the port the kernel chose when none was given.
///
/// # Errors
///
/// The operating system's.
pub fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let address = net::getsockname(socket)?;
    SocketAddr::try_from(address).map_err(|_| io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn connections_inherit_no_delay_and_addresses_are_shared() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let first = listen(host.parse().unwrap(), 16).unwrap();
            let address = local_address(&first).unwrap();
            let second = listen(address, 16).unwrap();
            drop(second);
            let client = TcpStream::connect(address).unwrap();
            let (accepted, peer) = TcpListener::from(first).accept().unwrap();
            assert!(accepted.nodelay().unwrap());
            assert_eq!(peer, client.local_addr().unwrap());
        }
    }

    #[test]
    fn connections_inherit_how_their_peers_are_watched() {
        let listening = listen("[::1]:0".parse().unwrap(), 16).unwrap();
        watch_peers(&listening, Duration::from_secs(7), Duration::from_secs(9)).unwrap();
        let _client = TcpStream::connect(local_address(&listening).unwrap()).unwrap();
        let (accepted, _) = TcpListener::from(listening).accept().unwrap();
        assert_eq!(sockopt::tcp_user_timeout(&accepted).unwrap(), 7_000);
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&accepted).unwrap(), Duration::from_secs(9));
        assert_eq!(sockopt::tcp_keepintvl(&accepted).unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&accepted).unwrap(), KEEPALIVE_PROBES);
    }

    #[test]
    fn an_address_that_is_shared_is_not_free() {
        let first = listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        let address = local_address(&first).unwrap();
        assert_eq!(check_free(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        check_free(address).unwrap();
    }

    #[test]
    fn an_address_in_use_is_an_error() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = listen(taken.local_addr().unwrap(), 16).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}

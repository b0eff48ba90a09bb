//! Listening sockets, one a shard and address.

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

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

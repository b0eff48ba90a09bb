//! What lies between a socket's bytes and the plain bytes of its connection.
//!
//! The state moves with the socket when a connection is handed over. A transport that changes
//! nothing costs nothing: bytes pass through by reference on the way in and by value on the way
//! out.

/// The transport of one connection.
#[derive(Debug, Default)]
pub(super) enum Transport {
    /// Plain TCP: the wire carries the bytes as they are.
    #[default]
    Tcp,
}

impl Transport {
    /// The plain bytes in `wire`, which came from the socket; `plain` is room for a transport that
    /// has to unwrap them.
    pub(super) fn receive<'a>(&mut self, wire: &'a [u8], _plain: &'a mut Vec<u8>) -> &'a [u8] {
        match self {
            Self::Tcp => wire,
        }
    }

    /// The wire's bytes for `plain`.
    pub(super) fn send(&mut self, plain: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Tcp => plain,
        }
    }
}

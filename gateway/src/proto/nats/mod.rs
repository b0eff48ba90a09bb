//! The NATS client protocol, as a client speaks it: bytes to operations and back.
//!
//! Decoding borrows: a [`Message`] points into the bytes it was read from. Encoding appends to the
//! caller's buffer, and a length that is known only afterwards is put in its place without a
//! second buffer. Read [`decode()`] first, then [`Headers`], then [`PublishWriter`].
//!
//! What no single operation shows (which reply belongs to which request, whether the server is
//! alive, what to do after `-ERR`) is for the link to find. No bytes make this module panic.
//!
//! Source: NATS client protocol (docs.nats.io, "Client Protocol"), ADR-4 for headers; corners as
//! nats-server 2.12.0 and 2.15.1 behave.

pub mod json;

mod connect;
mod decode;
mod encode;
mod error;
mod headers;
mod info;
mod subject;

pub use connect::{ConnectOptions, Credentials, encode_connect};
pub use decode::{DecodeLimits, Message, Operation, Progress, decode};
pub use encode::{
    HeaderInjection, PublishWriter, encode_ping, encode_pong, encode_publish, encode_publish_with,
    encode_subscribe, encode_unsubscribe, put_decimal,
};
pub use error::DecodeError;
pub use headers::{Headers, Status};
pub use info::{Info, InfoError};
pub use subject::{InvalidSubject, Subject, subject_matches};

/// The longest control line a client may send, bytes, without operation name and line end: the
/// server's default `max_control_line`. It answers a longer one with `-ERR 'maximum control line
/// exceeded'` and closes the connection.
pub const CONTROL_LINE_BYTES_MAX: usize = 4_096;

//! What can be wrong with the bytes a NATS server sent.

/// Bytes that are no operation of the protocol; the link cannot go on after it.
///
/// `Copy` and without text, so that being wrong costs the server's side of the link nothing more
/// than the link. The evidence never depends on how the bytes were split on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No line end within the limit.
    #[error("control line longer than {limit_bytes} bytes")]
    ControlLineTooLong {
        /// [`DecodeLimits::control_line_bytes_max`](super::DecodeLimits), or `info_bytes_max`.
        limit_bytes: usize,
    },
    /// A line that ends with a bare line feed.
    #[error("line feed without carriage return")]
    LineEnd,
    /// A line that starts with none of the operations a server sends.
    #[error("unknown operation")]
    UnknownOperation,
    /// Too few or too many fields for the operation.
    #[error("wrong number of fields")]
    FieldCount,
    /// A subscription id or a size that is no decimal number, or too large for its type.
    #[error("not a number")]
    Number,
    /// HMSG whose header length exceeds its total length.
    #[error("{header_bytes} bytes of headers in {total_bytes} bytes")]
    HeadersPastEnd {
        /// As announced.
        header_bytes: usize,
        /// As announced.
        total_bytes: usize,
    },
    /// More headers than the reader accepts.
    #[error("{got_bytes} bytes of headers, at most {limit_bytes} are accepted")]
    HeadersTooLong {
        /// As announced.
        got_bytes: usize,
        /// [`DecodeLimits::header_bytes_max`](super::DecodeLimits).
        limit_bytes: usize,
    },
    /// More payload than the reader accepts.
    #[error("{got_bytes} bytes of payload, at most {limit_bytes} are accepted")]
    PayloadTooLong {
        /// As announced, without headers.
        got_bytes: usize,
        /// [`DecodeLimits::payload_bytes_max`](super::DecodeLimits).
        limit_bytes: usize,
    },
    /// A payload that is not followed by CR LF where its announced length ends.
    #[error("payload does not end where it should")]
    PayloadEnd,
}

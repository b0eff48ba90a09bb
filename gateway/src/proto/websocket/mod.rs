//! WebSocket as MQTT uses it: a stream of bytes in binary frames. The gateway is the server; the client's
//! side is for programs that reach one.
//!
//! ```text
//!   Request ──(GET, subprotocol mqtt)──▶ Frames ──(Close of either side, a fault)──▶ over
//! ```
//!
//! Bytes in, bytes out, no I/O. MQTT packets need not match frames: payload goes up as it comes,
//! unmasked, so however a peer cuts or fragments its messages, nothing of them is kept here.
//!
//! Source: RFC 6455; MQTT 5.0 §6.

mod client;
mod frame;
mod handshake;

pub use client::{WebSocketAnswerFault, WebSocketClient};

use frame::{Frames, Opcode, encode_header};
use handshake::{RequestFault, answer, refusal};

/// The server's end of a WebSocket connection.
#[derive(Debug)]
pub struct WebSocket {
    stage: Stage,
    /// The payload of the newest ping that was not answered.
    pong: Option<Box<[u8]>>,
    /// The code of the peer's Close, if it has sent one.
    closed: Option<u16>,
}

#[derive(Debug)]
enum Stage {
    /// What came of the request, and up to where its end was looked for.
    Request {
        received: Vec<u8>,
        searched: usize,
    },
    Frames(Frames),
}

/// What is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketLimits {
    /// Bytes of the request and its headers.
    pub request_bytes_max: usize,
    /// Payload bytes of a frame.
    pub frame_bytes_max: u64,
    /// Pages that may connect, by their origin (`https://example.org`); all may if there is none. A
    /// client that is no browser names no origin, and may.
    pub origins: Vec<String>,
}

/// What bytes of the peer led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WebSocketProgress {
    /// The request was accepted, by these bytes.
    pub opened: bool,
    /// The peer has sent Close.
    pub closed: bool,
}

/// The peer is no WebSocket client, or broke the protocol. The answer that says so is among what is
/// to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebSocketFault {
    /// The request was refused, with this status.
    Request(u16),
    /// The connection is closed with this code.
    Frame(u16),
}

/// Close codes, RFC 6455 §7.4.1.
pub(crate) mod close_code {
    pub(crate) const NORMAL: u16 = 1000;
    pub(crate) const PROTOCOL_ERROR: u16 = 1002;
    pub(crate) const UNSUPPORTED_DATA: u16 = 1003;
    /// Never on the wire: the peer's Close had none.
    pub(crate) const NONE: u16 = 1005;
    pub(crate) const INVALID_PAYLOAD: u16 = 1007;
    pub(crate) const POLICY: u16 = 1008;
    pub(crate) const TOO_BIG: u16 = 1009;
}

impl Default for WebSocket {
    fn default() -> Self {
        let stage = Stage::Request { received: Vec::new(), searched: 0 };
        Self { stage, pong: None, closed: None }
    }
}

impl WebSocket {
    /// Whether the request was accepted.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Frames(_))
    }

    /// Whether a ping waits for its answer, which [`WebSocket::take_pong`] makes.
    #[must_use]
    pub fn has_pong(&self) -> bool {
        self.pong.is_some()
    }

    /// Takes bytes; payload is added to `plain`, what is to be sent at once to `output`.
    ///
    /// # Errors
    ///
    /// What came before the fault is in `plain`. Nothing may be sent but `output`.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        limits: &WebSocketLimits,
        plain: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<WebSocketProgress, WebSocketFault> {
        let mut progress = WebSocketProgress::default();
        let first;
        let mut bytes = bytes;
        if let Stage::Request { received, searched } = &mut self.stage {
            received.extend_from_slice(bytes);
            let from = searched.saturating_sub(END_OF_HEADERS.len() - 1);
            let tail = received.get(from..).unwrap_or_default();
            let end = memchr::memmem::find(tail, END_OF_HEADERS);
            let end = end.map(|at| from + at + END_OF_HEADERS.len());
            if end.unwrap_or(received.len()) > limits.request_bytes_max {
                return Err(refuse(RequestFault::TooLarge, output));
            }
            let Some(end) = end else {
                *searched = received.len();
                return Ok(progress);
            };
            first = received.split_off(end);
            let accepted = answer(received, &limits.origins, output);
            accepted.map_err(|fault| refuse(fault, output))?;
            progress.opened = true;
            self.stage = Stage::Frames(Frames::of_client());
            bytes = &first;
        }
        let Stage::Frames(frames) = &mut self.stage else { return Ok(progress) };
        while !bytes.is_empty() && self.closed.is_none() {
            let taken = match frames.take(bytes, limits.frame_bytes_max, plain) {
                Ok(taken) => taken,
                Err(code) => return Err(fail(code, output)),
            };
            bytes = bytes.get(taken.length..).unwrap_or_default();
            match taken.control {
                Some((Opcode::Ping, payload)) => self.pong = Some(payload.into()),
                Some((Opcode::Close, payload)) => {
                    let code = frame::close_code_of(&payload);
                    self.closed = Some(code.map_err(|code| fail(code, output))?);
                    progress.closed = true;
                }
                _ => {}
            }
        }
        Ok(progress)
    }

    /// Adds the answer to the newest ping, if there is one.
    pub fn take_pong(&mut self, output: &mut Vec<u8>) {
        if let Some(payload) = self.pong.take() {
            encode_header(Opcode::Pong, payload.len(), output);
            output.extend_from_slice(&payload);
        }
    }

    /// Adds `plain` as one binary frame.
    pub fn send(plain: &[u8], output: &mut Vec<u8>) {
        encode_header(Opcode::Binary, plain.len(), output);
        output.extend_from_slice(plain);
    }

    /// Adds Close, as an answer to the peer's or as our own: nothing may be sent afterwards.
    pub fn close(&self, output: &mut Vec<u8>) {
        match self.closed {
            Some(close_code::NONE) => encode_header(Opcode::Close, 0, output),
            code => encode_close(code.unwrap_or(close_code::NORMAL), output),
        }
    }
}

const END_OF_HEADERS: &[u8] = b"\r\n\r\n";

fn refuse(fault: RequestFault, output: &mut Vec<u8>) -> WebSocketFault {
    WebSocketFault::Request(refusal(fault, output))
}

fn fail(code: u16, output: &mut Vec<u8>) -> WebSocketFault {
    encode_close(code, output);
    WebSocketFault::Frame(code)
}

fn encode_close(code: u16, output: &mut Vec<u8>) {
    encode_header(Opcode::Close, 2, output);
    output.extend_from_slice(&code.to_be_bytes());
}

#[cfg(test)]
mod tests;

//! The client's side of a WebSocket connection. The gateway has no use for it; what measures it does.
//!
//! ```text
//!   Answer ──(101, subprotocol mqtt)──▶ Frames ──(Close of either side, a fault)──▶ over
//! ```

use super::frame::{self, Frames, Opcode, encode_masked};
use super::handshake::{KEY_BYTES, accept};
use super::{END_OF_HEADERS, WebSocketProgress, close_code};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The client's end of a WebSocket connection.
#[derive(Debug)]
pub struct WebSocketClient {
    stage: Stage,
    /// The state of the generator that masks and key come from.
    random: u64,
    /// The code of the peer's Close, if it has sent one.
    closed: Option<u16>,
}

#[derive(Debug)]
enum Stage {
    /// What came of the answer, up to where its end was looked for, and what has to be in it.
    Answer {
        received: Vec<u8>,
        searched: usize,
        accept: Box<str>,
    },
    Frames(Frames),
}

/// The peer is no WebSocket server for MQTT, or broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebSocketAnswerFault {
    /// What came is no HTTP/1.1 answer, or longer than one is.
    Malformed,
    /// It is one with this status, and not 101.
    Status(u16),
    /// The headers do not say that the connection is a WebSocket now, or prove it for another key.
    Upgrade,
    /// The subprotocol is not `mqtt`. Source: MQTT 5.0 [MQTT-6.0.0-4].
    Subprotocol,
    /// The connection is closed with this code.
    Frame(u16),
}

/// Bytes of an answer and its headers at most.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Headers that are looked at, at most.
const HEADERS_MAX: usize = 64;

impl WebSocketClient {
    /// Adds the request for `path` of `host` (with its port) to `output`. Key and masks come from
    /// `seed`, and are no secret: they keep proxies from taking payload for HTTP, and here payload
    /// is nobody's attack.
    #[must_use]
    pub fn begin(host: &str, path: &str, seed: u64, output: &mut Vec<u8>) -> Self {
        let mut client = Self {
            stage: Stage::Frames(Frames::of_server()),
            // Zero is the one state that xorshift does not leave.
            random: seed | 1 << 63,
            closed: None,
        };
        let mut key = [0; KEY_BYTES];
        for chunk in key.chunks_exact_mut(4) {
            chunk.copy_from_slice(&client.mask());
        }
        let key = STANDARD.encode(key);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: mqtt\r\n\
             Sec-WebSocket-Version: 13\r\n\r\n"
        );
        output.extend_from_slice(request.as_bytes());
        let accept = accept(key.as_bytes()).into();
        client.stage = Stage::Answer { received: Vec::new(), searched: 0, accept };
        client
    }

    /// Whether the server has accepted.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Frames(_))
    }

    /// Takes bytes; payload is added to `plain`, answers to pings and to Close to `output`.
    ///
    /// # Errors
    ///
    /// What came before the fault is in `plain`; a Close that says what was wrong is in `output`
    /// where one may be sent. The connection is of no use any more.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        frame_bytes_max: u64,
        plain: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<WebSocketProgress, WebSocketAnswerFault> {
        let mut progress = WebSocketProgress::default();
        let rest;
        let mut bytes = bytes;
        if !self.is_open() {
            let Some(behind) = self.take_answer(bytes)? else { return Ok(progress) };
            progress.opened = true;
            self.stage = Stage::Frames(Frames::of_server());
            rest = behind;
            bytes = &rest;
        }
        while !bytes.is_empty() && self.closed.is_none() {
            let Stage::Frames(frames) = &mut self.stage else { break };
            let taken = match frames.take(bytes, frame_bytes_max, plain) {
                Ok(taken) => taken,
                Err(code) => return Err(self.fail(code, output)),
            };
            bytes = bytes.get(taken.length..).unwrap_or_default();
            match taken.control {
                Some((Opcode::Ping, payload)) => {
                    encode_masked(Opcode::Pong, &payload, self.mask(), output);
                }
                Some((Opcode::Close, payload)) => {
                    match frame::close_code_of(&payload) {
                        Ok(code) => self.closed = Some(code),
                        Err(code) => return Err(self.fail(code, output)),
                    }
                    progress.closed = true;
                }
                _ => {}
            }
        }
        Ok(progress)
    }

    /// Adds `plain` as one binary frame.
    pub fn send(&mut self, plain: &[u8], output: &mut Vec<u8>) {
        encode_masked(Opcode::Binary, plain, self.mask(), output);
    }

    /// Adds Close, as an answer to the peer's or as our own: nothing may be sent afterwards.
    pub fn close(&mut self, output: &mut Vec<u8>) {
        let mask = self.mask();
        match self.closed {
            Some(close_code::NONE) => encode_masked(Opcode::Close, &[], mask, output),
            code => {
                let code = code.unwrap_or(close_code::NORMAL).to_be_bytes();
                encode_masked(Opcode::Close, &code, mask, output);
            }
        }
    }

    /// What is behind the answer, when that is complete.
    fn take_answer(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, WebSocketAnswerFault> {
        let Stage::Answer { received, searched, accept } = &mut self.stage else { return Ok(None) };
        received.extend_from_slice(bytes);
        let from = searched.saturating_sub(END_OF_HEADERS.len() - 1);
        let end = memchr::memmem::find(received.get(from..).unwrap_or_default(), END_OF_HEADERS);
        let end = end.map(|at| from + at + END_OF_HEADERS.len());
        if end.unwrap_or(received.len()) > ANSWER_BYTES_MAX {
            return Err(WebSocketAnswerFault::Malformed);
        }
        let Some(end) = end else {
            *searched = received.len();
            return Ok(None);
        };
        let behind = received.split_off(end);
        check_answer(received, accept)?;
        Ok(Some(behind))
    }

    fn fail(&mut self, code: u16, output: &mut Vec<u8>) -> WebSocketAnswerFault {
        encode_masked(Opcode::Close, &code.to_be_bytes(), self.mask(), output);
        WebSocketAnswerFault::Frame(code)
    }

    /// The next mask. Source: G. Marsaglia, "Xorshift RNGs", 2003, with the shifts 13, 7, 17.
    fn mask(&mut self) -> [u8; 4] {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let [_, _, a, b, c, d, _, _] = self.random.to_be_bytes();
        [a, b, c, d]
    }
}

/// Source: RFC 6455 §4.1, "once the client's opening handshake has been sent".
fn check_answer(answer: &[u8], accept: &str) -> Result<(), WebSocketAnswerFault> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    match parsed.parse(answer) {
        Ok(httparse::Status::Complete(_)) if parsed.version == Some(1) => {}
        Ok(httparse::Status::Complete(_) | httparse::Status::Partial) | Err(_) => {
            return Err(WebSocketAnswerFault::Malformed);
        }
    }
    match parsed.code {
        Some(101) => {}
        Some(code) => return Err(WebSocketAnswerFault::Status(code)),
        None => return Err(WebSocketAnswerFault::Malformed),
    }
    let value = |name: &str| {
        let mut named = parsed.headers.iter().filter(|one| one.name.eq_ignore_ascii_case(name));
        named.next().and_then(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
    };
    let says = |name: &str, wanted: &str| {
        let words = value(name).unwrap_or_default().split(',');
        words.map(str::trim).any(|word| word.eq_ignore_ascii_case(wanted))
    };
    if !says("upgrade", "websocket")
        || !says("connection", "upgrade")
        || value("sec-websocket-accept") != Some(accept)
    {
        return Err(WebSocketAnswerFault::Upgrade);
    }
    if value("sec-websocket-protocol") != Some("mqtt") {
        return Err(WebSocketAnswerFault::Subprotocol);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{WebSocket, WebSocketLimits};
    use super::*;

    const FRAME_BYTES_MAX: u64 = 1 << 20;

    fn limits() -> WebSocketLimits {
        let frame_bytes_max = FRAME_BYTES_MAX;
        WebSocketLimits { request_bytes_max: 1_000, frame_bytes_max, origins: Vec::new() }
    }

    fn begin() -> (WebSocketClient, Vec<u8>) {
        let mut request = Vec::new();
        let client = WebSocketClient::begin("localhost:80", "/mqtt", 7, &mut request);
        (client, request)
    }

    /// Both ends, open, whatever pieces the answer comes in.
    fn open(size: usize) -> (WebSocketClient, WebSocket) {
        let (mut client, request) = begin();
        let (mut server, mut answer, mut none) = (WebSocket::default(), Vec::new(), Vec::new());
        assert!(server.receive(&request, &limits(), &mut none, &mut answer).unwrap().opened);
        let mut opened = false;
        for piece in answer.chunks(size) {
            let (mut plain, mut output) = (Vec::new(), Vec::new());
            let progress = client.receive(piece, FRAME_BYTES_MAX, &mut plain, &mut output).unwrap();
            opened |= progress.opened;
        }
        assert!(opened && client.is_open());
        (client, server)
    }

    #[test]
    fn our_own_server_understands_it_and_the_other_way_round() {
        for (size, length) in [(1, 0), (3, 125), (7, 126), (1_000, 70_000)] {
            let (mut client, mut server) = open(size);
            let payload: Vec<u8> = (0..length).map(|at: u32| at as u8).collect();
            let (mut wire, mut plain, mut output) = (Vec::new(), Vec::new(), Vec::new());
            client.send(&payload, &mut wire);
            for piece in wire.chunks(size) {
                server.receive(piece, &limits(), &mut plain, &mut output).unwrap();
            }
            assert!(plain == payload && output.is_empty(), "{length} bytes to the server");

            wire.clear();
            plain.clear();
            WebSocket::send(&payload, &mut wire);
            for piece in wire.chunks(size) {
                client.receive(piece, FRAME_BYTES_MAX, &mut plain, &mut output).unwrap();
            }
            assert!(plain == payload && output.is_empty(), "{length} bytes to the client");
        }
    }

    #[test]
    fn a_ping_is_answered_and_a_close_too() {
        let (mut client, mut server) = open(1_000);
        let (mut plain, mut output) = (Vec::new(), Vec::new());
        client.receive(b"\x89\x02hi", FRAME_BYTES_MAX, &mut plain, &mut output).unwrap();
        let pong = output.split_off(2);
        assert_eq!((&output[..], pong.len()), (&[0x8a, 0x82][..], 6));

        output.clear();
        let progress =
            client.receive(b"\x88\x02\x03\xe9", FRAME_BYTES_MAX, &mut plain, &mut output);
        assert!(progress.unwrap().closed);
        client.close(&mut output);
        let mut none = Vec::new();
        assert!(server.receive(&output, &limits(), &mut plain, &mut none).unwrap().closed);
        assert!(plain.is_empty() && none.is_empty());
    }

    #[test]
    fn every_frame_has_a_mask_of_its_own() {
        let (mut client, _) = open(1_000);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        client.send(b"same", &mut first);
        client.send(b"same", &mut second);
        assert_ne!(first, second);
    }

    #[track_caller]
    fn check_refused(answer: &str, fault: WebSocketAnswerFault) {
        let (mut client, _) = begin();
        let (mut plain, mut output) = (Vec::new(), Vec::new());
        let result = client.receive(answer.as_bytes(), FRAME_BYTES_MAX, &mut plain, &mut output);
        assert_eq!(result, Err(fault), "{answer}");
    }

    #[test]
    fn what_is_no_answer_to_the_request_is_refused() {
        let (client, _) = begin();
        let Stage::Answer { accept, .. } = client.stage else { panic!("it waits") };
        let good = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        let (mut client, _) = begin();
        let (mut plain, mut output) = (Vec::new(), Vec::new());
        client.receive(good.as_bytes(), FRAME_BYTES_MAX, &mut plain, &mut output).unwrap();
        for (from, to, fault) in [
            ("101 Switching Protocols", "404 Not Found", WebSocketAnswerFault::Status(404)),
            ("HTTP/1.1", "SSH-2.0", WebSocketAnswerFault::Malformed),
            ("Upgrade: websocket", "Upgrade: h2c", WebSocketAnswerFault::Upgrade),
            (&*accept, "AAAA", WebSocketAnswerFault::Upgrade),
            ("Protocol: mqtt", "Protocol: wamp", WebSocketAnswerFault::Subprotocol),
        ] {
            check_refused(&good.replace(from, to), fault);
        }
        check_refused(&"x".repeat(ANSWER_BYTES_MAX + 1), WebSocketAnswerFault::Malformed);
    }

    /// A server must not mask. RFC 6455 §5.1.
    #[test]
    fn a_masked_frame_of_a_server_is_a_fault() {
        let (mut client, _) = open(1_000);
        let (mut plain, mut output) = (Vec::new(), Vec::new());
        let masked = b"\x82\x81\x00\x00\x00\x00x";
        let result = client.receive(masked, FRAME_BYTES_MAX, &mut plain, &mut output);
        assert_eq!(result, Err(WebSocketAnswerFault::Frame(close_code::PROTOCOL_ERROR)));
        let said = [0x88, 0x82];
        assert!(output.starts_with(&said), "it says so");
    }
}

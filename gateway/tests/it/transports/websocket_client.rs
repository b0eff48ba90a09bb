//! A WebSocket client's side of the wire.

use super::wire::Stream;
use std::io::{self, Read, Write};

/// What a browser would send.
pub(super) const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// The payload of binary frames both ways.
pub(super) struct WebSocketStream {
    below: Box<dyn Stream>,
    payload: Vec<u8>,
    /// How many bytes a frame carries at most.
    frame_bytes: usize,
}

/// A masked frame.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        length @ 126..=65_535 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The next frame of a server: its first byte and its payload.
pub(super) fn read_frame(below: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut two = [0; 2];
    below.read_exact(&mut two)?;
    assert_eq!(two[1] & 0x80, 0, "a server does not mask");
    let length = match two[1] {
        126 => {
            let mut length = [0; 2];
            below.read_exact(&mut length)?;
            u16::from_be_bytes(length).into()
        }
        127 => {
            let mut length = [0; 8];
            below.read_exact(&mut length)?;
            usize::try_from(u64::from_be_bytes(length)).unwrap()
        }
        short => short.into(),
    };
    let mut payload = vec![0; length];
    below.read_exact(&mut payload)?;
    Ok((two[0], payload))
}

/// The answer to a request, up to its empty line.
pub(super) fn read_answer(below: &mut impl Read) -> io::Result<String> {
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") {
        below.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    Ok(String::from_utf8(answer).unwrap())
}

impl WebSocketStream {
    pub(super) fn open(mut below: Box<dyn Stream>, frame_bytes: usize) -> Self {
        below.write_all(REQUEST.as_bytes()).unwrap();
        let answer = read_answer(&mut below).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains("Sec-WebSocket-Protocol: mqtt\r\n"), "{answer}");
        Self { below, payload: Vec::new(), frame_bytes }
    }
}

impl Read for WebSocketStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.payload.is_empty() {
            let (first, payload) = read_frame(&mut self.below)?;
            match first {
                0x82 => self.payload = payload,
                0x88 => return Ok(0),
                0x8a => assert_eq!(payload, b"are you there"),
                other => panic!("a frame that starts with {other:x}"),
            }
        }
        let count = into.len().min(self.payload.len());
        into[..count].copy_from_slice(&self.payload[..count]);
        self.payload.drain(..count);
        Ok(count)
    }
}

impl Write for WebSocketStream {
    /// One message of as many fragments as it takes, with a ping between each two.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut frames = Vec::new();
        let count = bytes.len().div_ceil(self.frame_bytes);
        for (number, piece) in bytes.chunks(self.frame_bytes).enumerate() {
            let opcode = if number == 0 { 0x02 } else { 0x00 };
            let is_last = number + 1 == count;
            frames.extend(frame(if is_last { 0x80 } else { 0 } | opcode, piece));
            if !is_last {
                frames.extend(frame(0x89, b"are you there"));
            }
        }
        self.below.write_all(&frames)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.below.flush()
    }
}

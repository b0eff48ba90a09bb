//! Frames: what comes is taken apart as it comes, what goes gets a header. Source: RFC 6455 §5.

use super::close_code;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Binary,
    Close,
    Ping,
    Pong,
}

/// The decoder: where in a frame the peer is.
#[derive(Debug)]
pub(super) struct Frames {
    /// The peer masks its payload: clients have to, servers must not. RFC 6455 §5.1.
    masked: bool,
    header: [u8; HEADER_BYTES_MAX],
    header_length: u8,
    /// Of the frame whose header is complete.
    frame: Option<Frame>,
    /// A message was begun and not finished.
    fragmented: bool,
    /// Frames of messages without payload since the last one with some.
    empty_frames: u8,
    /// What came of a control frame's payload.
    control: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: Opcode,
    left: u64,
    mask: [u8; 4],
    /// Payload bytes so far, modulo 4: where in the mask it is.
    turn: usize,
}

/// What was taken of the bytes given.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) length: usize,
    /// A control frame that is complete.
    pub(super) control: Option<(Opcode, Vec<u8>)>,
}

/// Two bytes, a length of up to eight, a mask of four.
const HEADER_BYTES_MAX: usize = 14;
const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
/// The most payload of a control frame.
const CONTROL_BYTES_MAX: u64 = 125;
/// Frames in a row that carry nothing: more are no message, but work for us.
const EMPTY_FRAMES_MAX: u8 = 64;

impl Frames {
    /// What a client sends.
    pub(super) fn of_client() -> Self {
        Self::new(true)
    }

    /// What a server sends.
    pub(super) fn of_server() -> Self {
        Self::new(false)
    }

    fn new(masked: bool) -> Self {
        Self {
            masked,
            header: [0; HEADER_BYTES_MAX],
            header_length: 0,
            frame: None,
            fragmented: false,
            empty_frames: 0,
            control: Vec::new(),
        }
    }
}

impl Opcode {
    /// The opcode in the first byte of a frame, or why the connection is closed.
    fn of(first: u8) -> Result<Self, u16> {
        match first & 0x0f {
            0x0 => Ok(Self::Continuation),
            // MQTT 5.0 [MQTT-6.0.0-1].
            0x1 => Err(close_code::UNSUPPORTED_DATA),
            0x2 => Ok(Self::Binary),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xa => Ok(Self::Pong),
            _ => Err(close_code::PROTOCOL_ERROR),
        }
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn code(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }
}

impl Frames {
    /// Takes some of `bytes`, at most to the end of a frame; payload of messages is added to `plain`.
    ///
    /// # Errors
    ///
    /// The code to close the connection with.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        frame_bytes_max: u64,
        plain: &mut Vec<u8>,
    ) -> Result<Taken, u16> {
        let Some(frame) = &mut self.frame else {
            let length = self.take_header(bytes, frame_bytes_max)?;
            // A frame without payload ends with its header.
            let control = self.finished();
            return Ok(Taken { length, control });
        };
        let left = usize::try_from(frame.left).unwrap_or(usize::MAX);
        let payload = bytes.get(..left).unwrap_or(bytes);
        let into = if frame.opcode.is_control() { &mut self.control } else { plain };
        let start = into.len();
        into.extend_from_slice(payload);
        if self.masked {
            unmask(into.get_mut(start..).unwrap_or_default(), frame.mask, frame.turn);
        }
        frame.turn = (frame.turn + payload.len()) % 4;
        frame.left -= payload.len() as u64;
        let length = payload.len();
        Ok(Taken { length, control: self.finished() })
    }

    /// Ends the frame when all its payload is there; its content if it is a control frame.
    fn finished(&mut self) -> Option<(Opcode, Vec<u8>)> {
        let opcode = self.frame.filter(|frame| frame.left == 0)?.opcode;
        self.frame = None;
        self.header_length = 0;
        opcode.is_control().then(|| (opcode, std::mem::take(&mut self.control)))
    }

    /// Takes bytes of a header; when it is complete, the frame begins.
    fn take_header(&mut self, bytes: &[u8], frame_bytes_max: u64) -> Result<usize, u16> {
        for (taken, byte) in (1..).zip(bytes) {
            let at = usize::from(self.header_length);
            *self.header.get_mut(at).expect("a complete header is not added to") = *byte;
            self.header_length += 1;
            if let Some(frame) = self.begun(frame_bytes_max)? {
                self.frame = Some(frame);
                return Ok(taken);
            }
        }
        Ok(bytes.len())
    }

    /// The frame whose header is complete; faults are found as early as they can be.
    fn begun(&mut self, frame_bytes_max: u64) -> Result<Option<Frame>, u16> {
        let header = self.header.get(..usize::from(self.header_length)).unwrap_or_default();
        let Some((&first, rest)) = header.split_first() else { return Ok(None) };
        let opcode = Opcode::of(first)?;
        let is_final = first & FIN != 0;
        let misplaced = match opcode {
            Opcode::Continuation => !self.fragmented,
            Opcode::Binary => self.fragmented,
            Opcode::Close | Opcode::Ping | Opcode::Pong => !is_final,
        };
        if first & RESERVED != 0 || misplaced {
            return Err(close_code::PROTOCOL_ERROR);
        }
        let Some((&second, rest)) = rest.split_first() else { return Ok(None) };
        if (second & MASKED != 0) != self.masked {
            return Err(close_code::PROTOCOL_ERROR);
        }
        let (length, rest) = match second & !MASKED {
            126 => match rest.split_first_chunk::<2>() {
                Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk::<8>() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        let shortest = match second & !MASKED {
            126 => 126,
            127 => 65_536,
            _ => 0,
        };
        if length < shortest || (opcode.is_control() && length > CONTROL_BYTES_MAX) {
            return Err(close_code::PROTOCOL_ERROR);
        }
        if length > frame_bytes_max {
            return Err(close_code::TOO_BIG);
        }
        let mask = if self.masked { rest.first_chunk::<4>() } else { Some(&[0; 4]) };
        let Some(mask) = mask else { return Ok(None) };
        if !opcode.is_control() {
            self.fragmented = !is_final;
            self.empty_frames = if length == 0 { self.empty_frames + 1 } else { 0 };
        }
        if self.empty_frames > EMPTY_FRAMES_MAX {
            return Err(close_code::POLICY);
        }
        Ok(Some(Frame { opcode, left: length, mask: *mask, turn: 0 }))
    }
}

/// Takes the mask off `payload`, or puts it on, whose first byte is `turn` bytes into it.
fn unmask(payload: &mut [u8], mut mask: [u8; 4], turn: usize) {
    mask.rotate_left(turn);
    let mut words = payload.chunks_exact_mut(4);
    for word in &mut words {
        for (byte, mask) in word.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// Adds the header of a whole message, or of a control frame, from a server: without a mask.
pub(super) fn encode_header(opcode: Opcode, length: usize, output: &mut Vec<u8>) {
    output.push(FIN | opcode.code());
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => output.push(short),
        (_, Ok(length)) => {
            output.push(126);
            output.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            output.push(127);
            output.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// Adds a whole message, or a control frame, from a client: under `mask`.
pub(super) fn encode_masked(opcode: Opcode, payload: &[u8], mask: [u8; 4], output: &mut Vec<u8>) {
    let start = output.len();
    encode_header(opcode, payload.len(), output);
    if let Some(second) = output.get_mut(start + 1) {
        *second |= MASKED;
    }
    output.extend_from_slice(&mask);
    let start = output.len();
    output.extend_from_slice(payload);
    unmask(output.get_mut(start..).unwrap_or_default(), mask, 0);
}

/// The code in the payload of a Close.
///
/// # Errors
///
/// The code to answer with, when that is none a peer may send.
pub(super) fn close_code_of(payload: &[u8]) -> Result<u16, u16> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(close_code::NONE)
        } else {
            Err(close_code::PROTOCOL_ERROR)
        };
    };
    let code = u16::from_be_bytes(*code);
    let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if !may_be_sent {
        return Err(close_code::PROTOCOL_ERROR);
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(close_code::INVALID_PAYLOAD);
    }
    Ok(code)
}

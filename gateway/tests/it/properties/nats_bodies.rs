//! What holds for any bytes at all that a NATS server may send. The fuzz target calls the same.

use gateway::proto::nats::{
    DecodeError, DecodeLimits, Headers, Message, Operation, Progress, decode,
};

/// Small enough that random input reaches every limit.
pub(crate) const SMALL: DecodeLimits = DecodeLimits {
    control_line_bytes_max: 40,
    info_bytes_max: 60,
    header_bytes_max: 24,
    payload_bytes_max: 16,
};

/// Reads `stream` at once and as it arrives, and checks what can be said of what was read.
///
/// # Panics
///
/// When operations, or the error that ends them, depend on how the bytes arrive, or a part of an
/// operation is not a part of its bytes.
pub(crate) fn splitting_changes_nothing(
    stream: &[u8],
    arrivals: impl IntoIterator<Item = usize>,
    limits: &DecodeLimits,
) {
    let whole = operations(stream, [], limits);
    assert_eq!(operations(stream, arrivals, limits), whole);
    for operation in whole.0 {
        assert!(walk(&operation) <= stream.len(), "the parts are in the whole");
    }
}

/// The operations of `stream` when its bytes are there up to each of `arrivals` and then to its
/// end, and the error that ended reading.
pub(crate) fn operations<'a>(
    stream: &'a [u8],
    arrivals: impl IntoIterator<Item = usize>,
    limits: &DecodeLimits,
) -> (Vec<Operation<'a>>, Option<DecodeError>) {
    let mut operations = Vec::new();
    let mut consumed = 0;
    let mut progress = Progress::default();
    for received in arrivals.into_iter().chain([stream.len()]) {
        loop {
            match decode(&stream[consumed..received], limits, &mut progress) {
                Ok(None) => break,
                Ok(Some((operation, taken))) => {
                    assert!(taken <= received - consumed, "an operation is in the bytes");
                    assert_eq!(progress, Progress::default(), "the next one starts anew");
                    operations.push(operation);
                    consumed += taken;
                }
                Err(error) => return (operations, Some(error)),
            }
        }
    }
    (operations, None)
}

/// Reads every part of an operation, without allocating, and returns their bytes.
pub(crate) fn walk(operation: &Operation<'_>) -> usize {
    match operation {
        Operation::Info(text) | Operation::Err(text) => text.len(),
        Operation::Ping | Operation::Pong | Operation::Ok => 0,
        Operation::Message(message) => walk_message(message),
    }
}

fn walk_message(message: &Message<'_>) -> usize {
    let in_block = walk_headers(message.headers);
    assert!(in_block <= message.headers.block().len(), "headers are in their block");
    message.subject.len()
        + message.reply_to.map_or(0, <[u8]>::len)
        + message.headers.block().len()
        + message.payload.len()
}

fn walk_headers(headers: Headers<'_>) -> usize {
    let mut bytes = headers.status().map_or(0, |status| 3 + status.description.len());
    for (name, value) in headers.iter() {
        assert!(!name.is_empty() && !name.contains(&b' '), "{name:?}");
        for part in [name, value] {
            assert!(!part.contains(&b'\n'), "a header is one line");
        }
        bytes += name.len() + value.len();
    }
    bytes
}

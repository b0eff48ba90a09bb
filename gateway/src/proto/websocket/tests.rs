use super::*;

const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: localhost:80\r\nUpgrade: WebSocket\r\n\
                       Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n\r\n";

fn limits() -> WebSocketLimits {
    WebSocketLimits { request_bytes_max: 1_000, frame_bytes_max: 100_000, origins: Vec::new() }
}

/// A frame from a client.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x11, 0x92, 0xf3, 0x04];
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

type Outcome = (Vec<u8>, Vec<u8>, Result<WebSocketProgress, WebSocketFault>);

/// What `bytes` lead to, in pieces of `size`.
fn receive(socket: &mut WebSocket, bytes: &[u8], size: usize, limits: &WebSocketLimits) -> Outcome {
    let (mut plain, mut output) = (Vec::new(), Vec::new());
    let mut all = WebSocketProgress::default();
    for piece in bytes.chunks(size) {
        match socket.receive(piece, limits, &mut plain, &mut output) {
            Ok(progress) => {
                all.opened |= progress.opened;
                all.closed |= progress.closed;
            }
            Err(fault) => return (plain, output, Err(fault)),
        }
    }
    (plain, output, Ok(all))
}

fn opened() -> WebSocket {
    let mut socket = WebSocket::default();
    let (_, output, result) = receive(&mut socket, REQUEST.as_bytes(), 4_096, &limits());
    assert!(result.unwrap().opened && socket.is_open());
    let output = String::from_utf8(output).unwrap();
    assert!(output.starts_with("HTTP/1.1 101 ") && output.ends_with("\r\n\r\n"), "{output}");
    assert!(output.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    assert!(output.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"));
    socket
}

/// MQTT 5.0 §6: packets need not be aligned with frames.
#[test]
fn any_split_of_the_stream_gives_the_same_bytes() {
    let long: Vec<u8> = (0..70_000_u32).map(|at| at as u8).collect();
    let mut stream = REQUEST.as_bytes().to_vec();
    let mut expected = Vec::new();
    for payload in [&b"one"[..], &long[..125], &long[..126], &long] {
        stream.extend(frame(0x82, payload));
        expected.extend_from_slice(payload);
    }
    stream.extend(frame(0x02, b"begun,"));
    stream.extend(frame(0x89, b"ping between"));
    stream.extend(frame(0x00, b""));
    stream.extend(frame(0x8a, b"unasked pong"));
    stream.extend(frame(0x80, b" done"));
    expected.extend_from_slice(b"begun, done");
    for size in [1, 2, 3, 7, 1_000, stream.len()] {
        let mut socket = WebSocket::default();
        let (plain, output, result) = receive(&mut socket, &stream, size, &limits());
        result.unwrap();
        assert!(plain == expected, "in pieces of {size}");
        let mut output = output;
        socket.take_pong(&mut output);
        assert!(output.ends_with(b"\r\n\r\n\x8a\x0cping between"), "in pieces of {size}");
    }
}

#[track_caller]
fn check_request(request: &str, limits: &WebSocketLimits, status: u16) {
    let mut socket = WebSocket::default();
    let (_, output, result) = receive(&mut socket, request.as_bytes(), 5, limits);
    assert_eq!(result, Err(WebSocketFault::Request(status)), "{request}");
    let output = String::from_utf8(output).unwrap();
    assert!(output.starts_with(&format!("HTTP/1.1 {status} ")), "{output}");
    assert!(output.contains("Connection: close\r\n") && output.ends_with("\r\n\r\n"), "{output}");
}

/// MQTT 5.0 [MQTT-6.0.0-3]; MQTT 3.1.1 [MQTT-6.0.0-3].
#[test]
fn a_request_without_the_subprotocol_is_refused() {
    check_request(&REQUEST.replace("mqttv3.1, mqtt", "mqttv3.1"), &limits(), 400);
    check_request(&REQUEST.replace("mqttv3.1, mqtt", "MQTT"), &limits(), 400);
}

#[test]
fn what_is_no_request_for_a_websocket_gets_the_status_that_says_so() {
    for (from, to, status) in [
        ("GET", "POST", 405),
        ("HTTP/1.1", "HTTP/1.0", 400),
        ("WebSocket", "h2c", 400),
        ("keep-alive, Upgrade", "close", 400),
        ("Host: localhost:80\r\n", "", 400),
        ("Version: 13", "Version: 8", 426),
        ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "no base64", 400),
        ("GET /", "\u{1}\u{2}", 400),
    ] {
        check_request(&REQUEST.replacen(from, to, 1), &limits(), status);
    }
    let long = REQUEST.replace("/mqtt", &"/x".repeat(600));
    check_request(&long, &limits(), 431);
    check_request(&"x".repeat(1_001), &limits(), 431);
    let many = "X: y\r\n".repeat(70);
    check_request(&REQUEST.replace("Host", &format!("{many}Host")), &limits(), 431);
}

#[test]
fn pages_of_other_origins_are_refused_where_some_are_named() {
    let limits = WebSocketLimits { origins: vec!["https://a.example".to_owned()], ..limits() };
    let from = |origin: &str| REQUEST.replace("Host:", &format!("Origin: {origin}\r\nHost:"));
    check_request(&from("https://b.example"), &limits, 403);
    check_request(&from("https://a.example:444"), &limits, 403);
    for request in [from("https://a.example"), REQUEST.to_owned()] {
        let mut socket = WebSocket::default();
        let (_, _, result) = receive(&mut socket, request.as_bytes(), 4_096, &limits);
        assert!(result.unwrap().opened);
    }
}

#[track_caller]
fn check_fault(bytes: &[u8], code: u16) {
    for size in [1, bytes.len()] {
        let (_, output, result) = receive(&mut opened(), bytes, size, &limits());
        assert_eq!(result, Err(WebSocketFault::Frame(code)), "{bytes:x?}");
        assert_eq!(output[..], [&[0x88, 2][..], &code.to_be_bytes()].concat());
    }
}

/// RFC 6455 §5.1, §5.2, §5.4, §5.5; text: MQTT 5.0 [MQTT-6.0.0-1].
#[test]
fn frames_that_break_the_rules_end_the_connection() {
    check_fault(&[0x82, 3, 1, 2, 3], 1002);
    check_fault(&frame(0xc2, b"reserved bit"), 1002);
    check_fault(&frame(0x83, b"unknown opcode"), 1002);
    check_fault(&frame(0x8b, b"unknown control"), 1002);
    check_fault(&frame(0x81, b"text"), 1003);
    check_fault(&frame(0x80, b"continues nothing"), 1002);
    check_fault(&[frame(0x02, b"begun"), frame(0x82, b"another")].concat(), 1002);
    check_fault(&frame(0x09, b"fragmented ping"), 1002);
    check_fault(&frame(0x89, &[0; 126]), 1002);
    check_fault(&[0x82, 0x80 | 126, 0, 125], 1002);
    check_fault(&[0x82, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], 1002);
    check_fault(&[0x82, 0x80 | 127, 0xff, 0, 0, 0, 0, 0, 0, 0], 1009);
    check_fault(&frame(0x82, &[0; 100_001])[..10], 1009);
}

#[test]
fn fragments_that_carry_nothing_are_no_way_to_keep_us_busy() {
    let mut bytes = frame(0x02, b"x");
    for _ in 0..65 {
        bytes.extend(frame(0x00, b""));
    }
    check_fault(&bytes, 1008);
    let mut socket = opened();
    for _ in 0..200 {
        let (_, _, result) = receive(&mut socket, &frame(0x89, b""), 99, &limits());
        result.unwrap();
    }
    let mut output = Vec::new();
    socket.take_pong(&mut output);
    assert_eq!(output, [0x8a, 0], "one answer for all");
}

#[test]
fn a_close_is_answered_with_its_code_and_ends_what_is_heard() {
    let with = |payload: &[u8]| {
        let mut socket = opened();
        let bytes = [frame(0x88, payload), frame(0x82, b"late")].concat();
        let (plain, mut output, result) = receive(&mut socket, &bytes, 3, &limits());
        assert!(result.unwrap().closed && plain.is_empty());
        socket.close(&mut output);
        output
    };
    assert_eq!(with(b""), [0x88, 0]);
    assert_eq!(with(b"\x03\xe8bye"), [0x88, 2, 0x03, 0xe8]);
    assert_eq!(with(b"\x0f\xa0"), [0x88, 2, 0x0f, 0xa0]);
    check_fault(&frame(0x88, b"\x03"), 1002);
    check_fault(&frame(0x88, b"\x03\xed"), 1002);
    check_fault(&frame(0x88, b"\x03\xe8\xff\xfe"), 1007);
    let mut output = Vec::new();
    opened().close(&mut output);
    assert_eq!(output, [0x88, 2, 0x03, 0xe8], "our own");
}

#[test]
fn what_is_sent_has_the_shortest_length_and_no_mask() {
    for (length, header) in [
        (125, &[0x82, 125][..]),
        (126, &[0x82, 126, 0, 126]),
        (65_535, &[0x82, 126, 0xff, 0xff]),
        (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let mut output = Vec::new();
        WebSocket::send(&vec![7; length], &mut output);
        assert!(output.starts_with(header), "{length}");
        assert_eq!(output.len(), header.len() + length);
    }
}

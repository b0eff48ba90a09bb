//! Clients that somebody is asked about over HTTP.

use super::gateway::{Gateway, TempDirectory};
use super::raw_client::{RawClient, push_text};
use crate::packets::framed;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

/// Somebody who answers by the name of the user, and remembers what was asked.
pub(crate) struct Oracle {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
    pub(crate) bodies: mpsc::Receiver<String>,
}

impl Oracle {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let (sender, bodies) = mpsc::channel();
        let count = Arc::clone(&asked);
        // Ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (count, sender) = (Arc::clone(&count), sender.clone());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream);
                    while let Some(question) = read_question(&mut reader) {
                        count.fetch_add(1, Ordering::Relaxed);
                        let _ = sender.send(question.clone());
                        if !answer(&question, reader.get_mut()) {
                            // Until whoever asks gives up.
                            let _ = reader.read(&mut [0]);
                            return;
                        }
                    }
                });
            }
        });
        Self { address, asked, bodies }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Head and body of a request.
fn read_question(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(head + std::str::from_utf8(&body).unwrap())
}

/// Answers, or says that this one gets no answer.
fn answer(question: &str, stream: &mut TcpStream) -> bool {
    let (status, body) = if question.contains("\"user_name\":\"allowed\"") {
        let rules = r#"{"pub":["up/%u"],"sub":["down/#"]}"#;
        ("200 OK", format!(r#"{{"result":"allow","acl":{rules}}}"#))
    } else if let Some((_, rest)) = question.split_once("\"user_name\":\"mounted-") {
        let mountpoint = rest.split('"').next().unwrap();
        ("200 OK", format!(r#"{{"result":"allow","mountpoint":"{mountpoint}"}}"#))
    } else if question.contains("\"certificate\":\"allowed\"") {
        ("200 OK", r#"{"result":"allow"}"#.to_owned())
    } else if question.contains("renamed") {
        ("200 OK", r#"{"result":"allow","user_name":"eve"}"#.to_owned())
    } else if question.contains("denied") {
        ("200 OK", r#"{"result":"deny"}"#.to_owned())
    } else if question.contains("broken") {
        ("500 Internal Server Error", r#"{"result":"allow"}"#.to_owned())
    } else if question.contains("moved") {
        ("302 Found", r#"{"result":"allow"}"#.to_owned())
    } else if question.contains("garbage") {
        ("200 OK", "allow".to_owned())
    } else if question.contains("endless") {
        ("200 OK", format!(r#"{{"result":"allow","x":"{}"}}"#, "x".repeat(100_000)))
    } else if question.contains("silent") {
        return false;
    } else {
        ("200 OK", r#"{"result":"ignore"}"#.to_owned())
    };
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).unwrap();
    true
}

pub(crate) fn connect(client_id: &str, user: &str, password: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x05\xC2\0\0\0".to_vec();
    for text in [client_id, user, password] {
        push_text(&mut body, text);
    }
    framed(0x10, &body)
}

#[test]
fn somebody_else_decides_and_nobody_gets_in_when_that_one_says_nothing() {
    let oracle = Oracle::start();
    let folder = TempDirectory::new();
    let (users, file) = (folder.path().join("users"), folder.path().join("gateway.toml"));
    let token = folder.path().join("token");
    // anna has the password pw0; hashed once only.
    let hash = gateway::auth::PasswordHash::new(b"pw0", std::num::NonZeroU32::MIN).unwrap();
    fs::write(&users, format!("anna:{hash}\n")).unwrap();
    fs::write(&token, "open sesame\n").unwrap();
    let text = format!(
        "http_auth_url = \"http://{}/who\"\nhttp_auth_token_file = {token:?}\n\
         password_file = {users:?}\nauth_methods = [\"http\", \"password\"]\n\
         banned_users = [\"eve\"]\n[limits]\nhttp_auth_timeout_ms = 500\n",
        oracle.address
    );
    fs::write(&file, text).unwrap();
    let mut gateway = Gateway::start(&["--config", file.to_str().unwrap()]);
    let address = gateway.address();
    let knock = |client_id: &str, user: &str, password: &str| {
        let mut client = RawClient::open(address);
        client.send(&connect(client_id, user, password));
        let code = client.packet().1[1];
        (client, code)
    };
    let (mut allowed, code) = knock("c1", "allowed", "pw");
    assert_eq!(code, 0);
    let question = oracle.bodies.recv().unwrap();
    assert!(question.starts_with("POST /who HTTP/1.1\r\n"), "{question}");
    assert!(question.contains("authorization: Bearer open sesame\r\n"), "{question}");
    for part in ["\"client_id\":\"c1\"", "\"password\":\"pw\"", "\"peer\":\"127.0.0.1:"] {
        assert!(question.contains(part), "{part} in {question}");
    }
    // Its rules came with the answer.
    for (topic, expected) in [("up/allowed", 0), ("up/other", 0x87)] {
        let mut body = Vec::new();
        push_text(&mut body, topic);
        body.extend_from_slice(&[0, 7, 0]);
        allowed.send(&framed(0x32, &body));
        assert_eq!(allowed.packet().1.get(2).copied().unwrap_or(0), expected, "{topic}");
    }
    // The same again is not asked; another client id or password is.
    let asked = oracle.asked();
    assert_eq!(knock("c1", "allowed", "pw").1, 0);
    assert_eq!(oracle.asked(), asked);
    assert_eq!(knock("c2", "allowed", "pw").1, 0);
    assert_eq!(knock("c1", "allowed", "other").1, 0);
    assert_eq!(oracle.asked(), asked + 2);
    for (user, expected) in [
        ("denied", 0x86),
        ("denied", 0x86),
        ("broken", 0x88),
        ("moved", 0x88),
        ("garbage", 0x88),
        ("endless", 0x88),
        ("silent", 0x88),
        ("renamed", 0x8A),
    ] {
        assert_eq!(knock("c3", user, "pw").1, expected, "{user}");
    }
    assert_eq!(oracle.asked(), asked + 10, "only what was allowed is remembered");
    // Whom it does not know the password file may.
    assert_eq!(knock("c4", "anna", "pw0").1, 0);
    assert_eq!(knock("c4", "anna", "pw1").1, 0x86);
    assert_eq!(knock("c4", "nobody", "pw0").1, 0x86);
    fs::write(&token, "shut sesame\n").unwrap();
    gateway.hang_up();
    gateway.wait_for_lines("http_auth_token_file hold has changed, but only a restart", 1);
    let log = gateway.log();
    assert_eq!(log.matches("gives no answer that counts").count(), 1, "{log}");
    assert!(!log.contains("sesame") && !log.contains("pw0"), "{log}");
    gateway.stop();
}

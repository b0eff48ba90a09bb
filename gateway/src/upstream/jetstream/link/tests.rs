//! A link against scripted bytes of a server.

use super::*;

const INFO: &[u8] = b"INFO {\"server_id\":\"A\",\"server_name\":\"a\",\"version\":\"2.15.1\",\
    \"headers\":true,\"jetstream\":true,\"max_payload\":1048576,\
    \"connect_urls\":[\"127.0.0.1:5\",\"127.0.0.1:2\",\"named:4222\"]}\r\n";

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn link_with(identity: Identity) -> Link {
    link_of(identity, LinkTls::Plain)
}

fn link_of(identity: Identity, tls: LinkTls) -> Link {
    let settings = LinkSettings {
        name: "a".to_owned(),
        connection_name: "gateway g shard 0".to_owned(),
        identity,
        connect_timeout: Duration::from_secs(5),
        ping_interval: Duration::from_secs(5),
        silence_max: Duration::from_secs(12),
        reconnect_wait_max: Duration::from_secs(5),
        announced_servers_max: 1,
        tls,
    };
    Link::new(Arc::new(settings), &[address(1), address(2)], 7)
}

/// What a link writes and tells when these bytes come.
fn receive(link: &mut Link, now: Timestamp, bytes: &[u8]) -> Result<(String, String), LinkFault> {
    let (mut out, mut told) = (Vec::new(), String::new());
    let consumed = link.handle_received(now, bytes, &mut out, &mut |event, _| {
        told.push_str(&match event {
            LinkEvent::StartTls => "start TLS ".to_owned(),
            LinkEvent::Ready(info) => format!("ready {} ", info.server_name),
            LinkEvent::Message(message) => format!("message {} ", message.sid),
            LinkEvent::Passed(Fence(fence)) => format!("passed {fence} "),
            LinkEvent::Info(info) => format!("info {} ", info.lame_duck_mode),
            LinkEvent::Refused(text) => format!("refused {} ", text.escape_ascii()),
        });
    })?;
    assert_eq!(consumed, bytes.len(), "whole operations are consumed");
    Ok((String::from_utf8(out).unwrap(), told))
}

fn connected(link: &mut Link, now: Timestamp) -> SocketAddr {
    let Ok(Some(LinkOut::Dial { address, .. })) = link.handle_timeout(now, &mut Vec::new()) else {
        panic!("a link that waits dials");
    };
    link.handle_dialed(now, Ok(())).unwrap();
    address
}

fn ready(link: &mut Link, now: Timestamp) -> SocketAddr {
    let address = connected(link, now);
    receive(link, now, INFO).unwrap();
    assert_eq!(receive(link, now, b"PONG\r\n").unwrap().1, "ready a ");
    address
}

#[test]
fn connects_and_says_when_it_is_ready() {
    let mut link = link_with(Identity::None);
    let now = Timestamp(1_000);
    assert_eq!(connected(&mut link, now), address(1));
    let (sent, told) = receive(&mut link, now, INFO).unwrap();
    assert!(sent.starts_with("CONNECT {") && sent.ends_with("}\r\nPING\r\n"), "{sent}");
    assert!(sent.contains("\"name\":\"gateway g shard 0\"") && sent.contains("\"echo\":true"));
    assert_eq!(told, "");
    assert!(!link.is_ready());
    let (sent, told) = receive(&mut link, now, b"PONG\r\n").unwrap();
    assert_eq!((&*sent, &*told), ("", "ready a "));
    assert!(link.is_ready());
}

#[test]
fn answers_pings_and_counts_fences() {
    let mut link = link_with(Identity::None);
    let now = Timestamp(1_000);
    ready(&mut link, now);
    let mut out = Vec::new();
    let (first, second) = (link.put_fence(&mut out), link.put_fence(&mut out));
    assert_eq!(out, b"PING\r\nPING\r\n");
    let (sent, told) = receive(&mut link, now, b"PING\r\nMSG a 5 1\r\nx\r\nPONG\r\n").unwrap();
    assert_eq!((&*sent, &*told), ("PONG\r\n", &*format!("message 5 passed {} ", first.0)));
    let (_, told) = receive(&mut link, now, b"PONG\r\nPONG\r\n").unwrap();
    assert_eq!(told, format!("passed {} ", second.0), "an answer too many is nobody's");
}

#[test]
fn a_silent_server_is_asked_and_then_given_up() {
    let mut link = link_with(Identity::None);
    let now = Timestamp(1_000);
    ready(&mut link, now);
    let mut out = Vec::new();
    assert_eq!(link.next_timeout(), now.after(Duration::from_secs(5)));
    assert_eq!(link.handle_timeout(now, &mut out), Ok(None));
    assert_eq!(link.handle_timeout(link.next_timeout(), &mut out), Ok(None));
    assert_eq!(out, b"PING\r\n");
    assert_eq!(link.next_timeout(), now.after(Duration::from_secs(12)));
    receive(&mut link, now.after(Duration::from_secs(11)), b"PONG\r\n").unwrap();
    assert_eq!(link.next_timeout(), now.after(Duration::from_secs(16)));
    link.handle_timeout(link.next_timeout(), &mut out).unwrap();
    let at = link.next_timeout();
    assert_eq!(link.handle_timeout(at, &mut out), Err(LinkFault::Silent));
    assert!(!link.is_ready() && link.next_timeout() > at);
}

#[test]
fn goes_round_the_servers_it_knows_of() {
    let mut link = link_with(Identity::None);
    let mut now = Timestamp(1_000);
    let mut tried = vec![ready(&mut link, now).port()];
    link.handle_closed(now);
    for _ in 0..5 {
        now = link.next_timeout();
        let Ok(Some(LinkOut::Dial { address, deadline })) =
            link.handle_timeout(now, &mut Vec::new())
        else {
            panic!("a link that waits dials");
        };
        assert_eq!(deadline, now.after(Duration::from_secs(5)));
        tried.push(address.port());
        let refused = std::io::ErrorKind::ConnectionRefused;
        assert_eq!(link.handle_dialed(now, Err(refused)), Err(LinkFault::Connect(refused)));
    }
    // INFO announced 5 and 2, of which 2 was known; one announced server is kept, names are not.
    assert_eq!(tried, [1, 2, 1, 5, 2, 1]);
}

#[test]
fn a_server_that_is_not_announced_any_more_is_forgotten() {
    let mut link = link_with(Identity::None);
    let mut now = Timestamp(1_000);
    ready(&mut link, now);
    let news = b"INFO {\"headers\":true,\"connect_urls\":[\"127.0.0.1:6\",\"127.0.0.1:7\"]}\r\n";
    receive(&mut link, now, news).unwrap();
    // Outside a cluster nothing is announced, which says nothing of others.
    receive(&mut link, now, b"INFO {\"headers\":true}\r\n").unwrap();
    link.handle_closed(now);
    let mut tried = Vec::new();
    for _ in 0..4 {
        now = link.next_timeout();
        let Ok(Some(LinkOut::Dial { address, .. })) = link.handle_timeout(now, &mut Vec::new())
        else {
            panic!("a link that waits dials");
        };
        tried.push(address.port());
        let refused = std::io::ErrorKind::ConnectionRefused;
        assert!(link.handle_dialed(now, Err(refused)).is_err());
    }
    // 5 was announced before; of 6 and 7 one is kept.
    assert_eq!(tried, [2, 1, 6, 2]);
}

#[test]
fn faults_of_a_server_are_told_apart() {
    for (bytes, fault) in [
        (&b"HELLO\r\n"[..], LinkFault::Malformed(DecodeError::UnknownOperation)),
        (b"INFO []\r\n", LinkFault::Info(InfoError::NotJson)),
        (
            b"INFO {\"version\":\"2.1.0\",\"headers\":false}\r\n",
            LinkFault::NoHeaders { version: "2.1.0".to_owned() },
        ),
        (b"INFO {\"headers\":true,\"tls_required\":true}\r\n", LinkFault::TlsRequired),
        (
            b"INFO {\"headers\":true,\"max_payload\":1048575}\r\n",
            LinkFault::MaxPayload { bytes: 1_048_575 },
        ),
        (
            b"INFO {\"headers\":true,\"max_payload\":8388609}\r\n",
            LinkFault::MaxPayload { bytes: 8_388_609 },
        ),
        (
            b"-ERR 'Authorization Violation'\r\n",
            LinkFault::Server("Authorization Violation".to_owned()),
        ),
    ] {
        let mut link = link_with(Identity::None);
        connected(&mut link, Timestamp(1_000));
        assert_eq!(receive(&mut link, Timestamp(1_000), bytes), Err(fault));
        assert!(link.next_timeout() > Timestamp(1_000), "it waits");
    }
    let mut link = link_with(Identity::None);
    let now = Timestamp(1_000);
    ready(&mut link, now);
    let refused = b"-ERR 'Permissions Violation for Publish to \"a\"'\r\n";
    let (_, told) = receive(&mut link, now, refused).unwrap();
    assert!(told.starts_with("refused Permissions Violation"), "{told}");
    let slow = receive(&mut link, now, b"-ERR 'Slow Consumer'\r\n");
    assert_eq!(slow, Err(LinkFault::Server("Slow Consumer".to_owned())));
}

const TLS_INFO: &[u8] = b"INFO {\"server_name\":\"a\",\"headers\":true,\"max_payload\":1048576,\
    \"tls_required\":true,\"tls_available\":true}\r\n";

#[test]
fn goes_on_in_tls_before_it_says_who_it_is() {
    let now = Timestamp(1_000);
    let mut link = link_of(Identity::None, LinkTls::AfterInfo);
    connected(&mut link, now);
    assert_eq!(receive(&mut link, now, TLS_INFO), Ok((String::new(), "start TLS ".to_owned())));
    assert_eq!(link.next_timeout(), now.after(Duration::from_secs(5)));
    let mut out = Vec::new();
    link.handle_secured(now, &mut out).unwrap();
    let said = String::from_utf8(out).unwrap();
    assert!(said.starts_with("CONNECT ") && said.contains("\"tls_required\":true"), "{said}");
    assert_eq!(receive(&mut link, now, b"PONG\r\n").unwrap().1, "ready a ");

    let mut link = link_of(Identity::None, LinkTls::First);
    assert!(matches!(link.handle_timeout(now, &mut Vec::new()), Ok(Some(LinkOut::Dial { .. }))));
    assert_eq!(link.handle_dialed(now, Ok(())), Ok(Some(LinkOut::StartTls)));
    let mut out = Vec::new();
    link.handle_secured(now, &mut out).unwrap();
    assert_eq!(out, b"", "INFO comes first");
    let (said, told) = receive(&mut link, now, TLS_INFO).unwrap();
    assert!(said.starts_with("CONNECT ") && told.is_empty(), "{said} {told}");
}

/// What stands between INFO and TLS may be anybody's.
#[test]
fn what_comes_before_tls_is_nobodys() {
    let now = Timestamp(1_000);
    for is_together in [true, false] {
        let mut link = link_of(Identity::None, LinkTls::AfterInfo);
        connected(&mut link, now);
        let result = if is_together {
            receive(&mut link, now, &[TLS_INFO, b"PING\r\n"].concat())
        } else {
            receive(&mut link, now, TLS_INFO).unwrap();
            receive(&mut link, now, b"PING\r\n")
        };
        assert_eq!(result, Err(LinkFault::Unsecured));
    }
    let mut link = link_of(Identity::None, LinkTls::AfterInfo);
    connected(&mut link, now);
    assert_eq!(receive(&mut link, now, INFO), Err(LinkFault::NoTls));
    let mut link = link_of(Identity::None, LinkTls::AfterInfo);
    connected(&mut link, now);
    receive(&mut link, now, TLS_INFO).unwrap();
    let at = link.next_timeout();
    let fault = link.handle_timeout(at, &mut Vec::new());
    assert_eq!(fault, Err(LinkFault::Connect(std::io::ErrorKind::TimedOut)));
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let mut link = link_with(Identity::None);
    let now = Timestamp(1_000);
    connected(&mut link, now);
    let at = link.next_timeout();
    assert_eq!(at, now.after(Duration::from_secs(5)));
    let fault = link.handle_timeout(at, &mut Vec::new());
    assert_eq!(fault, Err(LinkFault::Connect(std::io::ErrorKind::TimedOut)));
}

#[test]
fn lame_duck_mode_is_told() {
    let mut link = link_with(Identity::None);
    let now = Timestamp(1_000);
    ready(&mut link, now);
    let (_, told) = receive(&mut link, now, b"INFO {\"headers\":true,\"ldm\":true}\r\n").unwrap();
    assert_eq!(told, "info true ");
}

#[test]
fn proves_who_it_is() {
    let key = nkeys::KeyPair::new_user();
    let (public_key, seed) = (key.public_key(), key.seed().unwrap());
    let copy = || nkeys::KeyPair::from_seed(&seed).unwrap();
    let info = b"INFO {\"headers\":true,\"auth_required\":true,\"nonce\":\"abc\",\
        \"max_payload\":1048576}\r\n";
    let signature = base64_url(&key.sign(b"abc").unwrap());
    let user_password = Identity::Password { user: "u".to_owned(), password: "p".to_owned() };
    for (identity, expected) in [
        (user_password, vec!["\"user\":\"u\"".to_owned(), "\"pass\":\"p\"".to_owned()]),
        (Identity::Token("t".to_owned()), vec!["\"auth_token\":\"t\"".to_owned()]),
        (
            Identity::Nkey(copy()),
            vec![format!("\"nkey\":\"{public_key}\""), format!("\"sig\":\"{signature}\"")],
        ),
        (
            Identity::Creds { jwt: "j".to_owned(), key: copy() },
            vec!["\"jwt\":\"j\"".to_owned(), format!("\"sig\":\"{signature}\"")],
        ),
    ] {
        assert!(!format!("{identity:?}").contains('p'), "no secrets in logs");
        let mut link = link_with(identity);
        connected(&mut link, Timestamp(1_000));
        let (sent, _) = receive(&mut link, Timestamp(1_000), info).unwrap();
        for member in expected {
            assert!(sent.contains(&member), "{sent}: {member}");
        }
    }
}

#[test]
fn base64_is_that_of_urls_without_padding() {
    for (bytes, text) in
        [(&b""[..], ""), (b"f", "Zg"), (b"fo", "Zm8"), (b"foo", "Zm9v"), (b"\xFB\xFF", "-_8")]
    {
        assert_eq!(base64_url(bytes), text);
    }
}

//! The client's side of SCRAM-SHA-256, written from RFC 5802 and on its own.

use crate::packets::{framed, sized};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};
use std::num::NonZeroU32;

pub(crate) const METHOD: &str = "SCRAM-SHA-256";

/// A client that knows a password.
pub(crate) struct ScramClient {
    password: String,
    nonce: String,
    bare: String,
}

impl ScramClient {
    pub(crate) fn new(user_name: &str, password: &str, nonce: &str) -> Self {
        let user_name = user_name.replace('=', "=3D").replace(',', "=2C");
        let bare = format!("n={user_name},r={nonce}");
        Self { password: password.to_owned(), nonce: nonce.to_owned(), bare }
    }

    /// The first message.
    pub(crate) fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    /// The second message, and what the server has to answer.
    pub(crate) fn last(&self, server_first: &[u8]) -> (String, String) {
        let server_first = std::str::from_utf8(server_first).unwrap();
        let field = |name: &str| {
            server_first.split(',').find_map(|field| field.strip_prefix(name)).unwrap()
        };
        assert!(field("r=").starts_with(&self.nonce) && field("r=").len() > self.nonce.len());
        let salt = STANDARD.decode(field("s=")).unwrap();
        let iterations: NonZeroU32 = field("i=").parse().unwrap();
        let mut salted = [0; 32];
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(algorithm, iterations, &salt, self.password.as_bytes(), &mut salted);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        let without_proof = format!("c=biws,r={}", field("r="));
        let exchange = format!("{},{server_first},{without_proof}", self.bare);
        let signature = sign(stored_key.as_ref(), exchange.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let server_signature = sign(&sign(&salted, b"Server Key"), exchange.as_bytes());
        (
            format!("{without_proof},p={}", STANDARD.encode(proof)),
            format!("v={}", STANDARD.encode(server_signature)),
        )
    }
}

fn sign(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

/// Authentication Method and Data, as properties without their length.
pub(crate) fn properties(method: &str, data: &[u8]) -> Vec<u8> {
    let data_bytes = u16::try_from(data.len()).unwrap().to_be_bytes();
    [&[0x15][..], &sized(method), &[0x16], &data_bytes, data].concat()
}

/// AUTH.
pub(crate) fn auth(code: u8, method: &str, data: &[u8]) -> Vec<u8> {
    let properties = properties(method, data);
    framed(0xF0, &[&[code][..], &counted(&properties)].concat())
}

/// Behind their length in bytes.
pub(crate) fn counted(properties: &[u8]) -> Vec<u8> {
    // The length of a packet is written in the same way.
    framed(0, properties).split_off(1)
}

/// The Authentication Data of AUTH: of a whole packet without others behind it.
pub(crate) fn auth_data(packet: &[u8]) -> Vec<u8> {
    assert_eq!(packet[0], 0xF0, "{}", packet.escape_ascii());
    data_in(packet)
}

/// What stands behind the property Authentication Data that is the last of a packet.
pub(crate) fn data_in(packet: &[u8]) -> Vec<u8> {
    let method = [&[0x15][..], &sized(METHOD), &[0x16]].concat();
    let at = packet.windows(method.len()).position(|bytes| bytes == method).unwrap();
    let data = &packet[at + method.len()..];
    assert_eq!(data.len() - 2, usize::from(u16::from_be_bytes([data[0], data[1]])));
    data[2..].to_vec()
}

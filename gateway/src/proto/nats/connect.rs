//! CONNECT: what a client says of itself. Source: NATS client protocol, CONNECT.

use super::json::put_string;

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials<'a> {
    /// As nobody in particular.
    None,
    /// User name and password.
    Password {
        /// User name.
        user: &'a str,
        /// Password.
        password: &'a str,
    },
    /// A token.
    Token(&'a str),
    /// The nonce of INFO signed with an nkey.
    Nkey {
        /// Public key.
        public_key: &'a str,
        /// Signature of the nonce, base64url without padding.
        signature: &'a str,
    },
    /// A user JWT and the nonce of INFO signed with its key: a creds file.
    Jwt {
        /// The JWT.
        jwt: &'a str,
        /// Signature of the nonce, base64url without padding.
        signature: &'a str,
    },
}

/// What varies from one CONNECT to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectOptions<'a> {
    /// Of the connection, shown by the server's monitoring.
    pub name: &'a str,
    /// Of the gateway.
    pub version: &'a str,
    /// Whether the connection goes on in TLS.
    pub tls_required: bool,
    /// Whether the server is to deliver our own messages to us. A gateway needs it: a shard's
    /// subscribers may sit on the link its publishers use.
    pub echo: bool,
    /// How the client proves who it is.
    pub credentials: Credentials<'a>,
}

/// Appends CONNECT: not verbose, with headers, with 503 when nobody listens to a request.
///
/// Source: NATS client protocol, CONNECT.
pub fn encode_connect(options: &ConnectOptions<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\
        \"protocol\":1,\"lang\":\"rust\"",
    );
    put_bool("tls_required", options.tls_required, out);
    put_bool("echo", options.echo, out);
    put_member("version", options.version, out);
    put_member("name", options.name, out);
    match options.credentials {
        Credentials::None => {}
        Credentials::Password { user, password } => {
            put_member("user", user, out);
            put_member("pass", password, out);
        }
        Credentials::Token(token) => put_member("auth_token", token, out),
        Credentials::Nkey { public_key, signature } => {
            put_member("nkey", public_key, out);
            put_member("sig", signature, out);
        }
        Credentials::Jwt { jwt, signature } => {
            put_member("jwt", jwt, out);
            put_member("sig", signature, out);
        }
    }
    out.extend_from_slice(b"}\r\n");
}

fn put_key(key: &str, out: &mut Vec<u8>) {
    out.push(b',');
    put_string(key, out);
    out.push(b':');
}

fn put_member(key: &str, value: &str, out: &mut Vec<u8>) {
    put_key(key, out);
    put_string(value, out);
}

fn put_bool(key: &str, value: bool, out: &mut Vec<u8>) {
    put_key(key, out);
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(credentials: Credentials<'_>, tail: &str) {
        let mut out = Vec::new();
        let options = ConnectOptions {
            name: "gw-1/0",
            version: "0.1.0",
            tls_required: false,
            echo: true,
            credentials,
        };
        encode_connect(&options, &mut out);
        let head = "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\
            \"no_responders\":true,\"protocol\":1,\"lang\":\"rust\",\"tls_required\":false,\
            \"echo\":true,\"version\":\"0.1.0\",\"name\":\"gw-1/0\"";
        assert_eq!(String::from_utf8(out).unwrap(), format!("{head}{tail}}}\r\n"));
    }

    #[test]
    fn writes_each_kind_of_credentials() {
        check(Credentials::None, "");
        check(
            Credentials::Password { user: "u", password: "p\"\r\n" },
            r#","user":"u","pass":"p\"\u000d\u000a""#,
        );
        check(Credentials::Token("t"), r#","auth_token":"t""#);
        check(Credentials::Nkey { public_key: "UA", signature: "s" }, r#","nkey":"UA","sig":"s""#);
        check(Credentials::Jwt { jwt: "ey", signature: "s" }, r#","jwt":"ey","sig":"s""#);
    }
}

//! `gateway drain`: asks the gateway behind the admin address to end, and waits until it has.
//! `gateway rebalance`: asks it to send clients elsewhere.

use crate::config::Config;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long the server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between looks at whether it has ended.
const PAUSE: Duration = Duration::from_millis(250);

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// No address to ask.
    #[error("there is no admin server to ask: give --admin ADDRESS:PORT (SIGTERM drains, too)")]
    NoAdmin,
    /// Nobody there, or no answer.
    #[error("no gateway answers at {address}: {error}")]
    Unreachable {
        /// The admin address.
        address: SocketAddr,
        /// The operating system's answer.
        error: io::Error,
    },
    /// It said no.
    #[error("the gateway at {address} answers {status}: {body}")]
    Refused {
        /// The admin address.
        address: SocketAddr,
        /// Of HTTP.
        status: String,
        /// What it said.
        body: String,
    },
}

/// Begins the end of the gateway that `config` names, and returns when it is gone.
///
/// # Errors
///
/// See [`DrainError`].
pub fn drain(config: &Config) -> Result<(), DrainError> {
    let (address, _) = tell(config, "/api/v1/drain")?;
    // Its last act is to stop listening.
    while request(address, "GET", "/healthz", "").is_ok() {
        std::thread::park_timeout(PAUSE);
    }
    Ok(())
}

/// Lets the gateway that `config` names send this share of its clients, 0 to 1, to other gateways, at so
/// many a second. Returns how many it will be, about.
///
/// # Errors
///
/// See [`DrainError`].
pub fn rebalance(config: &Config, share: f64, per_s: u32) -> Result<u64, DrainError> {
    let (_, body) = tell(config, &format!("/api/v1/rebalance?share={share}&rate={per_s}"))?;
    let answer: Option<serde_json::Value> = serde_json::from_str(&body).ok();
    Ok(answer.and_then(|answer| answer.get("clients")?.as_u64()).unwrap_or(0))
}

/// Posts to `path`, which has to be accepted; the address, and what was answered.
fn tell(config: &Config, path: &str) -> Result<(SocketAddr, String), DrainError> {
    let admin = config.admin.as_ref().ok_or(DrainError::NoAdmin)?;
    let address = admin.address;
    let token = admin.token.as_ref().map(|token| token.header_line()).unwrap_or_default();
    let answer = request(address, "POST", path, &token)
        .map_err(|error| DrainError::Unreachable { address, error })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().and_then(|line| line.split_once(' '));
    let status = status.map_or("nothing", |(_, status)| status);
    let body = body.trim().to_owned();
    if status.starts_with("202") {
        return Ok((address, body));
    }
    Err(DrainError::Refused { address, status: status.to_owned(), body })
}

fn request(address: SocketAddr, method: &str, path: &str, header: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Length: 0\r\n{header}\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}

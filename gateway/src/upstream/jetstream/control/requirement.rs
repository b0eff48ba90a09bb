//! What a server must be able to do.
//!
//! | since | what |
//! |---|---|
//! | 2.11 | a time to live for each message (`allow_msg_ttl`) |
//! | 2.12 | atomic batches (`allow_atomic`), scheduled messages |
//! | 2.12.2 | with 2.12.0 and 2.12.1 tests with readers that are behind fail; why is not known |
//! | 2.14 | fast-ingest batches (`allow_batched`): set where it is there, for applications; gateways publish one by one |
//!
//! Source: NATS documentation, "Upgrade to NATS 2.12", "NATS 2.14"; ADR-43, ADR-50, ADR-51.

use super::fault::ControlFault;
use crate::proto::nats::Info;

/// Major and minor version, and patch.
pub(super) type Version = (u32, u32, u32);

const NEEDED: Version = (2, 12, 2);
/// From here on a stream may be set to take fast-ingest batches.
pub(super) const BATCHED: Version = (2, 14, 0);

/// The oldest version among `servers`, of which each can do what is needed. `None` for none.
///
/// # Errors
///
/// The first that cannot.
pub(super) fn check<'a>(
    servers: impl Iterator<Item = &'a Info>,
) -> Result<Option<Version>, ControlFault> {
    let mut oldest = None;
    for info in servers {
        let server = info.server_name.clone();
        let version = parse(&info.version).filter(|version| *version >= NEEDED);
        let Some(version) = version else {
            return Err(ControlFault::OldServer { server, version: info.version.clone() });
        };
        if !info.headers {
            return Err(ControlFault::NoHeaders { server });
        }
        oldest = Some(oldest.map_or(version, |oldest: Version| oldest.min(version)));
    }
    Ok(oldest)
}

/// `2.15.1`, `2.14.0-RC.1`: the first three numbers. Without a third it is 0.
fn parse(text: &str) -> Option<Version> {
    let mut numbers = text.trim_start_matches('v').split(['.', '-', '+']);
    let (major, minor) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    Some((major, minor, numbers.next().map_or(Ok(0), str::parse).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(version: &str, headers: bool) -> Info {
        Info { version: version.to_owned(), headers, ..Info::default() }
    }

    #[test]
    fn the_oldest_server_decides() {
        let check = |versions: &[&str]| {
            let servers: Vec<Info> = versions.iter().map(|text| server(text, true)).collect();
            check(servers.iter()).ok()
        };
        assert_eq!(check(&[]), Some(None));
        assert_eq!(check(&["2.15.1", "2.12.2", "2.14.0-RC.1"]), Some(Some((2, 12, 2))));
        assert_eq!(check(&["v3.0.0", "2.14", "2.14.0-RC.1"]), Some(Some((2, 14, 0))));
        for old in ["2.12.1", "2.12", "2.11.9", "1.99.0", "", "2", "x.y", "2.-1", "2.12.x"] {
            assert_eq!(check(&["2.15.1", old]), None, "{old}");
        }
    }

    #[test]
    fn says_who_and_why() {
        let text = |info: Info| check([&info].into_iter()).unwrap_err().to_string();
        assert!(text(server("2.10.7", true)).contains("2.10.7: 2.12.2 or later"));
        assert!(text(server("2.15.1", false)).contains("headers are turned off"));
    }
}

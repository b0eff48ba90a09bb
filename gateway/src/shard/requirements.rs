//! What the engine needs of the machine, checked before anything starts.

use io_uring::IoUring;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;

/// The oldest Linux whose io_uring has all the engine uses.
pub const KERNEL_MIN: (u32, u32) = (6, 1);

/// Descriptors a process needs beside its client connections: rings, logs, standard streams.
pub const RESERVED_DESCRIPTORS: u64 = 256;

/// Locked memory glommio's rings of one shard take, bytes.
pub const LOCKED_BYTES_PER_SHARD: u64 = 512 * 1024;

/// Something the machine does not give, with what to change.
#[derive(Debug, thiserror::Error)]
pub enum RequirementError {
    /// The kernel is too old.
    #[error("kernel {found} is too old: Linux {}.{} or later is needed", KERNEL_MIN.0, KERNEL_MIN.1)]
    Kernel {
        /// Its release, as `uname -r` prints it.
        found: String,
    },
    /// io_uring cannot be used.
    #[error("io_uring is not available ({error}): {advice}")]
    IoUring {
        /// The kernel's answer.
        error: io::Error,
        /// What to change.
        advice: &'static str,
    },
    /// Too few file descriptors.
    #[error(
        "connections_max asks for {needed} file descriptors, the limit is {limit}: raise it \
         (LimitNOFILE= in the systemd unit, `ulimit -Hn`) or lower connections_max"
    )]
    Descriptors {
        /// Connections of all shards and [`RESERVED_DESCRIPTORS`].
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// Too little memory may be locked.
    #[error(
        "{shards} shards lock {needed} bytes of memory, the limit is {limit}: raise it \
         (LimitMEMLOCK= in the systemd unit, `ulimit -Hl`)"
    )]
    LockedMemory {
        /// Shards of the node.
        shards: u16,
        /// Bytes for all of them.
        needed: u64,
        /// The hard limit, bytes.
        limit: u64,
    },
}

/// Checks the machine and raises soft limits to hard ones.
///
/// `connections` is over all shards.
///
/// # Errors
///
/// The first thing that is missing.
pub fn check(shards: u16, connections: u64) -> Result<(), RequirementError> {
    check_kernel()?;
    io_uring()?;
    let limit = raise(Resource::Nofile);
    let needed = connections + RESERVED_DESCRIPTORS;
    if needed > limit {
        return Err(RequirementError::Descriptors { needed, limit });
    }
    let limit = raise(Resource::Memlock);
    let needed = u64::from(shards) * LOCKED_BYTES_PER_SHARD;
    if needed > limit {
        return Err(RequirementError::LockedMemory { shards, needed, limit });
    }
    Ok(())
}

/// How many client connections the limit on open files allows, after raising the soft limit.
#[must_use]
pub fn connections_possible() -> u64 {
    raise(Resource::Nofile).saturating_sub(RESERVED_DESCRIPTORS)
}

fn check_kernel() -> Result<(), RequirementError> {
    let name = rustix::system::uname();
    let found = name.release().to_string_lossy();
    match version(&found) {
        Some(version) if version < KERNEL_MIN => {
            Err(RequirementError::Kernel { found: found.into_owned() })
        }
        _ => Ok(()),
    }
}

/// Major and minor number of a release such as "6.1.0-18-amd64".
#[must_use]
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether the engine's kind of ring can be made.
///
/// # Errors
///
/// [`RequirementError::IoUring`].
pub fn io_uring() -> Result<(), RequirementError> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun();
    let result: io::Result<IoUring> = builder.build(8);
    result.map(drop).map_err(|error| RequirementError::IoUring { advice: advice(&error), error })
}

fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "set the sysctl kernel.io_uring_disabled to 0 and let the container's seccomp profile \
             allow io_uring_setup, io_uring_enter and io_uring_register"
        }
        Some(libc::ENOSYS) => {
            "the kernel was built without it, or a seccomp profile hides io_uring_setup"
        }
        Some(libc::EINVAL) => "the kernel does not know the flags used; Linux 6.1 or later does",
        Some(libc::ENOMEM) => "raise the memory that may be locked (LimitMEMLOCK=, `ulimit -l`)",
        Some(libc::EMFILE | libc::ENFILE) => "raise the number of open files (LimitNOFILE=)",
        _ => "see the error of the kernel",
    }
}

/// Raises the soft limit to the hard one. Returns what holds now.
fn raise(resource: Resource) -> u64 {
    let Rlimit { current, maximum } = getrlimit(resource);
    if current != maximum && setrlimit(resource, Rlimit { current: maximum, maximum }).is_err() {
        return current.unwrap_or(u64::MAX);
    }
    maximum.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_kernel_releases() {
        for (release, expected) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.15.0", Some((5, 15))),
            ("6.18-rc1", Some((6, 18))),
            ("mainline", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn says_how_many_descriptors_are_missing() {
        let Err(error) = check(1, u64::from(u32::MAX) * 1_000) else {
            panic!("no machine has so many descriptors");
        };
        assert!(error.to_string().contains("LimitNOFILE"), "{error}");
        check(1, 100).unwrap();
    }
}

//! Who may connect, and what they may touch: files, and the threads that compare with them.
//!
//! [`Directory`] is what the configured files say, read as a whole and never changed; a reload makes
//! another. A shard that has a CONNECT before it leaves an
//! [`AuthenticationRequest`](crate::proto::access::AuthenticationRequest) in the queue of one of the
//! [`AuthenticationThreads`] and goes on; passwords are hashed there. The answer comes back as a
//! message, and what it allows is applied by the shard itself (`proto/access`).
//!
//! No secret is printed or logged, and none is kept longer than the question lasts: the cache of what
//! was proven holds keyed hashes.

mod acl_file;
mod cache;
mod directory;
mod fault;
mod http;
mod jwt;
pub mod passwd;
mod password_file;
mod thread;

pub use acl_file::AclFile;
pub use directory::Directory;
pub use fault::FileFault;
pub use http::CalloutSettings;
pub use password_file::{PasswordFile, PasswordHash};
pub use thread::{
    AuthenticationJob, AuthenticationQueues, AuthenticationThreads, Clocks, ReadClock, Shards,
    ThreadSettings,
};

/// Marks passwords and keys, so that it shows whether one is still the same: in this process after a
/// reload, and in the next one after an upgrade. Nobody else sees a mark.
type Fingerprints = std::hash::BuildHasherDefault<xxhash_rust::xxh3::Xxh3>;

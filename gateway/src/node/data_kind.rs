//! What a data directory was made for: cursors of its sessions are places in the node's own log, or
//! in the streams of JetStream, and mean nothing to the other.

use super::recovery::RecoveryError;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

/// Where the messages are that sessions of a data directory have cursors for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataKind {
    /// In the log beside them.
    Embedded,
    /// In the streams of sub-clusters.
    JetStream,
}

impl DataKind {
    fn text(self) -> &'static str {
        match self {
            Self::Embedded => "embedded\n",
            Self::JetStream => "jetstream\n",
        }
    }

    /// Notes in a new directory what it is for, or checks that of an old one.
    ///
    /// # Errors
    ///
    /// It is for the other, or cannot be read or written.
    pub(super) fn claim(self, directory: &Path) -> Result<(), RecoveryError> {
        let path = directory.join(NAME);
        let found = match std::fs::read_to_string(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Before there was a choice there was one kind.
                let is_used = directory.join("store").try_exists()?;
                if !is_used {
                    let mut file = File::create(&path)?;
                    file.write_all(self.text().as_bytes())?;
                    file.sync_all()?;
                    File::open(directory)?.sync_all()?;
                    return Ok(());
                }
                Self::Embedded.text().to_owned()
            }
            Err(error) => return Err(error.into()),
        };
        if found == self.text() {
            return Ok(());
        }
        let (found, wanted) = (found.trim().to_owned(), self.text().trim());
        Err(RecoveryError::OtherUpstream { found, wanted })
    }
}

/// Of the file, in the data directory.
const NAME: &str = "upstream";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_for_one_upstream() {
        let directory = std::env::temp_dir().join(format!("gateway-kind-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        DataKind::JetStream.claim(&directory).unwrap();
        DataKind::JetStream.claim(&directory).unwrap();
        let error = DataKind::Embedded.claim(&directory).unwrap_err().to_string();
        assert!(error.contains("jetstream") && error.contains("embedded"), "{error}");
        std::fs::remove_file(directory.join(NAME)).unwrap();
        std::fs::create_dir(directory.join("store")).unwrap();
        DataKind::Embedded.claim(&directory).unwrap();
        assert!(DataKind::JetStream.claim(&directory).is_err(), "it was used before");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

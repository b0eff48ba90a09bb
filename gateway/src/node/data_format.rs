//! The version of all that is in a data directory: logs, records, store. A directory of a version that
//! is not known is left as it is, before anything in it is opened: what cannot be read there would
//! look like damage.

use super::recovery::RecoveryError;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// The version that is written. Raised with any of the format versions of what is inside, or with
/// anything that an earlier version would misread.
pub const DATA_FORMAT: u32 = 1;

/// The versions that can be read. What is older is written anew as it changes.
const READABLE: std::ops::RangeInclusive<u32> = 1..=DATA_FORMAT;

/// Of the file, in the data directory.
const NAME: &str = "format";

/// Checks the version of what is in `directory`, and notes that it is of this version from now on.
///
/// # Errors
///
/// It is of a version that cannot be read, or cannot be read or written itself.
pub(super) fn claim(directory: &Path) -> Result<(), RecoveryError> {
    let path = directory.join(NAME);
    let found = match fs::read_to_string(&path) {
        Ok(text) => Some(text),
        // Empty, or from before versions were written down: the first.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(text) = &found {
        let text = text.trim();
        let version = text.parse().ok().filter(|version| READABLE.contains(version));
        if version.is_none() {
            let (found, known) = (text.to_owned(), DATA_FORMAT);
            return Err(RecoveryError::OtherFormat { found, known });
        }
        if version == Some(DATA_FORMAT) {
            return Ok(());
        }
    }
    // All or nothing: half a number is another number.
    let new = directory.join("format.new");
    let mut file = File::create(&new)?;
    writeln!(file, "{DATA_FORMAT}")?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(directory)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_opened() {
        let directory = std::env::temp_dir().join(format!("gateway-format-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        claim(&directory).unwrap();
        claim(&directory).unwrap();
        let path = directory.join(NAME);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{DATA_FORMAT}\n"));
        for text in [(DATA_FORMAT + 1).to_string(), "0".to_owned(), String::new()] {
            fs::write(&path, &text).unwrap();
            let error = claim(&directory).unwrap_err().to_string();
            assert!(error.contains(&format!("format \"{text}\"")), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text, "left as it was");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}

//! What is wrong with a file that was named in the configuration.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// One fault of a file. All faults of all files are collected and reported together.
///
/// Displayed as one line: `users, line 3: expected each user once`. What stands in the file is not
/// repeated: it may be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFault {
    /// Which file.
    pub file: PathBuf,
    /// The line, from 1; `None` for the whole file.
    pub line: Option<usize>,
    /// What would have been right.
    pub expected: String,
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": expected {}", self.expected)
    }
}

impl std::error::Error for FileFault {}

/// Collects the faults of one file.
pub(super) struct Faults<'a> {
    pub(super) file: &'a Path,
    pub(super) found: &'a mut Vec<FileFault>,
}

impl Faults<'_> {
    pub(super) fn at(&mut self, line: usize, expected: impl Into<String>) {
        let (file, expected) = (self.file.to_owned(), expected.into());
        self.found.push(FileFault { file, line: Some(line), expected });
    }

    pub(super) fn whole(&mut self, expected: impl Into<String>) {
        let (file, expected) = (self.file.to_owned(), expected.into());
        self.found.push(FileFault { file, line: None, expected });
    }
}

/// Reads a file of at most `bytes_max` bytes; says what is wrong otherwise.
pub(super) fn read(path: &Path, bytes_max: u64, faults: &mut Vec<FileFault>) -> Option<String> {
    let mut faults = Faults { file: path, found: faults };
    let mut text = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(bytes_max.saturating_add(1)).read_to_string(&mut text));
    match read {
        Err(error) => faults.whole(format!("a file that can be read, but: {error}")),
        Ok(_) if text.len() as u64 > bytes_max => {
            faults.whole(format!("at most {bytes_max} bytes, limits.access_file_bytes_max"));
        }
        Ok(_) => return Some(text),
    }
    None
}

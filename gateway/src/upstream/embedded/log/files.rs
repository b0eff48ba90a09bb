//! The blocking file layer: for recovery, for the storage thread, and for tests.

use super::io::{IoDone, IoFault, IoToken, LogFile, LogIo};
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Files of one directory, by name.
///
/// # Errors
///
/// Every method passes on the error of the operating system. A file that does not exist is
/// [`io::ErrorKind::NotFound`].
pub trait Files {
    /// The names of all files, in any order.
    fn list(&mut self) -> io::Result<Vec<String>>;
    /// Creates the file, empty; an existing one is emptied. It may vanish in a crash until
    /// [`Files::sync_directory`].
    fn create(&mut self, name: &str) -> io::Result<()>;
    /// Removes the file. Removing one that does not exist is no error.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Bytes of the file.
    fn length(&mut self, name: &str) -> io::Result<u64>;
    /// Cuts the file off after `length` bytes.
    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()>;
    /// Reads up to `length` bytes at `offset`, fewer at the end of the file only.
    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// Writes some of `bytes` at `offset` and returns how many.
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<usize>;
    /// Makes the content of the file survive a crash (`fdatasync`).
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Makes creations and removals survive a crash.
    fn sync_directory(&mut self) -> io::Result<()>;
}

/// Performs `request` on `files`; the answer is for [`Log::handle_io`](super::Log::handle_io).
pub fn perform(files: &mut dyn Files, request: &LogIo) -> (IoToken, Result<IoDone, IoFault>) {
    let (token, result) = match request {
        LogIo::Create { token, segment } => {
            let name = LogFile::Segment(*segment).name();
            let created = files.create(&name).and_then(|()| files.sync_directory());
            (token, created.map(|()| IoDone::Done))
        }
        LogIo::Write { token, segment, offset, bytes } => {
            let name = LogFile::Segment(*segment).name();
            (token, files.write_at(&name, *offset, bytes).map(IoDone::Wrote))
        }
        LogIo::Sync { token, segment } => {
            (token, files.sync(&LogFile::Segment(*segment).name()).map(|()| IoDone::Done))
        }
        LogIo::Read { token, file, offset, length } => {
            let read = files.read_at(&file.name(), *offset, *length as usize);
            (token, read.map(|bytes| IoDone::Read(Bytes::from(bytes))))
        }
        LogIo::WriteIndex { token, segment, bytes } => {
            let name = LogFile::Index(*segment).name();
            let written = files.create(&name).and_then(|()| write_all(files, &name, bytes));
            (token, written.map(|()| IoDone::Done))
        }
        LogIo::Remove { token, segment } => {
            let removed = files
                .remove(&LogFile::Index(*segment).name())
                .and_then(|()| files.remove(&LogFile::Segment(*segment).name()));
            (token, removed.map(|()| IoDone::Done))
        }
    };
    (*token, result.map_err(|error| IoFault::from(&error)))
}

/// Writes all of `bytes` from the start of the file.
pub(super) fn write_all(files: &mut dyn Files, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match files.write_at(name, done as u64, rest)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => done += count,
        }
    }
    Ok(())
}

/// Files on the disk.
#[derive(Debug)]
pub struct RealFiles {
    directory: PathBuf,
    open: HashMap<String, File>,
}

impl RealFiles {
    /// The files of `directory`, which is created when it does not exist.
    ///
    /// # Errors
    ///
    /// The directory can be neither found nor created.
    pub fn new(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        std::fs::create_dir_all(&directory)?;
        Ok(Self { directory, open: HashMap::new() })
    }

    fn file(&mut self, name: &str) -> io::Result<&File> {
        if !self.open.contains_key(name) {
            let path = self.directory.join(name);
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            self.open.insert(name.to_owned(), file);
        }
        self.open.get(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Files for RealFiles {
    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            // Names of ours are ASCII; others are none of our business.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let path = self.directory.join(name);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        self.open.insert(name.to_owned(), file);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open.remove(name);
        match std::fs::remove_file(self.directory.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn length(&mut self, name: &str) -> io::Result<u64> {
        Ok(self.file(name)?.metadata()?.len())
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.file(name)?.set_len(length)
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = self.file(name)?;
        let available = file.metadata()?.len().saturating_sub(offset);
        let mut bytes = vec![0; length.min(usize::try_from(available).unwrap_or(usize::MAX))];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.file(name)?.write_at(bytes, offset)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

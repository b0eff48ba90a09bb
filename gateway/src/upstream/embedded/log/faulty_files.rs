//! For tests: files in memory that lose what was not synced, and fail when told to.

use super::files::Files;
use std::collections::BTreeMap;
use std::io;

/// Files in memory with a power switch.
///
/// What was written and not synced is kept apart: [`FaultyFiles::crash`] keeps an arbitrary part
/// of it, torn at any byte and in any order of 512-byte sectors, as a power cut would. Everything
/// arbitrary comes from the seed.
#[derive(Clone, Debug)]
pub struct FaultyFiles {
    files: BTreeMap<String, Content>,
    /// The names that survive a crash, with what was synced of removed ones.
    durable: BTreeMap<String, Vec<u8>>,
    random: u64,
    /// Bytes that fit on the disk.
    pub capacity_bytes: u64,
    /// How often in a thousand a write is short.
    pub short_writes_per_mille: u32,
    /// How often in a thousand a write or sync fails with an I/O error. A failed sync forgets
    /// which of the pages were dirty: they look written and are not.
    pub errors_per_mille: u32,
    /// Answer syncs without doing anything, to show that tests notice.
    pub ignore_syncs: bool,
}

#[derive(Clone, Debug, Default)]
struct Content {
    /// As reads see it.
    now: Vec<u8>,
    synced: Vec<u8>,
    /// A failed sync has marked pages clean that are not on the disk.
    dropped: bool,
}

const SECTOR_BYTES: usize = 512;

impl FaultyFiles {
    /// No files, no faults, and a disk without end.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            files: BTreeMap::new(),
            durable: BTreeMap::new(),
            random: seed ^ 0x9e37_79b9_7f4a_7c15,
            capacity_bytes: u64::MAX,
            short_writes_per_mille: 0,
            errors_per_mille: 0,
            ignore_syncs: false,
        }
    }

    /// Cuts the power. Of every sector that was not synced either the old or the new content is
    /// there afterwards, and at one place the change stops in the middle of a sector.
    pub fn crash(&mut self) {
        let files = std::mem::take(&mut self.files);
        let mut after = BTreeMap::new();
        for (name, content) in files {
            if !self.durable.contains_key(&name) {
                continue;
            }
            let survived = self.survivor(&content);
            after.insert(name, Content { now: survived.clone(), synced: survived, dropped: false });
        }
        // A removal that was not synced may be undone.
        for (name, synced) in &self.durable {
            after.entry(name.clone()).or_insert_with(|| Content {
                now: synced.clone(),
                synced: synced.clone(),
                dropped: false,
            });
        }
        self.files = after;
        self.keep_names();
    }

    /// Flips bit `bit` of the file. Returns whether it has so many.
    pub fn flip_bit(&mut self, name: &str, bit: usize) -> bool {
        let Some(content) = self.files.get_mut(name) else { return false };
        let mut flipped = false;
        for bytes in [&mut content.now, &mut content.synced] {
            if let Some(byte) = bytes.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
                flipped = true;
            }
        }
        flipped
    }

    /// An arbitrary number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % end.max(1)
    }

    fn happens(&mut self, per_mille: u32) -> bool {
        self.below(1_000) < u64::from(per_mille)
    }

    fn survivor(&mut self, content: &Content) -> Vec<u8> {
        let longest = content.now.len().max(content.synced.len());
        let torn = self.below(longest as u64 + 1);
        let length_survives = self.below(2) == 0 && !content.dropped;
        let mut survivor = content.synced.clone();
        if length_survives {
            survivor.resize(content.now.len(), 0);
        }
        for (sector, place) in survivor.chunks_mut(SECTOR_BYTES).enumerate() {
            let start = sector * SECTOR_BYTES;
            let written = !content.dropped && self.below(2) == 0;
            for (at, byte) in place.iter_mut().enumerate() {
                let before_tear = start + at < usize::try_from(torn).unwrap_or(usize::MAX);
                if let Some(new) = content.now.get(start + at)
                    && written
                    && before_tear
                {
                    *byte = *new;
                }
            }
        }
        survivor
    }

    fn content(&mut self, name: &str) -> io::Result<&mut Content> {
        self.files.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used_bytes(&self) -> u64 {
        self.files.values().map(|content| content.now.len() as u64).sum()
    }

    fn keep_names(&mut self) {
        self.durable = self.files.iter().map(|(n, c)| (n.clone(), c.synced.clone())).collect();
    }
}

impl Files for FaultyFiles {
    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        if self.used_bytes() >= self.capacity_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.files.insert(name.to_owned(), Content::default());
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.files.remove(name);
        Ok(())
    }

    fn length(&mut self, name: &str) -> io::Result<u64> {
        Ok(self.content(name)?.now.len() as u64)
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.content(name)?.now.truncate(length);
        Ok(())
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let rest = self.content(name)?.now.get(start..).unwrap_or_default();
        Ok(rest.get(..length).unwrap_or(rest).to_vec())
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        if self.happens(self.errors_per_mille) {
            return Err(io::Error::other("injected"));
        }
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let short = self.happens(self.short_writes_per_mille);
        let count = if short {
            usize::try_from(self.below(bytes.len() as u64)).unwrap_or(0)
        } else {
            bytes.len()
        };
        let count = count.max(1).min(bytes.len());
        let length = self.content(name)?.now.len();
        let growth = (start + count).saturating_sub(length) as u64;
        if growth > 0 && self.used_bytes().saturating_add(growth) > self.capacity_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let content = self.content(name)?;
        content.now.resize(length.max(start + count), 0);
        if let (Some(to), Some(from)) =
            (content.now.get_mut(start..start + count), bytes.get(..count))
        {
            to.copy_from_slice(from);
        }
        Ok(count)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let fails = self.happens(self.errors_per_mille);
        let ignored = self.ignore_syncs;
        let content = self.content(name)?;
        if fails {
            content.dropped = true;
            return Err(io::Error::other("injected"));
        }
        if !ignored && !content.dropped {
            content.synced.clone_from(&content.now);
            let synced = content.synced.clone();
            if let Some(durable) = self.durable.get_mut(name) {
                *durable = synced;
            }
        }
        Ok(())
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        self.keep_names();
        Ok(())
    }
}

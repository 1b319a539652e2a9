//! Pack files and the outboards beside them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use rustix::fs::{Advice, fadvise};

use super::Store;
use super::error::StoreError;
use super::files::Draft;
use crate::base::{ByteSize, PackId, limit, meter};
use crate::pack::Outboard;

/// Ending of an outboard's name.
const OUTBOARD: &str = ".cells";

/// An open pack file; reads are positional, so it can be shared.
pub struct PackFile {
    id: PackId,
    file: File,
    length: u64,
}

impl PackFile {
    /// Its length on disk in bytes (which may be wrong if it is damaged).
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Fills `buffer` from `offset`; a short file is [`StoreError::DamagedFile`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.file.read_exact_at(buffer, offset).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => StoreError::DamagedFile(format!("pack {}", self.id)),
            _ => StoreError::io("reading a pack", e),
        })
    }

    /// Lets the kernel drop it from memory.
    fn forget(&self) {
        // Only advice.
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
    }

    /// The whole file, as it is; at most [`limit::PACK_BYTES_MAX`].
    pub fn read_all(&self) -> Result<Vec<u8>, StoreError> {
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        if length > limit::PACK_BYTES_MAX {
            return Err(StoreError::DamagedFile(format!("pack {}", self.id)));
        }
        let mut bytes = vec![0; length];
        self.read_at(0, &mut bytes)?;
        Ok(bytes)
    }
}

/// A pack that is being written; nobody sees it before it is published. Dropped, it leaves nothing.
pub struct PackDraft {
    draft: Draft,
    length: u64,
}

impl PackDraft {
    /// Fills `buffer` from `offset` of what was appended.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.draft.file.read_exact_at(buffer, offset).map_err(|e| StoreError::io("reading a pack", e))
    }
}

pub(super) fn fan_out(id: PackId) -> String {
    format!("packs/{:02x}", id.as_bytes()[0])
}

impl Store {
    /// Begins a pack that is written piece by piece.
    pub fn draft_pack(&self) -> Result<PackDraft, StoreError> {
        Ok(PackDraft { draft: self.files.draft()?, length: 0 })
    }

    /// Writes the next bytes of a pack. Leaves the reserve free, as publishing does.
    pub fn append(&self, pack: &mut PackDraft, bytes: &[u8]) -> Result<(), StoreError> {
        self.keep_reserve(bytes.len() as u64)?;
        let written = pack.draft.write_at(bytes, pack.length);
        written.map_err(|e| self.files.refused("writing a pack", e))?;
        pack.length += bytes.len() as u64;
        Ok(())
    }

    /// Durably stores a pack that was written piece by piece; `id` and `outboard` are of what was appended.
    pub fn publish_draft(&self, pack: PackDraft, id: PackId, outboard: &Outboard) -> Result<(), StoreError> {
        debug_assert_eq!(outboard.root(), Some(id));
        let length = pack.length;
        self.keep_limit(length)?;
        self.beside_pack(id, outboard)?;
        self.files.publish_draft(pack.draft, &fan_out(id), &id.to_string())?;
        self.note_published(length);
        Ok(())
    }

    /// Durably stores a pack whose bytes were verified against its id, for somebody else: it is not read again soon, so the
    /// kernel need not keep it in memory. The packs that follow then find memory that was just in use, which is faster: a
    /// holder pulled 255 MB/s without this, and 325 with it.
    pub fn publish_pack(&self, id: PackId, bytes: &[u8], outboard: &Outboard) -> Result<(), StoreError> {
        debug_assert_eq!(outboard.root(), Some(id));
        self.keep_limit(bytes.len() as u64)?;
        self.place_pack(id, bytes, outboard)?;
        if let Ok(file) = self.open_pack(id) {
            file.forget();
        }
        Ok(())
    }

    /// The same, whatever packs may take.
    pub(super) fn place_pack(&self, id: PackId, bytes: &[u8], outboard: &Outboard) -> Result<(), StoreError> {
        let length = bytes.len() as u64;
        self.keep_reserve(length)?;
        self.beside_pack(id, outboard)?;
        self.files.publish(&fan_out(id), &id.to_string(), &[bytes])?;
        self.note_published(length);
        self.trust(id)
    }

    /// Makes the pack's directory, and its outboard there.
    fn beside_pack(&self, id: PackId, outboard: &Outboard) -> Result<(), StoreError> {
        self.absolve(id)?;
        self.files.ensure_dir(&fan_out(id))?;
        self.renew_outboard(id, outboard)
    }

    fn note_published(&self, bytes: u64) {
        self.reserve.refill();
        meter::BLOCKS_STORED.add(1);
        if let Some(used) = self.disk_used.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            *used += bytes;
        }
    }

    /// What packs take is counted anew when it is asked for next: damaged files have any length.
    pub(super) fn count_anew(&self) {
        *self.disk_used.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Bytes of pack files here. Looks at every file once, and counts from then on.
    fn disk_used(&self) -> Result<u64, StoreError> {
        let mut used = self.disk_used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = *used {
            return Ok(used);
        }
        let mut bytes = 0;
        for id in self.pack_files()? {
            bytes += self.pack_length(id)?.unwrap_or(0);
        }
        *used = Some(bytes);
        Ok(bytes)
    }

    /// Lets all packs together take `bytes`; 0 is no limit.
    pub fn limit_disk(&self, bytes: u64) {
        self.disk_limit.store(bytes, Ordering::Relaxed);
    }

    /// Packs stop short of filling the disk: index rows, records and heads of what is published must find room, and
    /// redb takes a full disk for the end of itself until the store is opened again.
    fn keep_reserve(&self, bytes: u64) -> Result<(), StoreError> {
        if self.reserve.admits(bytes) { Ok(()) } else { Err(StoreError::Full("storing a pack")) }
    }

    /// Packs stop short of what they may take all together.
    fn keep_limit(&self, bytes: u64) -> Result<(), StoreError> {
        let allowed = self.disk_limit.load(Ordering::Relaxed);
        if allowed > 0 && self.disk_used()?.saturating_add(bytes) > allowed {
            return Err(StoreError::OverLimit(ByteSize(allowed)));
        }
        Ok(())
    }

    /// Opens a pack file.
    ///
    /// # Errors
    /// [`StoreError::MissingPack`] when it is not here; [`StoreError::Unavailable`] when nobody can tell.
    pub fn open_pack(&self, id: PackId) -> Result<PackFile, StoreError> {
        let opened = File::open(self.files.path(&fan_out(id), &id.to_string()));
        let file = self.files.found("opening a pack", opened)?.ok_or(StoreError::MissingPack(id))?;
        let length = file.metadata().map_err(|e| StoreError::io("examining a pack", e))?.len();
        Ok(PackFile { id, file, length })
    }

    /// The length of a pack's file; `None` when it is not here.
    pub fn pack_length(&self, id: PackId) -> Result<Option<u64>, StoreError> {
        let looked = std::fs::metadata(self.files.path(&fan_out(id), &id.to_string()));
        Ok(self.files.found("examining a pack", looked)?.map(|there| there.len()))
    }

    /// The outboard beside a pack of `length` bytes; `None` when it is missing or does not lead to the id.
    pub fn outboard(&self, id: PackId, length: usize) -> Result<Option<Outboard>, StoreError> {
        let name = format!("{id}{OUTBOARD}");
        let bytes = match self.files.read(&fan_out(id), &name, limit::PACK_CELLS_MAX * 32) {
            Ok(bytes) => bytes,
            Err(StoreError::DamagedFile(_)) => None,
            Err(e) => return Err(e),
        };
        Ok(bytes.and_then(|bytes| Outboard::read(&bytes, id, length)))
    }

    /// Whether an outboard of the right length lies beside a pack of `length` bytes; what is in it is not looked at.
    pub fn has_outboard(&self, id: PackId, length: u64) -> Result<bool, StoreError> {
        let path = self.files.path(&fan_out(id), &format!("{id}{OUTBOARD}"));
        let there = self.files.found("examining an outboard", std::fs::metadata(path))?;
        Ok(there.is_some_and(|there| there.len() == length.div_ceil(limit::CELL_BYTES as u64) * 32))
    }

    /// Writes a pack's outboard anew.
    pub fn renew_outboard(&self, id: PackId, outboard: &Outboard) -> Result<(), StoreError> {
        self.files.publish_lazily(&fan_out(id), &format!("{id}{OUTBOARD}"), &outboard.to_bytes())
    }

    /// Removes a pack's file and its outboard; ones that are not there are no error.
    pub(super) fn remove_pack_file(&self, id: PackId) -> Result<(), StoreError> {
        let (dir, name) = (fan_out(id), id.to_string());
        let length = self.pack_length(id)?.unwrap_or(0);
        // The pack last: an outboard is made again from it. One flush is for both.
        self.files.remove_lazily(&dir, &format!("{name}{OUTBOARD}"))?;
        self.files.remove(&dir, &name)?;
        if let Some(used) = self.disk_used.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            *used = used.saturating_sub(length);
        }
        Ok(())
    }

    /// Ids of all pack files, by id.
    pub fn pack_files(&self) -> Result<Vec<PackId>, StoreError> {
        let mut ids = Vec::new();
        for dir in self.files.names("packs")? {
            for name in self.files.names(&format!("packs/{dir}"))? {
                if let Ok(id) = name.parse() {
                    ids.push(id);
                }
            }
        }
        Ok(ids)
    }

    /// Ids of pack files that the index does not know: published just before a crash.
    pub fn unindexed_packs(&self) -> Result<Vec<PackId>, StoreError> {
        let mut out = Vec::new();
        for id in self.pack_files()? {
            if self.pack_by_id(id)?.is_none() && !self.is_doomed(id) {
                out.push(id);
            }
        }
        Ok(out)
    }
}

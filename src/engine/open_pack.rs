//! A pack that fills: its newest bytes in memory, those before them in a file that nobody knows of yet.

use super::error::EngineError;
use crate::base::{ChunkId, Epoch};
use crate::crypto::{Codec, Kind, Salt, VaultKeys};
use crate::pack::{PackBuilder, PackEntry, SealedPack};
use crate::store::{NewPack, PackDraft, Store};

/// An open pack.
pub(super) struct OpenPack {
    builder: PackBuilder,
    draft: Option<PackDraft>,
}

impl OpenPack {
    /// An empty one for chunks sealed with the keys of `epoch`.
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { builder: PackBuilder::new(epoch), draft: None }
    }

    /// The salt that its chunks are sealed with.
    pub(super) fn salt(&self) -> Salt {
        self.builder.salt()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// Bytes the pack would have before padding.
    pub(super) fn filled(&self) -> usize {
        self.builder.filled()
    }

    pub(super) fn entries(&self) -> &[PackEntry] {
        self.builder.entries()
    }

    /// Whether a sealed chunk of that length must go to another pack, this one being of at most `size` bytes.
    pub(super) fn is_full_for(&self, sealed_length: usize, size: usize) -> bool {
        !self.is_empty() && !self.builder.fits(sealed_length, size)
    }

    /// Appends a sealed chunk, for which there is room.
    pub(super) fn push(&mut self, kind: Kind, codec: Codec, id: ChunkId, length: u32, sealed: &[u8]) {
        self.builder.push(kind, codec, id, length, sealed);
    }

    /// Writes out what can be, once there are `most` bytes in memory.
    pub(super) fn drain(&mut self, store: &Store, most: usize) -> Result<(), EngineError> {
        if self.builder.pending() < most {
            return Ok(());
        }
        let draft = match &mut self.draft {
            Some(draft) => draft,
            none => none.insert(store.draft_pack()?),
        };
        Ok(self.builder.drain(|_, bytes| store.append(draft, bytes))?)
    }

    /// A chunk's sealed bytes, from memory or, through `buffer`, from the file.
    pub(super) fn sealed<'a>(
        &'a self,
        entry: &PackEntry,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], EngineError> {
        let (offset, length) = (entry.offset as usize, entry.sealed_length as usize);
        if let Some(bytes) = self.builder.in_memory(offset, length) {
            return Ok(bytes);
        }
        buffer.resize(length, 0);
        // A chunk may begin in the file and end in memory.
        let drained = (self.builder.drained() - offset).min(length);
        let draft = self.draft.as_ref().ok_or(EngineError::Stopped)?;
        draft.read_at(offset as u64, &mut buffer[..drained])?;
        if drained < length {
            let rest = self.builder.in_memory(offset + drained, length - drained);
            buffer[drained..].copy_from_slice(rest.expect("what was not drained is in memory"));
        }
        Ok(buffer)
    }

    /// Seals the directory and writes the end.
    pub(super) fn finish(self, store: &Store, keys: &VaultKeys) -> Result<FinishedPack, EngineError> {
        let mut draft = self.draft.map_or_else(|| store.draft_pack(), Ok)?;
        let mut pack = self.builder.finish(keys)?;
        store.append(&mut draft, &std::mem::take(&mut pack.rest))?;
        Ok(FinishedPack { pack, draft })
    }
}

/// A pack that only has to be flushed and named.
pub(super) struct FinishedPack {
    pack: SealedPack,
    draft: PackDraft,
}

impl FinishedPack {
    /// Length of the whole file in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.pack.length as u64
    }

    /// Makes it durable. The index does not know it yet.
    pub(super) fn publish(self, store: &Store) -> Result<NewPack, EngineError> {
        let bytes = self.bytes();
        let Self { pack, draft } = self;
        store.publish_draft(draft, pack.id, &pack.outboard)?;
        Ok(NewPack { id: pack.id, bytes, epoch: pack.epoch, own: true, entries: pack.entries })
    }
}

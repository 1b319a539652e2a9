//! Putting sealed chunks together into packs of at most eight sizes.

use super::cells::{Outboard, OutboardBuilder};
use super::layout::{
    ENTRY_BYTES, HEADER_BYTES, PackEntry, TRAILER_BYTES, header, trailer_plain, write_entry,
};
use crate::base::{ChunkId, Epoch, PackId, limit};
use crate::crypto::{Codec, Kind, OVERHEAD_BYTES, Salt, SealError, VaultKeys, seal_blob};

/// Bytes of a pack that are not chunks or directory rows.
const FIXED_BYTES: usize = HEADER_BYTES + OVERHEAD_BYTES + TRAILER_BYTES;

/// A finished pack, ready to be published once `rest` is where it belongs.
pub struct SealedPack {
    /// BLAKE3 of the whole file.
    pub id: PackId,
    /// Length of the whole file in bytes; one of [`limit::PACK_SIZES`].
    pub length: usize,
    /// The end of the file: what [`PackBuilder::drain`] did not hand on. All of it when nothing was drained.
    pub rest: Vec<u8>,
    /// The chaining values that prove its cells.
    pub outboard: Outboard,
    /// Key generation.
    pub epoch: Epoch,
    /// What it holds, by offset.
    pub entries: Vec<PackEntry>,
}

/// Sealed chunks on their way into a pack. Keeps in memory what was not drained yet, and 56 bytes for each chunk.
pub struct PackBuilder {
    epoch: Epoch,
    salt: Salt,
    /// Bytes of the pack from `drained` on.
    pending: Vec<u8>,
    /// Bytes handed on so far, whole cells.
    drained: usize,
    cells: OutboardBuilder,
    entries: Vec<PackEntry>,
}

impl PackBuilder {
    /// An empty pack with a fresh salt, for chunks sealed with the keys of `epoch`.
    pub fn new(epoch: Epoch) -> Self {
        Self::with_salt(epoch, Salt::random())
    }

    fn with_salt(epoch: Epoch, salt: Salt) -> Self {
        let pending = header(epoch, &salt).to_vec();
        Self { epoch, salt, pending, drained: 0, cells: OutboardBuilder::default(), entries: Vec::new() }
    }

    /// The salt that chunks for this pack are sealed with.
    pub fn salt(&self) -> Salt {
        self.salt
    }

    /// True while nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes the pack would have before padding.
    pub fn filled(&self) -> usize {
        self.drained + self.pending.len() - HEADER_BYTES + self.entries.len() * ENTRY_BYTES + FIXED_BYTES
    }

    /// Whether a sealed chunk of that length still fits a pack of `size` bytes.
    pub fn fits(&self, sealed_length: usize, size: usize) -> bool {
        self.entries.len() < limit::PACK_CHUNKS_MAX && self.filled() + sealed_length + ENTRY_BYTES <= size
    }

    /// Appends a sealed chunk. The caller has asked [`PackBuilder::fits`].
    pub fn push(&mut self, kind: Kind, codec: Codec, id: ChunkId, length: u32, sealed: &[u8]) {
        let number = |n: usize| u32::try_from(n).expect("a pack is at most 16 MiB");
        let (offset, sealed_length) = (number(self.drained + self.pending.len()), number(sealed.len()));
        self.entries.push(PackEntry { kind, codec, id, offset, sealed_length, length });
        self.pending.extend_from_slice(sealed);
    }

    /// The chunks put in so far, in order.
    pub fn entries(&self) -> &[PackEntry] {
        &self.entries
    }

    /// Bytes handed on so far.
    pub fn drained(&self) -> usize {
        self.drained
    }

    /// Bytes in memory.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What is in memory of the pack's bytes at `offset`; `None` when those were handed on already.
    pub fn in_memory(&self, offset: usize, length: usize) -> Option<&[u8]> {
        let start = offset.checked_sub(self.drained)?;
        self.pending.get(start..start + length)
    }

    /// Hands all whole cells to `sink`, with their offset in the pack, and forgets them.
    ///
    /// # Errors
    /// What `sink` gives; nothing is forgotten then, and the call may be made again.
    pub fn drain<E>(&mut self, sink: impl FnOnce(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let whole = self.pending.len() / limit::CELL_BYTES * limit::CELL_BYTES;
        if whole == 0 {
            return Ok(());
        }
        sink(self.drained as u64, &self.pending[..whole])?;
        self.cells.append(&self.pending[..whole]);
        self.pending.drain(..whole);
        self.drained += whole;
        Ok(())
    }

    /// Seals directory and trailer, pads to the next size class, and hashes.
    pub fn finish(mut self, keys: &VaultKeys) -> Result<SealedPack, SealError> {
        let filled = self.filled();
        let length =
            *limit::PACK_SIZES.iter().find(|size| **size >= filled).ok_or(SealError::TooLong(filled))?;
        let offset = self.drained + self.pending.len();
        self.pending.reserve_exact(length - offset);
        let mut directory = Vec::with_capacity(length - offset);
        for entry in &self.entries {
            write_entry(entry, &mut directory);
        }
        directory.resize(length - offset - TRAILER_BYTES - OVERHEAD_BYTES, 0);
        let before = self.pending.len();
        let (epoch, salt) = (self.epoch, &self.salt);
        seal_blob(keys, epoch, salt, Kind::Directory, salt.0, &directory, &mut self.pending)?;
        drop(directory);
        let sealed = self.pending.len() - before;
        let number = |n: usize| u32::try_from(n).expect("a pack is at most 16 MiB");
        let plain = trailer_plain(number(offset), number(sealed), number(self.entries.len()));
        seal_blob(keys, epoch, salt, Kind::Trailer, salt.0, &plain, &mut self.pending)?;
        self.cells.append(&self.pending);
        let (id, outboard) = self.cells.finish().expect("every size is at least two cells");
        Ok(SealedPack { id, length, rest: self.pending, outboard, epoch, entries: self.entries })
    }
}

/// Sizes of the packs into which `filled` bytes of left-over chunks go, so that padding stays within an eighth: the
/// largest class that would be at least seven eighths full, else one class below, and so on.
pub fn pack_sizes_for(mut filled: usize) -> Vec<usize> {
    let mut sizes = Vec::new();
    while filled > 0 {
        let fitting = limit::PACK_SIZES.iter().position(|size| *size >= filled);
        let Some(at) = fitting else {
            sizes.push(limit::PACK_BYTES_MAX);
            filled -= limit::PACK_BYTES_MAX;
            continue;
        };
        let size = limit::PACK_SIZES[at];
        if at == 0 || filled * 8 >= size * 7 {
            sizes.push(size);
            break;
        }
        sizes.push(limit::PACK_SIZES[at - 1]);
        filled -= limit::PACK_SIZES[at - 1];
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::super::cells::CellRange;
    use super::super::layout::{PackError, read_pack};
    use super::*;
    use crate::base::{frozen, random_bytes};
    use crate::crypto::{Opener, Phrase, Sealer};
    use proptest::prelude::*;

    fn build(keys: &VaultKeys, texts: &[Vec<u8>]) -> SealedPack {
        let mut builder = PackBuilder::new(Epoch(0));
        let mut sealer = Sealer::new(Some(3)).unwrap();
        for text in texts {
            let id = keys.chunk_id(Kind::Data, text);
            let mut sealed = Vec::new();
            let made = sealer.seal(keys, &builder.salt(), Kind::Data, id, text, &mut sealed).unwrap();
            builder.push(Kind::Data, made.codec, id, text.len() as u32, &sealed);
        }
        builder.finish(keys).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn pack_reads_back_and_has_a_class_size(texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9000), 0..40)) {
            let keys = Phrase::generate().root().vault_keys(Epoch(0));
            let pack = build(&keys, &texts);
            prop_assert_eq!(pack.rest.len(), pack.length);
            prop_assert!(limit::PACK_SIZES.contains(&pack.rest.len()));
            prop_assert_eq!(PackId::new(*blake3::hash(&pack.rest).as_bytes()), pack.id);
            let (epoch, entries) = read_pack(&keys, &pack.rest).unwrap();
            prop_assert_eq!(&entries, &pack.entries);
            let mut opener = Opener::new();
            for (entry, text) in entries.iter().zip(&texts) {
                let start = entry.offset as usize;
                let sealed = &pack.rest[start..start + entry.sealed_length as usize];
                prop_assert_eq!(opener.open(&keys, &entry.subject(epoch), sealed).unwrap(), text.as_slice());
            }
        }
    }

    /// A pack is the same whether it was kept in memory or written out piece by piece.
    #[test]
    fn draining_changes_nothing_but_where_the_bytes_are() {
        let keys = Phrase::generate().root().vault_keys(Epoch(0));
        let build = |drain_every: usize| {
            let mut builder = PackBuilder::with_salt(Epoch(0), Salt([4; 32]));
            let mut sealer = Sealer::new(None).unwrap();
            let mut file = Vec::new();
            for i in 0..200u32 {
                let text = i.to_le_bytes().repeat(1000 + i as usize);
                let (id, mut sealed) = (keys.chunk_id(Kind::Data, &text), Vec::new());
                let made = sealer.seal(&keys, &builder.salt(), Kind::Data, id, &text, &mut sealed).unwrap();
                builder.push(Kind::Data, made.codec, id, text.len() as u32, &sealed);
                if (i as usize + 1).is_multiple_of(drain_every) {
                    let sink = |at: u64, bytes: &[u8]| {
                        assert_eq!(at, file.len() as u64);
                        file.extend_from_slice(bytes);
                        Ok::<_, ()>(())
                    };
                    builder.drain(sink).unwrap();
                    let entry = builder.entries()[0];
                    assert!(builder.in_memory(entry.offset as usize, 1).is_none() || file.is_empty());
                }
            }
            let pack = builder.finish(&keys).unwrap();
            file.extend_from_slice(&pack.rest);
            assert_eq!((file.len(), PackId::new(*blake3::hash(&file).as_bytes())), (pack.length, pack.id));
            assert_eq!(pack.outboard, Outboard::of(&file).1);
            (pack.id, pack.entries)
        };
        let whole = build(usize::MAX);
        for drain_every in [1, 3, 70] {
            assert_eq!(build(drain_every), whole);
        }
    }

    /// Frozen: a whole pack with two stored chunks, the file beside it, and the proof of its first cell.
    #[test]
    fn pack_matches_its_frozen_bytes() {
        let keys = Phrase::example().root().vault_keys(Epoch(0));
        let mut builder = PackBuilder::with_salt(Epoch(0), Salt([4; 32]));
        let mut sealer = Sealer::new(None).unwrap();
        for text in [b"one".as_slice(), b"two"] {
            let id = keys.chunk_id(Kind::Data, text);
            let mut sealed = Vec::new();
            let made = sealer.seal(&keys, &builder.salt(), Kind::Data, id, text, &mut sealed).unwrap();
            builder.push(Kind::Data, made.codec, id, text.len() as u32, &sealed);
        }
        let pack = builder.finish(&keys).unwrap();
        let proof = pack.outboard.proof(CellRange { first: 0, end: 1 });
        let cells = hex::encode(pack.outboard.to_bytes());
        let text = format!("id {}\ncells {cells}\nproof {}\n", pack.id, hex::encode(proof));
        frozen("pack.txt", text.as_bytes());
        frozen("pack.bin", &pack.rest);
    }

    /// Each byte outside the sealed chunks matters: none can change without the pack being refused.
    #[test]
    fn every_flipped_byte_outside_the_chunks_and_every_truncation_is_refused() {
        let keys = Phrase::generate().root().vault_keys(Epoch(0));
        let pack = build(&keys, &[b"one".to_vec(), b"two".to_vec()]);
        let chunks_end = pack.entries.iter().map(|e| (e.offset + e.sealed_length) as usize).max().unwrap();
        let mut bytes = pack.rest.clone();
        // The directory with its padding is one sealed piece of 128 KiB; every 97th byte stands for it.
        let tail = chunks_end..bytes.len();
        let places = (0..HEADER_BYTES).chain(tail.clone().step_by(97)).chain(tail.rev().take(200));
        for at in places {
            bytes[at] ^= 1;
            assert!(read_pack(&keys, &bytes).is_err(), "byte {at}");
            bytes[at] ^= 1;
        }
        for length in (0..bytes.len()).step_by(331) {
            assert!(read_pack(&keys, &bytes[..length]).is_err(), "cut at {length}");
        }
        bytes[4] = 2;
        assert!(matches!(read_pack(&keys, &bytes), Err(PackError::TooNew(2))));
    }

    #[test]
    fn another_vault_learns_nothing_but_the_size() {
        let keys = Phrase::generate().root().vault_keys(Epoch(0));
        let other = Phrase::generate().root().vault_keys(Epoch(0));
        let pack = build(&keys, &[b"secret".to_vec()]);
        assert!(matches!(read_pack(&other, &pack.rest), Err(PackError::Sealed(_))));
    }

    #[test]
    fn noise_is_never_a_pack() {
        let keys = Phrase::generate().root().vault_keys(Epoch(0));
        for _ in 0..50 {
            let mut noise = random_bytes::<4096>();
            noise[..8].copy_from_slice(b"SVPK\x01\0\0\0");
            noise[12..16].fill(0);
            assert!(read_pack(&keys, &noise).is_err());
        }
    }

    #[test]
    fn left_overs_are_padded_by_at_most_an_eighth() {
        let kib = limit::KIB;
        assert_eq!(pack_sizes_for(0), Vec::<usize>::new());
        assert_eq!(pack_sizes_for(1), [128 * kib]);
        assert_eq!(pack_sizes_for(9 << 20), [8 << 20, 1 << 20]);
        assert_eq!(pack_sizes_for(13 << 20), [8 << 20, 4 << 20, 1 << 20]);
        assert_eq!(pack_sizes_for(15 << 20), [16 << 20]);
        for filled in (1..40 << 20).step_by(77_777) {
            let sizes = pack_sizes_for(filled);
            let total: usize = sizes.iter().sum();
            assert!(total >= filled && total <= filled + filled / 7 + 128 * kib, "{filled}: {sizes:?}");
        }
    }
}

//! Putting sealed chunks together into packs of at most eight sizes.

use super::cells::Outboard;
use super::layout::{
    ENTRY_BYTES, HEADER_BYTES, PackEntry, TRAILER_BYTES, header, trailer_plain, write_entry,
};
use crate::base::{ChunkId, Epoch, PackId, limit};
use crate::crypto::{Codec, Kind, OVERHEAD_BYTES, Salt, SealError, VaultKeys, seal_blob};

/// Bytes of a pack that are not chunks or directory rows.
const FIXED_BYTES: usize = HEADER_BYTES + OVERHEAD_BYTES + TRAILER_BYTES;

/// A finished pack, ready to be published.
pub struct SealedPack {
    /// BLAKE3 of `bytes`.
    pub id: PackId,
    /// The whole file; its length is one of [`limit::PACK_SIZES`].
    pub bytes: Vec<u8>,
    /// The chaining values that prove its cells.
    pub outboard: Outboard,
    /// Key generation.
    pub epoch: Epoch,
    /// What it holds, by offset.
    pub entries: Vec<PackEntry>,
}

/// Sealed chunks on their way into a pack.
pub struct PackBuilder {
    salt: Salt,
    bytes: Vec<u8>,
    entries: Vec<PackEntry>,
}

impl Default for PackBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl PackBuilder {
    /// An empty pack with a fresh salt.
    pub fn new() -> Self {
        Self::with_buffer(Vec::new())
    }

    /// An empty pack with a fresh salt that fills `buffer`, whatever was in it.
    pub fn with_buffer(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(HEADER_BYTES, 0);
        Self { salt: Salt::random(), bytes: buffer, entries: Vec::new() }
    }

    /// An empty pack with a given salt, for frozen vectors.
    #[cfg(test)]
    fn with_salt(salt: Salt) -> Self {
        Self { salt, ..Self::new() }
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
        self.bytes.len() - HEADER_BYTES + self.entries.len() * ENTRY_BYTES + FIXED_BYTES
    }

    /// Whether a sealed chunk of that length still fits a pack of `size` bytes.
    pub fn fits(&self, sealed_length: usize, size: usize) -> bool {
        self.filled() + sealed_length + ENTRY_BYTES <= size
    }

    /// Appends a sealed chunk. The caller has asked [`PackBuilder::fits`].
    pub fn push(&mut self, kind: Kind, codec: Codec, id: ChunkId, length: u32, sealed: &[u8]) {
        let offset = u32::try_from(self.bytes.len()).expect("a pack is at most 16 MiB");
        let sealed_length = u32::try_from(sealed.len()).expect("a pack is at most 16 MiB");
        self.entries.push(PackEntry { kind, codec, id, offset, sealed_length, length });
        self.bytes.extend_from_slice(sealed);
    }

    /// The chunks put in so far, with their sealed bytes, in order.
    pub fn chunks(&self) -> impl Iterator<Item = (&PackEntry, &[u8])> {
        self.entries.iter().map(|entry| {
            let start = entry.offset as usize;
            (entry, &self.bytes[start..start + entry.sealed_length as usize])
        })
    }

    /// Seals directory and trailer, pads to the next size class, and hashes.
    pub fn finish(mut self, keys: &VaultKeys) -> Result<SealedPack, SealError> {
        let filled = self.filled();
        let size =
            *limit::PACK_SIZES.iter().find(|size| **size >= filled).ok_or(SealError::TooLong(filled))?;
        let epoch = keys.newest_epoch();
        self.bytes[..HEADER_BYTES].copy_from_slice(&header(epoch, &self.salt));
        let offset = self.bytes.len();
        self.bytes.reserve_exact(size - offset);
        let mut directory = Vec::with_capacity(size - offset);
        for entry in &self.entries {
            write_entry(entry, &mut directory);
        }
        directory.resize(size - offset - TRAILER_BYTES - OVERHEAD_BYTES, 0);
        seal_blob(keys, epoch, &self.salt, Kind::Directory, self.salt.0, &directory, &mut self.bytes)?;
        let length = self.bytes.len() - offset;
        let number = |n: usize| u32::try_from(n).expect("a pack is at most 16 MiB");
        let plain = trailer_plain(number(offset), number(length), number(self.entries.len()));
        seal_blob(keys, epoch, &self.salt, Kind::Trailer, self.salt.0, &plain, &mut self.bytes)?;
        let (id, outboard) = Outboard::of(&self.bytes);
        Ok(SealedPack { id, bytes: self.bytes, outboard, epoch, entries: self.entries })
    }
}

/// Sizes of the packs into which `filled` bytes of left-over chunks go, so that padding stays within a quarter:
/// the largest class that would be at least three quarters full, else one class below, and so on.
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
        if at == 0 || filled * 4 >= size * 3 {
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
        let mut builder = PackBuilder::new();
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
            prop_assert!(limit::PACK_SIZES.contains(&pack.bytes.len()));
            prop_assert_eq!(PackId::new(*blake3::hash(&pack.bytes).as_bytes()), pack.id);
            let (epoch, entries) = read_pack(&keys, &pack.bytes).unwrap();
            prop_assert_eq!(&entries, &pack.entries);
            let mut opener = Opener::new();
            for (entry, text) in entries.iter().zip(&texts) {
                let start = entry.offset as usize;
                let sealed = &pack.bytes[start..start + entry.sealed_length as usize];
                prop_assert_eq!(opener.open(&keys, &entry.subject(epoch), sealed).unwrap(), text.as_slice());
            }
        }
    }

    /// Frozen: a whole pack with two stored chunks, the file beside it, and the proof of its first cell.
    #[test]
    fn pack_matches_its_frozen_bytes() {
        let keys = Phrase::example().root().vault_keys(Epoch(0));
        let mut builder = PackBuilder::with_salt(Salt([4; 32]));
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
        frozen("pack.bin", &pack.bytes);
    }

    /// Each byte outside the sealed chunks matters: none can change without the pack being refused.
    #[test]
    fn every_flipped_byte_outside_the_chunks_and_every_truncation_is_refused() {
        let keys = Phrase::generate().root().vault_keys(Epoch(0));
        let pack = build(&keys, &[b"one".to_vec(), b"two".to_vec()]);
        let chunks_end = pack.entries.iter().map(|e| (e.offset + e.sealed_length) as usize).max().unwrap();
        let mut bytes = pack.bytes.clone();
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
        assert!(matches!(read_pack(&other, &pack.bytes), Err(PackError::Sealed(_))));
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
    fn left_overs_are_padded_by_at_most_a_quarter() {
        let kib = limit::KIB;
        assert_eq!(pack_sizes_for(0), Vec::<usize>::new());
        assert_eq!(pack_sizes_for(1), [128 * kib]);
        assert_eq!(pack_sizes_for(9 << 20), [8 << 20, 1 << 20]);
        assert_eq!(pack_sizes_for(13 << 20), [16 << 20]);
        for filled in (1..40 << 20).step_by(77_777) {
            let sizes = pack_sizes_for(filled);
            let total: usize = sizes.iter().sum();
            assert!(total >= filled && total <= filled + filled / 3 + 128 * kib, "{filled}: {sizes:?}");
        }
    }
}

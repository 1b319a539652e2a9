//! Rows of the index: what redb holds, as bytes and as values.

use serde::{Deserialize, Serialize};

use crate::base::{Epoch, PackId};
use crate::crypto::{Codec, Kind};
use crate::pack::PackEntry;

/// First byte of every bincode value.
const ROW_FORMAT: u8 = 1;

/// A pack's number in this store's index: four bytes in each chunk row instead of 32.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PackNumber(pub u32);

/// Where a chunk lies.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ChunkPlace {
    /// In which pack.
    pub pack: PackNumber,
    /// Of the sealed chunk, from the start of the pack, in bytes.
    pub offset: u32,
    /// Of the sealed chunk, in bytes.
    pub sealed_length: u32,
    /// Of the plaintext, in bytes.
    pub length: u32,
    /// Data or tree.
    pub kind: Kind,
    /// Encoding of the payload.
    pub codec: Codec,
}

/// Length of a chunk row's value.
pub(super) const PLACE_BYTES: usize = 17;

impl ChunkPlace {
    pub(super) fn of(pack: PackNumber, entry: &PackEntry) -> Self {
        Self {
            pack,
            offset: entry.offset,
            sealed_length: entry.sealed_length,
            length: entry.length,
            kind: entry.kind,
            codec: entry.codec,
        }
    }

    pub(super) fn encode(&self) -> [u8; PLACE_BYTES] {
        let mut out = [0u8; PLACE_BYTES];
        for (at, number) in [self.pack.0, self.offset, self.sealed_length, self.length].iter().enumerate() {
            out[at * 4..at * 4 + 4].copy_from_slice(&number.to_le_bytes());
        }
        out[16] = self.kind as u8 | (self.codec as u8) << 4;
        out
    }

    /// `None` when the row is damaged.
    pub(super) fn decode(bytes: &[u8; PLACE_BYTES]) -> Option<Self> {
        let (numbers, _) = bytes.as_chunks::<4>();
        let number = |at: usize| u32::from_le_bytes(numbers[at]);
        Some(Self {
            pack: PackNumber(number(0)),
            offset: number(1),
            sealed_length: number(2),
            length: number(3),
            kind: Kind::of_chunk(bytes[16] & 15)?,
            codec: Codec::of(bytes[16] >> 4)?,
        })
    }
}

/// What the index knows of a pack.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct PackRow {
    /// Its id.
    pub id: PackId,
    /// Its number here.
    pub number: PackNumber,
    /// Its length in bytes.
    pub bytes: u64,
    /// Key generation (own packs).
    pub epoch: Epoch,
    /// Of this node's vault; else kept for another.
    pub own: bool,
}

#[derive(Serialize, Deserialize)]
struct PackRowRaw {
    id: [u8; 32],
    bytes: u64,
    epoch: u32,
    own: bool,
}

impl PackRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        encode(&PackRowRaw { id: *self.id.as_bytes(), bytes: self.bytes, epoch: self.epoch.0, own: self.own })
    }

    pub(super) fn decode(number: PackNumber, bytes: &[u8]) -> Option<Self> {
        let raw: PackRowRaw = decode(bytes)?;
        Some(Self {
            id: PackId::new(raw.id),
            number,
            bytes: raw.bytes,
            epoch: Epoch(raw.epoch),
            own: raw.own,
        })
    }
}

/// What the index knows of a pack that waits to be deleted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct RetiredRow {
    /// Since when, in milliseconds.
    pub(super) since_ms: u64,
    /// No head of this device lists it.
    pub(super) unlisted: bool,
    /// Numbers of the packs that have its live chunks now.
    pub(super) successors: Vec<u32>,
}

impl RetiredRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes)
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = vec![ROW_FORMAT];
    bincode::serde::encode_into_std_write(value, &mut out, bincode::config::standard())
        .expect("writing to memory does not fail");
    out
}

/// `None` unless the format is known and every byte is used.
fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Option<T> {
    let (format, rest) = bytes.split_first()?;
    let config = bincode::config::standard().with_limit::<4096>();
    let (value, used) = bincode::serde::decode_from_slice(rest, config).ok()?;
    (*format == ROW_FORMAT && used == rest.len()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_match_their_frozen_bytes() {
        let row = PackRow {
            id: PackId::new([1; 32]),
            number: PackNumber(5),
            bytes: 16 << 20,
            epoch: Epoch(2),
            own: true,
        };
        let place = ChunkPlace {
            pack: PackNumber(70_000),
            offset: 48,
            sealed_length: 1000,
            length: 65_536,
            kind: Kind::Tree,
            codec: Codec::Zstd,
        };
        let text = format!("{}\n{}\n", hex::encode(row.encode()), hex::encode(place.encode()));
        crate::base::frozen("rows.txt", text.as_bytes());
        assert_eq!(PackRow::decode(row.number, &row.encode()), Some(row));
        assert_eq!(ChunkPlace::decode(&place.encode()), Some(place));
        let longer = [row.encode(), vec![0]].concat();
        assert_eq!(PackRow::decode(row.number, &longer), None);
        assert_eq!(PackRow::decode(row.number, &[2]), None);
    }
}
